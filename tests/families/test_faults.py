"""A fault inside nndiag changes nothing in the run: it is logged once, and the report is still there."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import nndiag
from nndiag.guard import LIMIT, Guard

from .families import (
    ACCUMULATION,
    CNN,
    FAMILIES,
    GAN,
    LSTM,
    MLP,
    NON_REENTRANT,
    SPECTRAL,
    STATEFUL,
    WITNESS,
    Family,
)
from .faults import Timing, fault_in, functions_noted, inject, marked_features, watch_features
from .test_exact import by_name
from .watched import changes, watched

PLAIN = next(family for family in FAMILIES if family.loop == "plain")
SUBSET = (MLP, CNN, LSTM, ACCUMULATION, NON_REENTRANT, SPECTRAL, GAN, WITNESS, PLAIN)
TIMINGS: tuple[Timing, ...] = ("early", "late")


@cache
def features(family: Family) -> tuple[str, ...]:
    """Every feature whose entries a clean run of the family passes."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch_features(patch)
        watched(family)
    return tuple(sorted(seen))


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What nndiag says."""
    with caplog.at_level(logging.WARNING, logger="nndiag"):
        yield caplog


def said(log: pytest.LogCaptureFixture) -> Counter[str]:
    """Number of messages by feature."""
    return Counter(record.args[0] for record in log.records if record.name == "nndiag")  # type: ignore[index]


def test_entries_of_a_run_are_marked() -> None:
    assert len(features(MLP)) >= 5
    assert {"the monitor"} <= marked_features()  # of the classes that the run has loaded


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("family", SUBSET, ids=by_name)
def test_faults_of_one_feature_change_nothing(
    family: Family, timing: Timing, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    failures: dict[str, Any] = {}
    for feature in features(family):
        log.clear()
        with monkeypatch.context() as patch:
            inject(patch, {feature}, timing)
            run, monitor = watched(family)
        found: dict[str, Any] = changes(family, run)
        if said(log) != {feature: 1} or not 1 <= monitor.guard.faults.get(feature, 0) <= 10 * LIMIT:
            found["said"] = (dict(said(log)), dict(monitor.guard.faults))
        if not isinstance(monitor.report, nndiag.Report):
            found["report"] = monitor.report
        failures |= {feature: found} if found else {}
    assert failures == {}


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_faults_at_every_entry_change_nothing(
    family: Family, timing: Timing, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        inject(patch, features(family), timing)
        run, monitor = watched(family)
    assert changes(family, run) == {}
    assert set(said(log).values()) == {1}
    assert isinstance(monitor.report, nndiag.Report)


@cache
def functions(family: Family) -> tuple[CodeType, ...]:
    """Every function of nndiag that a run of the family calls."""
    found: dict[CodeType, None] = {}
    watched(family, during=functions_noted(found))
    return tuple(found)


def _failures(family: Family, codes: Iterable[CodeType], nth: int) -> dict[str, Any]:
    """What a fault at the ``nth`` call of each of the functions changed."""
    failures: dict[str, Any] = {}
    for code in codes:
        try:
            run, monitor = watched(family, during=fault_in(code, nth))
            found = changes(family, run)
            found |= {} if isinstance(monitor.report, nndiag.Report) else {"report": monitor.report}
        except Exception as error:
            found = {"raised": f"{type(error).__name__}: {error}"}
        failures |= {f"{Path(code.co_filename).name}:{code.co_qualname}": found} if found else {}
    return failures


def test_fault_in_every_eighth_function_changes_nothing() -> None:
    assert _failures(MLP, list(functions(MLP))[::8], 1) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("family", [MLP, NON_REENTRANT, STATEFUL], ids=by_name)
def test_fault_in_any_function_changes_nothing(family: Family, nth: int) -> None:
    assert _failures(family, functions(family), nth) == {}


def test_strict_lets_every_fault_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for feature in features(MLP):
        with monkeypatch.context() as patch:
            inject(patch, {feature}, "late")
            with pytest.raises(RuntimeError, match="injected"):
                watched(MLP, strict=True)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Lightning ignores SIGINT for good once it has seen a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("family", [MLP, PLAIN], ids=by_name)
def test_keyboard_interrupt_passes_through(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Guard.call

    def interrupted(self: Guard, feature: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        def entry(*args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

        return call(self, feature, entry if feature == "the stream" else function, *args, **kwargs)

    monkeypatch.setattr(Guard, "call", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        watched(family)
