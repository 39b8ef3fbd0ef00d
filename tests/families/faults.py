"""Faults injected into nndiag: at its guarded entries, and at any function it runs."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple

import pytest
import torch

import nndiag
from nndiag.guard import FunctionHooks, Guard, Hook

Timing = Literal["early", "late"]
"""Before the entry did anything, or after it did its work."""


class UnprintableError(Exception):
    """An error whose own description fails."""

    def __str__(self) -> str:
        raise RuntimeError("no description")


KINDS: tuple[type[Exception], ...] = (
    *(RuntimeError, MemoryError, torch.OutOfMemoryError, RecursionError, KeyError, AssertionError),
    *(ValueError, StopIteration, UnprintableError),
)

_HOME = str(Path(nndiag.__file__).parent)
_GUARD = str(Path(_HOME, "guard.py"))  # nobody guards the guard


class Entry(NamedTuple):
    """A place where a run enters nndiag."""

    feature: str
    function: str


HOOK = "a hook"
"""Stands for the feature where a hook is entered: only its owner knows which one that is."""


def marked_features() -> set[str]:
    """The features of every method marked as an entry, in every class nndiag has loaded."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "nndiag"]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    members = [member for each in classes for member in vars(each).values()]
    return {member.guarded_feature for member in members if hasattr(member, "guarded_feature")}


def watch_entries(patch: pytest.MonkeyPatch) -> dict[Entry, int]:
    """Fills with every entry that is passed, and how often."""
    seen: dict[Entry, int] = Counter()

    def noting(entry: Entry, function: Callable[..., Any], is_clean_up: bool) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            seen[entry] += 1
            return function(*args, **kwargs)

        return noted

    _wrap_entries(patch, noting)
    return seen


def inject(
    patch: pytest.MonkeyPatch,
    chosen: Collection[Entry],
    timing: Timing,
    kinds: Sequence[type[Exception]] = KINDS,
) -> dict[Entry, int]:
    """Makes every chosen entry fault, each time with the next kind of error; how often it did so, by entry."""
    injected: dict[Entry, int] = Counter()
    errors = itertools.cycle(kinds)

    def faulting(entry: Entry, function: Callable[..., Any], is_clean_up: bool) -> Callable[..., Any]:
        def faulty(*args: Any, **kwargs: Any) -> Any:
            # What takes hooks out is allowed to fail only after it did so: there is nobody behind it.
            if timing == "late" or is_clean_up:
                function(*args, **kwargs)
            injected[entry] += 1
            raise next(errors)("injected")

        return faulty if entry in chosen else function

    _wrap_entries(patch, faulting)
    return injected


Wrap = Callable[[Entry, Callable[..., Any], bool], Callable[..., Any]]


def _wrap_entries(patch: pytest.MonkeyPatch, wrap: Wrap) -> None:
    """Puts something of a test's around whatever a guard or a hook is about to run."""
    call, clean_up = Guard.call, Guard.clean_up
    make_hook, make_function_hooks = Hook.__init__, FunctionHooks.__init__

    def guard_call(self: Guard, feature: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, feature, wrap(_entry(feature, function), function, False), *args, **kwargs)

    def guard_clean_up(self: Guard, feature: str, function: Any) -> None:
        clean_up(self, feature, wrap(_entry(feature, function), function, True))

    def hook(self: Hook, function: Any, on_fault: Any) -> None:
        make_hook(self, wrap(_entry(HOOK, function), function, False), on_fault)

    def function_hooks(self: FunctionHooks, before: Any, after: Any, on_fault: Any) -> None:
        make_function_hooks(self, wrap(_entry(HOOK, before), before, False), after, on_fault)

    patch.setattr(Guard, "call", guard_call)
    patch.setattr(Guard, "clean_up", guard_clean_up)
    patch.setattr(Hook, "__init__", hook)
    patch.setattr(FunctionHooks, "__init__", function_hooks)


def _entry(feature: str, function: Any) -> Entry:
    while isinstance(function, functools.partial):
        function = function.func
    return Entry(feature, function.__qualname__)


@contextlib.contextmanager
def functions_noted(found: dict[CodeType, None]) -> Iterator[None]:
    """Writes down every function of nndiag that is called, in the order of the first call."""

    def note(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        file = code.co_filename
        # A generator expression is also entered to be closed, where nobody can hear an error.
        if event == "call" and file.startswith(_HOME) and file != _GUARD and code.co_name != "<genexpr>":
            found.setdefault(code)

    with _profiled(note):
        yield


@contextlib.contextmanager
def fault_in(code: CodeType, nth: int = 1) -> Iterator[None]:
    """Raises once, at the ``nth`` entry of one function, whoever calls it."""
    calls = itertools.count(1)

    def strike(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is code and next(calls) == nth:
            raise RuntimeError(f"injected into {code.co_qualname}")

    with _profiled(strike):
        yield


@contextlib.contextmanager
def _profiled(profile: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    """An error raised in a profile function surfaces in the call it was told about, and switches it off."""
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)
