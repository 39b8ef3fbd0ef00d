"""Copy on write: a replay may write what it likes, and nothing of it remains.

Comparing before and after is not enough: ``weight.clamp_()`` in a forward pass changes nothing right after the
training step's own, and changes weights at the next visit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class WriteBarrier(TorchDispatchMode):
    """Before an operation writes memory that this replay did not allocate, keeps a copy of it.

    Which arguments an operation writes is read off its schema.
    """

    _written: ClassVar[dict[Any, list[tuple[int, str]]]] = {}

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own: set[int] = set()
        self._saved: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        writes = self._writes(func)
        for position, name in writes:
            value = args[position] if position < len(args) else kwargs.get(name)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor):
                    self._save(tensor)
        output = func(*args, **kwargs)
        schema = getattr(func, "_schema", None)
        if schema is not None and not writes and not any(result.alias_info for result in schema.returns):
            for tensor in output if isinstance(output, (list, tuple)) else (output,):
                if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                    self._own.add(tensor.untyped_storage()._cdata)
        return output

    @property
    def written(self) -> Collection[int]:
        """The memory that was written and is not this replay's own."""
        return self._saved.keys()

    def undo(self) -> None:
        """Puts every saved memory back; no version counter moves."""
        for storage, copy in self._saved.values():
            if storage.nbytes() == copy.nbytes():
                storage.copy_(copy)

    def _writes(self, func: Any) -> list[tuple[int, str]]:
        if func not in self._written:
            schema = getattr(func, "_schema", None)
            self._written[func] = [
                (position, argument.name)
                for position, argument in enumerate(schema.arguments if schema is not None else ())
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
        return self._written[func]

    def _save(self, tensor: Tensor) -> None:
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own and storage._cdata not in self._saved:
            self._saved[storage._cdata] = (storage, storage.clone())
