"""What a pickle of PyTorch may ask for, done here by our own means; everything else is a stub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nndiag.checkpoints.tensors import STORAGES, Stored, checked_shape, unread
from nndiag.errors import CheckpointError

_LONGEST_KEY = 16


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle mentions; it is never looked up."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Stub:
    """Stands for an object of a foreign class: it has a name and nothing else."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes that tensors of a file lie in.

    Attributes:
        kind: Class of the storage ("FloatStorage"); "UntypedStorage" has bytes without a number format.
        key: What the file calls it.
        numel: Entries it says it has.
        start: Entries of the file's storage before the first, where this is a view.
    """

    kind: str
    key: str
    numel: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as a pickle describes it, its shape checked, its bytes not looked at.

    Attributes:
        storage: Where its numbers are.
        offset: Its first entry in the storage.
        shape: Its shape.
        strides: As they came.
        dtype: Number format by name where the storage has none.
    """

    storage: Storage
    offset: Any
    shape: tuple[int, ...]
    strides: Any
    dtype: str | None = None


Charge = Callable[[int], None]


def as_key(value: Any) -> Any:
    """A key of a dict: itself where it is plain; a stub where hashing or comparing it could run away."""
    if isinstance(value, tuple):
        is_plain = len(value) <= _LONGEST_KEY and all(_is_plain(item) for item in value)
        return value if is_plain else Stub("tuple")
    return value if _is_plain(value) or isinstance(value, (Stub, Global)) else Stub(type(value).__name__)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes, int, float))


def build(function: Any, args: Any, charge: Charge) -> Any:
    """What calling ``function`` would give, for the few names that are known; a stub for all others.

    Args:
        function: What a pickle wants called.
        args: With what.
        charge: Counts work that grows with the arguments.
    """
    if not isinstance(function, Global):
        return Stub(function.name if isinstance(function, Stub) else type(function).__name__)
    action = _KNOWN.get(function.name)
    if action is None:
        return Stub(function.name)
    if not isinstance(args, tuple):
        raise CheckpointError("is damaged: its pickle makes no sense")
    charge(sum(len(arg) for arg in args if isinstance(arg, (list, tuple, dict, set, frozenset, str, bytes))))
    return action(*args)


def _dict(*args: Any) -> dict[Any, Any]:
    """From nothing, a dict, or pairs; a factory for missing values is passed over."""
    source = next((arg for arg in args if isinstance(arg, (dict, list))), ())
    if isinstance(source, dict):
        return dict(source)
    return {as_key(key): value for key, value in source}


def _set(*args: Any) -> set[Any]:
    return {as_key(item) for arg in args if isinstance(arg, (list, tuple, set, frozenset)) for item in arg}


def _list(*args: Any) -> list[Any]:
    return [item for arg in args if isinstance(arg, (list, tuple, set, frozenset)) for item in arg]


def _encode(text: Any = "", codec: Any = "", *rest: Any) -> Any:
    """Bytes as the second protocol writes them."""
    is_known = isinstance(text, str) and codec in ("latin1", "latin-1")
    return text.encode("latin-1", "replace") if is_known else Stub("_codecs.encode")


def _tensor(
    storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None, *rest: Any
) -> Any:
    if not isinstance(storage, Storage):
        return unread("unknown", "a tensor whose storage is of a foreign kind", shape)
    return TensorRef(storage, offset, checked_shape(shape), strides)


def _tensor_v3(*args: Any) -> Any:
    """``_rebuild_tensor_v3``: storage, offset, size, stride, requires_grad, hooks, dtype."""
    found = _tensor(*args[:4])
    dtype = args[6] if len(args) > 6 else None
    if not isinstance(found, TensorRef) or not isinstance(dtype, Global):
        return unread("unknown", "a tensor of an unknown number format")
    return TensorRef(found.storage, found.offset, found.shape, found.strides, _dtype_name(dtype))


def _parameter(data: Any = None, *rest: Any) -> Any:
    return data


def _quantized(storage: Any = None, offset: Any = None, shape: Any = None, *rest: Any) -> Stored:
    kind = storage.kind if isinstance(storage, Storage) else "unknown"
    return unread(kind, "quantized tensor", shape)


def _sparse(layout: Any = None, data: Any = None, *rest: Any) -> Stored:
    parts = data if isinstance(data, tuple) else ()
    shape = next((part for part in parts if isinstance(part, tuple)), ())
    return unread("sparse", "sparse or opaque layout", shape)


def _meta(dtype: Any = None, shape: Any = None, *rest: Any) -> Stored:
    return unread(_dtype_name(dtype), "meta tensor without data", shape)


def _foreign(problem: str) -> Callable[..., Stored]:
    return lambda *args: unread("unknown", problem)


def _subclass(function: Any = None, kind: Any = None, args: Any = (), *rest: Any) -> Any:
    """A tensor of a subclass: read where its numbers lie in a plain tensor."""
    name = kind.name if isinstance(kind, Global) else "unknown"
    if isinstance(function, Global) and isinstance(args, tuple) and name in _PLAIN_KINDS:
        action = _TENSORS.get(function.name)
        if action is not None:
            return action(*args)
    return unread("unknown", f"tensor subclass {name.rpartition('.')[2][:80]}")


def _dtype_name(dtype: Any) -> str:
    return dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else "unknown"


_PLAIN_KINDS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_TENSORS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_nested_tensor": _foreign("nested tensor"),
    "torch._utils._rebuild_wrapper_subclass": _foreign("tensor subclass"),
    "torch._utils._rebuild_device_tensor_from_numpy": _foreign("a tensor of a device that is not known"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _foreign("a tensor of a device that is not known"),
    "torch._utils._rebuild_xla_tensor": _foreign("a tensor of a device that is not known"),
}
_KNOWN: Mapping[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": lambda *args: tuple(_list(*args)),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _dict,
    "collections.Counter": _dict,
    "_codecs.encode": _encode,
    **{
        f"{module}.{name}": action
        for module in ("builtins", "__builtin__")
        for name, action in (("dict", _dict), ("set", _set), ("frozenset", _set), ("list", _list))
    },
}


def storage_dtype(storage: Storage, named: str | None) -> str:
    """The number format of a tensor in a storage, by name."""
    if named is not None:
        return named
    found = STORAGES.get(storage.kind)
    return storage.kind if found is None else str(found).removeprefix("torch.")
