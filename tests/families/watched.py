"""The same run with nndiag in it, and the verdict on whether that changed anything."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import nndiag

from .families import Family
from .outcome import differing
from .training import Run, bare, fit, loop

QUIET = {"max_overhead": None, "console": False}


def watched(
    family: Family,
    prepare: Callable[[Any], None] | None = None,
    during: AbstractContextManager[None] | None = None,
    **options: Any,
) -> tuple[Run, Any]:
    """Trains with a monitor; returns the run and the monitor.

    Args:
        family: What to train.
        prepare: Something to do to the monitor before the run.
        during: Entered for the run alone: when the monitor is made it is not yet in force.
        options: The monitor's.
    """
    bare(family)  # what a process does or says only once belongs to the bare run
    made: list[Any] = []
    run = train(family, made, prepare, during, **options)
    return run, made[0]


def train(
    family: Family,
    made: list[Any],
    prepare: Callable[[Any], None] | None = None,
    during: AbstractContextManager[None] | None = None,
    **options: Any,
) -> Run:
    """Trains with a monitor, which is added to ``made`` before training begins."""
    options = {**QUIET, **options}
    during = during or contextlib.nullcontext()
    if family.loop == "lightning":
        made.append(nndiag.DiagnosticsMonitor(**options))
        if prepare:
            prepare(made[0])
        with during:
            return fit(family, made[0])

    def make(model: Any, optimizer: Any) -> AbstractContextManager[Any]:
        made.append(nndiag.Monitor(model, optimizer=optimizer, **options))
        if prepare:
            prepare(made[0])
        return made[0]

    with during:
        return loop(family, make)


def changes(family: Family, run: Run) -> dict[str, Any]:
    """Everything in which a run differs from the bare one; empty when it is exact."""
    expected = bare(family)
    found: dict[str, Any] = dict(differing(expected.values, run.values))
    extra = run.warnings - expected.warnings
    return found | ({"warnings": sorted(extra)} if extra else {})


def number(found: dict[str, Any]) -> int:
    """How many values differ; what is not counted is one."""
    return sum(value if isinstance(value, int) else 1 for value in found.values())
