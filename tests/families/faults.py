"""Faults injected into nndiag: at its guarded entries, and at any function it runs."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

import pytest
import torch

import nndiag
from nndiag.guard import Guard

Timing = Literal["early", "late"]
"""Before the entry did anything, or after it did its work."""

KINDS: tuple[Callable[[], Exception], ...] = (
    lambda: RuntimeError("injected"),
    lambda: ValueError("injected"),
    lambda: MemoryError("injected"),
    lambda: KeyError("injected"),
    lambda: AssertionError("injected"),
    lambda: torch.OutOfMemoryError("injected"),
    lambda: UnprintableError(),
)

_HOME = str(Path(nndiag.__file__).parent)
_GUARD = str(Path(_HOME, "guard.py"))  # nobody guards the guard


class UnprintableError(Exception):
    """An error whose own description fails."""

    def __str__(self) -> str:
        raise RuntimeError("no description")


def marked_features() -> set[str]:
    """The features of every method marked as an entry, in every class nndiag has loaded."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "nndiag"]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    members = [member for each in classes for member in vars(each).values()]
    return {member.guarded_feature for member in members if hasattr(member, "guarded_feature")}


def watch_features(patch: pytest.MonkeyPatch) -> set[str]:
    """A set that fills with the features guards are asked to run."""
    seen: set[str] = set()
    call = Guard.call

    def noting(self: Guard, feature: str, *args: Any, **kwargs: Any) -> Any:
        seen.add(feature)
        return call(self, feature, *args, **kwargs)

    patch.setattr(Guard, "call", noting)
    return seen


def inject(patch: pytest.MonkeyPatch, features: Collection[str], timing: Timing) -> None:
    """Makes every guarded entry of the features fault, each time with the next kind of error."""
    errors = itertools.cycle(KINDS)
    call, clean_up = Guard.call, Guard.clean_up

    def faulty(function: Callable[..., Any], timing: Timing) -> Callable[..., Any]:
        def entry(*args: Any, **kwargs: Any) -> Any:
            if timing == "late":
                function(*args, **kwargs)
            raise next(errors)()

        return entry

    def faulty_call(
        self: Guard, feature: str, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        chosen = faulty(function, timing) if feature in features else function
        return call(self, feature, chosen, *args, **kwargs)

    def faulty_clean_up(self: Guard, feature: str, function: Callable[[], None]) -> None:
        # What takes hooks out is allowed to fail only after it did so: there is nobody behind it.
        return clean_up(self, feature, faulty(function, "late") if feature in features else function)

    patch.setattr(Guard, "call", faulty_call)
    patch.setattr(Guard, "clean_up", faulty_clean_up)


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
