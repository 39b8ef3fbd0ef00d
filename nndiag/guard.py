"""No fault of nndiag's reaches the run it watches.

Every entry from a training run into nndiag goes through a ``Guard``. A fault there is swallowed, counted
against the feature it happened in, and said once; after ``LIMIT`` faults the feature is off for the rest of
the run, the others go on. ``KeyboardInterrupt`` and ``SystemExit`` are not faults: they pass.

This file is all that runs unguarded inside the user's calls; it is kept small for that reason.
"""

from __future__ import annotations

import functools
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import torch
from torch.overrides import TorchFunctionMode

P = ParamSpec("P")
S = TypeVar("S", bound="Guarded")

LIMIT = 3
"""Faults of one feature before it is switched off."""

_log = logging.getLogger("nndiag")


class Guard:
    """Counts the faults of each feature of one monitor."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.faults: dict[str, int] = {}
        self.causes: dict[str, str] = {}

    def allows(self, feature: str) -> bool:
        """Whether a feature is still on."""
        return self.faults.get(feature, 0) < LIMIT

    def call(
        self,
        feature: str,
        function: Callable[..., Any],
        *args: Any,
        lets_out: tuple[type[Exception], ...] = (),
        **kwargs: Any,
    ) -> Any:
        """Runs ``function`` unless its feature is off; its result, or None after a fault.

        Raises:
            Exception: whatever the function raised, if the guard is strict or told to let it out.
        """
        if not self.allows(feature):
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if self.strict or isinstance(error, lets_out):
                raise
            self.report(feature, error)
            return None

    def clean_up(self, feature: str, function: Callable[[], None]) -> None:
        """Runs ``function`` even when its feature is off: what was put into the run must come out again."""
        try:
            insist(function)
        except Exception as error:
            self.report(feature, error)

    def surround(
        self,
        feature: str,
        target: Callable[..., Any],
        before: Callable[[], None],
        after: Callable[[], None],
    ) -> Callable[..., Any]:
        """The user's ``target`` with something of nndiag's ahead of it and behind it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.call(feature, before)
            try:
                return target(*args, **kwargs)
            finally:
                self.clean_up(feature, after)

        return call

    def report(self, feature: str, error: Exception) -> None:
        """Counts a fault; the first one of a feature is logged."""
        try:
            count = self.faults[feature] = self.faults.get(feature, 0) + 1
            if count > 1:
                return
            where = traceback.extract_tb(error.__traceback__)[-1:]
            place = f" at {where[0].name}:{where[0].lineno}" if where else ""
            self.causes[feature] = _described(error) + place
            _log.warning(
                "%s failed (%s). Training is not affected; the feature is switched off if this goes on.",
                feature,
                self.causes[feature],
            )
        except Exception:  # nor must what fails in a handler of the user's log get through
            self.causes.setdefault(feature, type(error).__name__)


def _described(error: Exception) -> str:
    """Kind and text of an error, whose own ``str()`` may fail."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except Exception:
        return f"{type(error).__name__}, which cannot be described"


def insist(function: Callable[[], None]) -> None:
    """Runs what puts something back, once more if the first time raised."""
    try:
        function()
    except Exception:
        function()


OnFault = Callable[[Exception], None]

_INERT = functools.partial(sys.audit, "nndiag.inert_hook")
"""Takes anything, does nothing, returns None; a model saved with it loads where nndiag is not installed."""


class Hook:
    """A module or tensor hook that never raises, and that no copy of a model inherits.

    Args:
        function: What to call.
        on_fault: Takes what it raises.
    """

    __slots__ = ("_function", "_on_fault")

    def __init__(self, function: Callable[..., None], on_fault: OnFault) -> None:
        self._function, self._on_fault = function, on_fault

    def __call__(self, *args: Any) -> None:
        """What torch calls."""
        try:
            self._function(*args)
        except Exception as error:
            self._on_fault(error)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _INERT

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (sys.audit, *_INERT.args)


def hooked(target: Callable[..., Any], owner: object, before: Hook, after: Hook) -> Callable[..., Any]:
    """``target`` between two hooks, for a call that takes no hooks of its own."""

    def call(*args: Any, **kwargs: Any) -> Any:
        before(owner, args, kwargs)
        output = target(*args, **kwargs)
        after(owner, args, kwargs, output)
        return output

    return call


class FunctionHooks(TorchFunctionMode):
    """Hooks on every torch function.

    Args:
        before: Given the function and its arguments; what it returns is handed to ``after``, unless None.
        after: Given that and the output.
        on_fault: Takes what either raises.
    """

    def __init__(
        self, before: Callable[..., Any], after: Callable[[Any, Any], None], on_fault: OnFault
    ) -> None:
        super().__init__()
        self._before, self._after, self._on_fault = before, Hook(after, on_fault), on_fault

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, call = kwargs or {}, None
        try:
            call = self._before(func, args, kwargs)
        except Exception as error:
            self._on_fault(error)
        output = func(*args, **kwargs)
        if call is not None:
            self._after(call, output)
        return output


class Guarded(Protocol):
    """Anything that owns a guard and can let go of the run."""

    guard: Guard
    """Counts this object's faults."""

    def release(self) -> None:
        """Takes everything out of the run; idempotent."""


def guarded(
    feature: str,
    *,
    begins: bool = False,
    ends: bool = False,
    lets_out: tuple[type[Exception], ...] = (),
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """Marks a method as an entry from the run: it takes what it is given, never raises, returns None.

    Args:
        feature: To which its faults are counted.
        begins: Whether a run begins here: the faults of an earlier one are forgiven.
        ends: Whether it takes things out of the run: it is always called, and does not raise even when the
            guard is strict, which would hide the error that ended the run.
        lets_out: Errors that are the user's to hear.
    """

    def decorate(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        @functools.wraps(method)
        def entry(self: S, *args: Any, **kwargs: Any) -> None:
            if torch.compiler.is_compiling():
                return  # a compiled optimizer step traces its hooks: nndiag would become a part of it
            if ends:
                self.guard.clean_up(feature, functools.partial(method, self, *args, **kwargs))
                return
            if begins:
                self.guard = Guard(self.guard.strict)
            if not self.guard.allows(feature):
                return
            self.guard.call(feature, method, self, *args, lets_out=lets_out, **kwargs)
            if not self.guard.allows(feature):
                self.guard.clean_up(feature, self.release)

        entry.guarded_feature = feature  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[S, P], None]", entry)

    return decorate
