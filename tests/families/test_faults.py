"""A fault inside nndiag changes nothing in the run: it is logged once, and the report is still there."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
    FAILING,
    FAMILIES,
    GAN,
    LSTM,
    MLP,
    NON_REENTRANT,
    SPECTRAL,
    STATEFUL,
    WITNESS,
    Family,
    with_plain_loop,
)
from .faults import (
    HOOK,
    KINDS,
    Entry,
    Timing,
    fault_in,
    functions_noted,
    inject,
    marked_features,
    watch_entries,
)
from .test_exact import by_name
from .training import Run, bare
from .watched import changes, number, train, watched

PLAIN, PLAIN_FAILING = with_plain_loop(MLP), with_plain_loop(FAILING)
SUBSET = (MLP, CNN, LSTM, ACCUMULATION, NON_REENTRANT, SPECTRAL, GAN, WITNESS, PLAIN)
TIMINGS: tuple[Timing, ...] = ("early", "late")
OF_THE_END = {"the report", "the monitor"}
"""What makes the report cannot be in it, nor what fails when it is made."""

Record = Callable[[str, object], None]


def slow(*values: Any) -> Any:
    """Parameters for long runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


@cache
def entries(family: Family) -> tuple[Entry, ...]:
    """Every place where a run of the family enters nndiag."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyError):
        seen = watch_entries(patch)
        train(family, [])
    return tuple(sorted(seen))


def features(family: Family) -> dict[str, list[Entry]]:
    """The entries of each feature."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries(family):
        found[entry.feature].append(entry)
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What nndiag says."""
    with caplog.at_level(logging.WARNING, logger="nndiag"):
        yield caplog


def said(log: pytest.LogCaptureFixture) -> Counter[str]:
    """Number of messages by feature."""
    return Counter(record.args[0] for record in log.records if record.name == "nndiag")  # type: ignore[index]


def run_with_faults(
    family: Family, chosen: Collection[Entry], timing: Timing, kinds: Sequence[type[Exception]] = KINDS
) -> tuple[int, Run | Exception, Any]:
    """How many faults there were, what the run left or raised, and the monitor."""
    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        injected = inject(patch, chosen, timing, kinds)
        try:
            run: Run | Exception = train(family, made)
        except Exception as error:
            run = error
    return sum(injected.values()), run, made[0]


def changed(family: Family, run: Run | Exception) -> dict[str, Any]:
    """What the faults changed."""
    if isinstance(run, Exception):
        return {"raised": type(run).__qualname__}
    return changes(family, run)


def complaints(feature: str, messages: Counter[str], monitor: Any) -> dict[str, Any]:
    """What is missing where one feature fails: one warning, an end of it, a word in the report."""
    faults, found = dict(monitor.guard.faults), {}
    if feature == HOOK:  # its owner's guard, or the probe's refusal
        if len(messages) > 1 or not set(messages.values()) <= {1}:
            found["said"] = dict(messages)
    elif messages != {feature: 1} or set(faults) != {feature} or not 1 <= faults[feature] <= 10 * LIMIT:
        found["said"] = (dict(messages), faults)
    findings = {each.rule for top in monitor.report.findings for each in top.walk()}
    if not findings & {"ND902", "ND903"} and feature not in OF_THE_END:
        found["findings"] = sorted(findings)
    return found


def test_entries_of_a_run_are_marked() -> None:
    assert len(features(MLP)) >= 5
    assert {"the monitor"} <= marked_features()  # of the classes that the run has loaded


@pytest.mark.parametrize("first", [0, *(slow(first) for first in range(1, len(KINDS)))])
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("family", [MLP, PLAIN], ids=by_name)
def test_fault_at_any_entry_changes_nothing(
    family: Family, timing: Timing, first: int, log: pytest.LogCaptureFixture, record_property: Record
) -> None:
    """Each entry meets another kind of error; over all values of ``first``, every kind."""
    failures: dict[Entry, Any] = {}
    bare(family)
    for place, entry in enumerate(entries(family), first):
        log.clear()
        count, run, monitor = run_with_faults(family, {entry}, timing, [KINDS[place % len(KINDS)]])
        found = changed(family, run)
        record_property("faults", (count, int("raised" in found), number(found)))
        found |= complaints(entry.feature, said(log), monitor) if count else {"injected": 0}
        failures |= {entry: found} if found else {}
    assert failures == {}


@pytest.mark.parametrize("first", [0, *(slow(first) for first in range(1, len(KINDS)))])
@pytest.mark.parametrize("family", [FAILING, PLAIN_FAILING], ids=by_name)
def test_fault_at_any_entry_hides_no_error_of_the_users(
    family: Family, first: int, record_property: Record
) -> None:
    failures: dict[Entry, Any] = {}
    for place, entry in enumerate(entries(family), first):
        timing = TIMINGS[place % 2]
        count, error, monitor = run_with_faults(family, {entry}, timing, [KINDS[place % len(KINDS)]])
        is_users = isinstance(error, KeyError) and error.args == ("of the user's",)
        record_property("user errors", (count, int(not is_users)))
        if not (is_users and count and isinstance(monitor.report, nndiag.Report)):
            failures[entry] = (count, error)
    assert failures == {}


@pytest.mark.slow
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("family", SUBSET, ids=by_name)
def test_faults_of_one_feature_change_nothing(
    family: Family, timing: Timing, log: pytest.LogCaptureFixture, record_property: Record
) -> None:
    failures: dict[str, Any] = {}
    bare(family)
    for feature, chosen in features(family).items():
        log.clear()
        count, run, monitor = run_with_faults(family, chosen, timing)
        found = changed(family, run)
        record_property("faults", (count, int("raised" in found), number(found)))
        found |= complaints(feature, said(log), monitor)
        failures |= {feature: found} if found else {}
    assert failures == {}


@pytest.mark.parametrize("timing", [slow("early"), "late"])
@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_faults_at_every_entry_change_nothing(
    family: Family, timing: Timing, log: pytest.LogCaptureFixture, record_property: Record
) -> None:
    bare(family)
    count, run, monitor = run_with_faults(family, entries(family), timing)
    found = changed(family, run)
    record_property("faults", (count, int("raised" in found), number(found)))
    record_property("exact", (family.name, f"faults, {timing}", number(found)))
    assert found == {}
    assert count > 10
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


def test_fault_in_some_functions_changes_nothing() -> None:
    assert _failures(MLP, list(functions(MLP))[::25], 1) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("family", [MLP, NON_REENTRANT, STATEFUL], ids=by_name)
def test_fault_in_any_function_changes_nothing(family: Family, nth: int) -> None:
    assert _failures(family, functions(family), nth) == {}


def test_strict_lets_every_fault_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for feature, chosen in features(MLP).items():
        if feature == HOOK:
            continue
        with monkeypatch.context() as patch:
            inject(patch, chosen, "late", [RuntimeError])
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
