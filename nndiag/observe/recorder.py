"""Records one training step as a tape.

Module calls are seen by hooks; in eager programs that can be surrounded, also the torch operations between
them. A tensor is recognized by identity and version, else as a strided view of a known one: after ``h += 1``
the same object holds another value.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from nndiag import compat
from nndiag.guard import FunctionHooks, Hook, hooked
from nndiag.layers import strip_wrappers
from nndiag.observe.tape import Context, Leaf, Operation, StridedView, Tape
from nndiag.observe.values import Refusal, Refused, Slot, leaves, map_leaves, slots

_RANDOM = frozenset(
    [
        "randn",
        "rand",
        "randint",
        "randperm",
        "normal",
        "bernoulli",
        "multinomial",
        "randn_like",
        "rand_like",
        "randint_like",
    ]
)
_ESCAPES = frozenset(
    ["item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__"]
)


class Ledger:
    """Which slot holds which tensor of the step."""

    def __init__(self, root: nn.Module, tape: Tape) -> None:
        self.tape = tape
        self.derived: set[int] = set()
        self._count = 0
        self._by_id: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._by_storage: dict[int, list[int]] = defaultdict(list)
        self._alias: dict[int, list[Any]] = {}
        self._owned = {
            id(tensor): (owner, key)
            for module in root.modules()
            for owner in (module._parameters, module._buffers)
            for key, tensor in owner.items()
            if tensor is not None
        }

    def add(self, tensor: Tensor) -> int:
        """A new slot for a tensor."""
        number, self._count = self._count, self._count + 1
        self._by_id[id(tensor)] = (weakref.ref(tensor), number)
        self._alias[number] = [tensor.detach(), tensor._version]
        if tensor.layout == torch.strided:
            self._by_storage[tensor.untyped_storage()._cdata].append(number)
        return number

    def known(self, tensor: Tensor) -> int | None:
        """The slot of this very object."""
        entry = self._by_id.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def find(self, tensor: Tensor, *, copy: bool) -> Slot:
        """The slot of an input: known, a parameter, a view of a known one, or data of the step.

        Args:
            tensor: The input.
            copy: Whether to copy data at once (a model may write its input); else when the tape is settled.
        """
        number = self.known(tensor)
        if number is not None and self._alias[number][0]._version == self._alias[number][1]:
            return Slot(number)
        if id(tensor) in self._owned:
            live = self.add(tensor)
            self.tape.live[live] = self._owned[id(tensor)]
            return Slot(live)
        view = self._view(tensor)
        if view is not None:
            return view
        leaf = self.add(tensor)
        value = tensor.detach().clone() if copy else tensor.detach()
        is_stale = tensor.grad_fn is not None or number is not None
        wants_grad = tensor.requires_grad and tensor.grad_fn is None
        self.tape.leaves[leaf] = Leaf(value, None if copy else tensor._version, wants_grad, is_stale)
        return Slot(leaf)

    def _view(self, tensor: Tensor) -> Slot | None:
        if tensor.layout != torch.strided:
            return None
        for base in reversed(self._by_storage.get(tensor.untyped_storage()._cdata, ())):
            alias, version = self._alias[base]
            unchanged = alias._version == version == tensor._version
            if unchanged and tensor.dtype == alias.dtype and base not in self.tape.live:
                number = self.add(tensor)
                offset = tensor.storage_offset() - alias.storage_offset()
                self.tape.views[number] = StridedView(base, tuple(tensor.size()), tensor.stride(), offset)
                if base in self.derived:
                    self.derived.add(number)
                return Slot(number)
        return None

    def writes(self, tensors: Sequence[Tensor]) -> set[int]:
        """Slots whose tensors were written since they were last looked at."""
        written = {
            number
            for tensor in tensors
            if tensor.layout == torch.strided
            for number in self._by_storage.get(tensor.untyped_storage()._cdata, ())
            if self._alias[number][0]._version != self._alias[number][1]
        }
        for number in written:
            self._alias[number][1] = self._alias[number][0]._version
        return written

    def outputs(self, value: Any) -> Any:
        """The recorded form of an output."""

        def slot(tensor: Tensor) -> Slot:
            number = self.known(tensor)
            return Slot(self.add(tensor) if number is None else number)

        return map_leaves(slot, value)

    def add_data(self, value: Any, written: set[int]) -> None:
        """Preprocessing and noise are data of the step: their value is kept, not how they were made."""
        for number in written & self.tape.leaves.keys():
            leaf = self.tape.leaves[number]
            if leaf.version is not None:
                leaf.version = leaf.value._version
                continue
            for key, entry in list(self._by_id.items()):
                if entry[1] == number:
                    del self._by_id[key]
        for tensor in leaves(value):
            if self.known(tensor) is None:
                self.tape.leaves[self.add(tensor)] = Leaf(tensor.detach(), tensor._version, False, False)


class Recorder:
    """Hooks for one training batch that end in a tape.

    Args:
        root: The model.
    """

    def __init__(self, root: nn.Module) -> None:
        self.tape = Tape(root)
        self.refusal: Refusal | None = None
        self._ledger = Ledger(root, self.tape)
        self._names = {id(module): strip_wrappers(name) for name, module in root.named_modules()}
        self._is_on = False
        self._stack: list[tuple[nn.Module, _Pending | None]] = []
        self._undo: list[Callable[[], None]] = []
        self._window = contextlib.ExitStack()

    def arm(self) -> None:
        """Registers the hooks."""
        root = self.tape.root
        before, after = Hook(self._before, self._fail), Hook(self._after, self._fail)
        inside = {
            id(inner)
            for module in root.modules()
            if compat.is_compiled_module(module)
            for inner in module.modules()
            if inner is not module
        }
        for module in root.modules():
            if id(module) in inside or isinstance(module, torch.jit.ScriptModule):
                continue
            if module.__dict__.get("_compiled_call_impl") is not None:
                self._undo.append(_wrap_compiled(module, before, after))
                continue
            self._undo.append(module.register_forward_pre_hook(before, with_kwargs=True, prepend=True).remove)
            self._undo.append(module.register_forward_hook(after, with_kwargs=True, always_call=True).remove)

    def open(self, glue: bool) -> None:
        """Switches recording on; with ``glue`` also of what happens between module calls.

        Glue is recorded around eager forward passes only, and pauses while an optimizer steps.
        """
        if self._is_on:
            return
        if glue:
            self._record_glue()
        self._is_on = True

    def _record_glue(self) -> None:
        def pause(*_: Any) -> None:
            self._is_on = False

        def resume(*_: Any) -> None:
            self._is_on = True

        self._window.callback(register_optimizer_step_pre_hook(pause).remove)
        self._window.callback(register_optimizer_step_post_hook(resume).remove)
        self._window.enter_context(FunctionHooks(self._before_glue, self._after_glue, self._fail))

    def close(self) -> None:
        """Switches recording off."""
        self._is_on = False
        self._stack.clear()
        self._window.close()

    def disarm(self) -> Tape:
        """Removes every hook and settles the tape; idempotent."""
        self.close()
        while self._undo:
            self._undo.pop()()
        self.tape.cut()
        for leaf in self.tape.leaves.values():
            if leaf.version is not None:
                leaf.is_stale |= leaf.value._version != leaf.version
                leaf.value, leaf.version = leaf.value.clone(), None
        if not self.tape.calls and self.refusal is None:
            reason = "nothing called a module of this model in the recorded step"
            if compat.compile_backend_in_use():
                reason += " outside compiled code: give nndiag the model that torch.compile returns"
            self.refusal = Refusal("no-call", reason)
        return self.tape

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._is_on or torch.compiler.is_compiling() or compat.is_in_backward():
            return
        self._stack.append((module, None))
        if len(self._stack) == 1:
            self._stack[0] = (module, self._begin(module, args, kwargs))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Pending | None:
        name = self._names.get(id(module), type(module).__name__)
        tensors = leaves((args, kwargs))
        if compat.is_metric(module):
            self.tape.notes.add(f"{name} is a metric: not replayed")
            return None
        if any(compat.is_functorch_wrapped(tensor) for tensor in tensors):
            self.tape.notes.add(f"{name} runs under a functorch transform: not replayed")
            return None
        with torch.no_grad(), torch._C.DisableTorchFunction():
            inputs = map_leaves(lambda t: self._ledger.find(t, copy=True), (args, dict(kwargs)))
        return _Pending(name, inputs, tensors, _context(tensors), compat.collective_sequence_number())

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not self._stack or self._stack[-1][0] is not module:
            return
        _, pending = self._stack.pop()
        if not self._stack and pending is not None:
            self._end(module, pending, output)

    def _end(self, module: nn.Module, pending: _Pending, output: Any) -> None:
        if pending.sequence != compat.collective_sequence_number():
            raise Refused("collective-in-forward", f"{pending.name} talks to other processes")
        with torch._C.DisableTorchFunction():
            writes = self._ledger.writes(pending.tensors)
            try:
                outputs = self._ledger.outputs(output)
            except Refused as refused:
                code = refused.refusal.code.replace("argument", "output")
                raise Refused(code, refused.refusal.reason) from refused
        self._ledger.derived |= slots(outputs) | writes
        self.tape.operations.append(
            Operation("call", pending.name, module, pending.inputs, outputs, writes, pending.context)
        )

    def _fail(self, error: Exception) -> None:
        """A recorder's fault is a refusal, never the user's error."""
        if isinstance(error, Refused):
            self.refusal = self.refusal or error.refusal
        else:
            reason = f"recording failed: {type(error).__name__}: {error}"[:200]
            self.refusal = self.refusal or Refusal("replay-raised", reason)

    def _before_glue(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Glue | None:
        """The inputs of an operation that lies between module calls."""
        name = getattr(target, "__name__", "")
        if not self._is_on or self._stack or name == "backward" or compat.is_in_backward():
            return None
        try:
            tensors = leaves((args, kwargs))
            inputs = map_leaves(lambda t: self._ledger.find(t, copy=False), (args, dict(kwargs)))
        except Exception:  # what cannot be recorded is run; a call that needs its result will be stale
            return None
        return _Glue(name, target, tensors, inputs)

    def _after_glue(self, glue: _Glue, output: Any) -> None:
        with contextlib.suppress(Exception):
            self._record(glue.name, glue.target, glue.tensors, glue.inputs, output)

    def _record(
        self, name: str, target: Callable[..., Any], tensors: list[Tensor], inputs: Any, output: Any
    ) -> None:
        ledger, sources = self._ledger, slots(inputs)
        written = ledger.writes(tensors)
        if name in _ESCAPES and sources & ledger.derived:
            self.tape.notes.add(f"a value computed by the model leaves torch through {name}()")
        from_model = sources & (ledger.derived | self.tape.live.keys())
        if (name in _RANDOM or not from_model) and not written & ledger.derived:
            ledger.add_data(output, written)
            return
        outputs = ledger.outputs(output)
        ledger.derived |= slots(outputs) | written
        operation = Operation("glue", name, target, inputs, outputs, written, _context(tensors))
        self.tape.operations.append(operation)


@dataclass
class _Pending:
    """A call that has begun."""

    name: str
    inputs: Any
    tensors: list[Tensor]
    context: Context
    sequence: int


class _Glue(NamedTuple):
    """An operation between module calls that has begun."""

    name: str
    target: Callable[..., Any]
    tensors: list[Tensor]
    inputs: Any


def _wrap_compiled(module: nn.Module, before: Hook, after: Hook) -> Callable[[], None]:
    """``module.compile()`` traces hooks: the call is recorded around the compiled region instead."""
    inner = module.__dict__["_compiled_call_impl"]
    module.__dict__["_compiled_call_impl"] = hooked(inner, module, before, after)

    def undo() -> None:
        module.__dict__["_compiled_call_impl"] = inner

    return undo


def _context(tensors: Sequence[Tensor]) -> Context:
    device = tensors[0].device.type if tensors else "cpu"
    return Context(
        device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), torch.get_default_dtype()
    )
