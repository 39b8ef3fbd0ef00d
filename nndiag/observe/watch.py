"""The one mechanism that sees module calls and functional operations, each with its place in the model."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from nndiag import compat
from nndiag.functional import ELEMENTWISE
from nndiag.guard import FunctionHooks, Hook, OnFault, insist
from nndiag.layers import named_layers

FUNCTIONS = ELEMENTWISE | frozenset(
    [
        "softmax",
        "log_softmax",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_alpha_dropout",
        "layer_norm",
        "batch_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "scaled_dot_product_attention",
        "multi_head_attention_forward",
    ]
)
"""Canonical names of the functional operations that are calls of their own."""

_OTHER_NAMES = {"log_sigmoid": "logsigmoid", "hard_sigmoid": "hardsigmoid", "_safe_softmax": "softmax"}
_GLUE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer)
_FAST_PATHS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One module call or functional operation.

    Attributes:
        key: ``blocks.0.act``, or ``blocks.0:relu``; ``#1`` is appended for the second call in a pass.
        owner: Qualified name of the module that is, or contains, the call; wrapper prefixes stripped.
        module: The module called; None for a functional operation.
        function: Canonical name ("relu" for F.relu, torch.relu, Tensor.relu_); None for a module.
        args: Positional arguments.
        kwargs: Keyword arguments.
        target: What is called.
    """

    key: str
    owner: str
    module: nn.Module | None
    function: str | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Callable[..., Any]


class Listener(Protocol):
    """Told of each call, before it runs and after. It is run without gradients, autocast or modes."""

    def before(self, call: Call) -> None:
        """The call is about to run: an in-place operation has not yet overwritten its input."""

    def after(self, call: Call, output: Any) -> None:
        """The call has returned ``output``."""


class _Frame(NamedTuple):
    name: str
    module: nn.Module
    call: Call | None


class Watch(contextlib.ExitStack):
    """Tells a listener of every call below ``root`` while it is entered. Leaves nothing behind.

    Args:
        root: The model.
        listener: Who is told.
        functions: Whether functional operations are seen.
        on_fault: Takes what a listener raises; None lets it propagate.
        lexical: Whether the whole ``with`` block is watched (a replay). Otherwise hooks live in a training
            loop: functional operations are seen during outermost module calls only, and nothing that is
            compiled, recomputed in backward, run without gradients, or able to take a fused fast path is
            touched.
    """

    def __init__(
        self,
        root: nn.Module,
        listener: Listener,
        *,
        functions: bool = True,
        on_fault: OnFault | None = None,
        lexical: bool = True,
    ) -> None:
        super().__init__()
        self._root, self._listener, self._lexical = root, listener, lexical
        self._on_fault = on_fault or _propagate
        self._functions = functions and (lexical or not _must_not_be_surrounded(root))
        self._frames: list[_Frame] = []
        self._counts: Counter[str] = Counter()
        self._mode = FunctionHooks(self._before_function, self._after_function, self._on_fault)
        self._is_entered = False

    def __enter__(self) -> Self:
        """Registers the hooks; leaving removes them, also after an exception."""
        self.callback(insist, self._leave_mode)
        for name, module in self._hookable():
            before, after = Hook(self._pre(name), self._on_fault), Hook(self._post(name), self._on_fault)
            self.callback(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove)
            self.callback(module.register_forward_hook(after, with_kwargs=True, always_call=True).remove)
        if self._lexical and self._functions:
            self._enter_mode()
        return self

    def _hookable(self) -> Iterator[tuple[str, nn.Module]]:
        barred: set[int] = set()
        if not self._lexical:
            for module in self._root.modules():
                if compat.is_compiled_module(module) or _takes_fast_path(module):
                    barred |= {id(inner) for inner in module.modules()}
        for name, module in named_layers(self._root):
            if id(module) not in barred:
                barred.add(id(module))  # a module that goes by several names is hooked once
                yield name, module

    def _pre(self, name: str) -> Callable[..., None]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_blind():
                return
            call, is_outermost = None, not self._frames
            if self._sees(args):
                call = Call(self._key(name), name, module, None, args, kwargs, module)
            self._frames.append(_Frame(name, module, call))
            if call is not None:
                if is_outermost and self._functions and not self._lexical:
                    self._enter_mode()
                self._tell(self._listener.before, call)

        return before

    def _post(self, name: str) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._is_blind() or not any(frame.module is module for frame in self._frames):
                return
            frame = self._frames.pop()
            while frame.module is not module:  # an exception below left frames behind
                frame = self._frames.pop()
            if not self._lexical and not self._frames:
                self._leave_mode()
            if frame.call is not None:
                self._tell(self._listener.after, frame.call, output)

        return after

    def _is_blind(self) -> bool:
        """While a graph is traced, and in recomputation: there the stack of modes is another one."""
        return torch.compiler.is_compiling() or (not self._lexical and compat.is_in_backward())

    def _sees(self, args: tuple[Any, ...]) -> bool:
        if self._lexical:
            return True
        if not torch.is_grad_enabled():
            return False
        return not any(isinstance(a, Tensor) and compat.is_functorch_wrapped(a) for a in args)

    def _key(self, name: str) -> str:
        self._counts[name] += 1
        count = self._counts[name] - 1
        return f"{name}#{count}" if count else name

    def _tell(self, method: Callable[..., None], *args: Any) -> None:
        with (
            torch.no_grad(),
            torch._C.DisableTorchFunction(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else torch.no_grad(),
        ):
            method(*args)

    def _enter_mode(self) -> None:
        if not self._is_entered:
            self._is_entered = True
            self._mode.__enter__()  # type: ignore[no-untyped-call]

    def _leave_mode(self) -> None:
        if self._is_entered:
            self._is_entered = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def _before_function(
        self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Call | None:
        """Tells the listener of a functional operation of the model, if it is a call of its own."""
        function = canonical_name(target)
        owner = self._frames[-1] if self._frames else None
        hidden = owner is not None and (owner.call is None or _is_library_leaf(owner.module))
        if function is None or hidden or compat.is_in_backward():
            return None
        name = owner.name if owner is not None else ""
        call = Call(self._key(f"{name}:{function}"), name, None, function, args, kwargs, target)
        self._tell(self._listener.before, call)
        return call

    def _after_function(self, call: Call, output: Any) -> None:
        self._tell(self._listener.after, call, output)


def _propagate(error: Exception) -> None:
    raise error


def canonical_name(function: Callable[..., Any]) -> str | None:
    """The canonical name of a functional operation that is a call of its own, else None."""
    name = getattr(function, "__name__", "").removesuffix("_")
    name = _OTHER_NAMES.get(name, name)
    return name if name in FUNCTIONS else None


def _is_library_leaf(module: nn.Module) -> bool:
    """Whether the inside of a module is torch's own: the module is the call."""
    return type(module).__module__.startswith("torch.nn.") and not isinstance(module, (*_GLUE, nn.Sequential))


def _takes_fast_path(module: nn.Module) -> bool:
    """A fused path for evaluation, which a hook or a mode would switch off."""
    return isinstance(module, _FAST_PATHS) and not module.__dict__.get("training", True)


def _must_not_be_surrounded(root: nn.Module) -> bool:
    return any(compat.is_compiled_module(m) or _takes_fast_path(m) for m in root.modules())
