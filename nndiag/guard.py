"""No fault of nndiag's reaches the run it watches.

Every entry from a training run into nndiag goes through a ``Guard``. A fault there is swallowed, counted
against the feature it happened in, and said once; after ``LIMIT`` faults the feature is off for the rest of
the run, the others go on. ``KeyboardInterrupt`` and ``SystemExit`` are not faults: they pass.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

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

    def call(self, feature: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs ``function`` unless its feature is off; its result, or None after a fault.

        Raises:
            Exception: whatever the function raised, if the guard is strict.
        """
        if not self.allows(feature):
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if self.strict:
                raise
            self.report(feature, error)
            return None

    def clean_up(self, feature: str, function: Callable[[], None]) -> None:
        """Runs ``function`` even when its feature is off: what was put into the run must come out again."""
        try:
            function()
        except Exception as error:
            self.report(feature, error)

    def report(self, feature: str, error: Exception) -> None:
        """Counts a fault; the first one of a feature is logged."""
        try:
            count = self.faults[feature] = self.faults.get(feature, 0) + 1
            if count > 1:
                return
            where = traceback.extract_tb(error.__traceback__)[-1:]
            place = f" at {where[0].name}:{where[0].lineno}" if where else ""
            self.causes[feature] = f"{type(error).__name__}: {error}"[:200] + place
            _log.warning(
                "%s failed (%s). Training is not affected; the feature is switched off if this goes on.",
                feature,
                self.causes[feature],
            )
        except Exception:  # an error whose own str() fails must not get through either
            self.causes[feature] = "an error that could not be described"


class Guarded(Protocol):
    """Anything that owns a guard and can let go of the run."""

    @property
    def guard(self) -> Guard:
        """The guard that counts this object's faults."""

    def release(self) -> None:
        """Takes everything out of the run; idempotent."""


def guarded(
    feature: str,
) -> Callable[[Callable[Concatenate[S, P], None]], Callable[Concatenate[S, P], None]]:
    """Marks a method as an entry from the run: it takes what it is given, never raises, returns None."""

    def decorate(method: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
        @functools.wraps(method)
        def entry(self: S, *args: Any, **kwargs: Any) -> None:
            if not self.guard.allows(feature):
                return
            self.guard.call(feature, method, self, *args, **kwargs)
            if not self.guard.allows(feature):
                self.guard.clean_up(feature, self.release)

        entry.guarded_feature = feature  # type: ignore[attr-defined]
        return cast("Callable[Concatenate[S, P], None]", entry)

    return decorate
