"""From snapshots to a report: the single pure entry, online and offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nndiag.findings import Coverage, CoverageEntry, Finding, Reading, Scalar
from nndiag.guard import Guard
from nndiag.layers import LayerInfo
from nndiag.ledger import Ledger
from nndiag.measures import MEASURES, ON_DEMAND, Measure, Visit
from nndiag.options import Selection
from nndiag.report import Report
from nndiag.rules import History
from nndiag.snapshot import Snapshot

GRACE = 20
"""Steps in which healthy networks move fast too: nothing is measured from there."""


@dataclass(frozen=True)
class Update:
    """What one visit brought: what sinks write.

    ``findings`` is always the complete current list. ``changed`` says whether a finding appeared, moved in
    severity, resolved or came back since the last update.
    """

    step: int
    layers: Mapping[str, LayerInfo]
    readings: tuple[Reading, ...]
    findings: tuple[Finding, ...]
    coverage: Coverage
    changed: bool
    snapshot: Snapshot | None = None


@dataclass
class Diagnosis:
    """Folds snapshots, in order of steps, into findings."""

    selection: Selection = field(default_factory=Selection)
    run: dict[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = History()
        self.ledger = Ledger(self.selection)
        self.coverage = Coverage()
        self.first: Snapshot | None = None
        self._previous: Snapshot | None = None
        self._reference: Snapshot | None = None
        self._signature: tuple[Any, ...] = ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures in use."""
        known = {**MEASURES, **ON_DEMAND}
        return tuple(known[name] for name in self.selection.measures or MEASURES)

    def add(self, snapshot: Snapshot) -> Update:
        """Reads, judges and files one snapshot."""
        if self.first is None:
            self.first = snapshot
        visit = self._visit(snapshot)
        readings: list[Reading] = _facts(snapshot)
        entries: list[CoverageEntry] = []
        for measure in self.measures:
            for item in measure.read(visit):
                if self.selection.keeps_layer(item.layer):
                    (readings if isinstance(item, Reading) else entries).append(item)  # type: ignore[arg-type]
        measured = {(r.layer, r.measure) for r in readings if r.layer is not None}
        rows = [CoverageEntry(layer, measure, "measured") for layer, measure in sorted(measured)]
        rows += [entry for entry in entries if (entry.layer, entry.measure) not in measured]
        coverage = self._merge_coverage(Coverage(tuple(rows), snapshot.notes))
        return self.add_readings(snapshot.step, snapshot.layers, readings, coverage, snapshot)

    def _visit(self, now: Snapshot) -> Visit:
        """Puts a snapshot beside those it is compared with; after resume, beside none of before."""
        samples = now.facts.get("probe_samples")
        if self._previous is not None and self._previous.facts.get("probe_samples") != samples:
            self._previous = self._reference = None
        previous, self._previous = self._previous, now
        visit = Visit(now, self.first or now, previous, self._reference)
        if self._reference is None and samples and now.step >= GRACE:
            self._reference = now
        return visit

    def add_readings(
        self,
        step: int,
        layers: Mapping[str, LayerInfo],
        readings: Sequence[Reading],
        coverage: Coverage,
        snapshot: Snapshot | None = None,
    ) -> Update:
        """Judges readings taken earlier: today's rules on a recorded run."""
        source = snapshot.source if snapshot else "live"
        self.history.add(step, layers, readings)
        self.coverage = coverage
        findings = self.ledger.judge(self.history, self.measures, source)
        signature = tuple(
            (f.rule, f.status, f.severity, frozenset(f.layers)) for top in findings for f in top.walk()
        )
        changed, self._signature = signature != self._signature, signature
        return Update(step, layers, tuple(readings), findings, coverage, changed, snapshot)

    def tell_faults(self, causes: Mapping[str, str]) -> None:
        """Says which features of nndiag failed, where no visit after it could: none came, or none could be read."""
        told = self.history.series.get(("coverage", "features_with_faults", None))
        if causes.keys() <= set(told.last.detail if told else ()):
            return
        step = max(self.history.step, 0)
        reading = Reading(
            "coverage", "features_with_faults", None, step, float(len(causes)), detail=dict(causes)
        )
        self.add_readings(step, {}, [reading], self.coverage)

    def report(self) -> Report:
        """The state of the diagnosis after the newest visit."""
        findings = self.ledger.findings(self.history, self.measures)
        return Report(findings, tuple(self.history.latest()), self.coverage, dict(self.run))

    def note(self, *notes: str) -> None:
        """Adds what the coverage should say, each once."""
        known = tuple(dict.fromkeys((*self.coverage.notes, *notes)))
        self.coverage = Coverage(self.coverage.entries, known)

    def _merge_coverage(self, new: Coverage) -> Coverage:
        """What was measured once stays measured; a reason is replaced by a newer one."""
        merged = {(entry.layer, entry.measure): entry for entry in self.coverage}
        for entry in new:
            known = merged.get((entry.layer, entry.measure))
            if known is None or known.status != "measured":
                merged[entry.layer, entry.measure] = entry
        return Coverage(tuple(merged.values()), tuple(dict.fromkeys((*self.coverage.notes, *new.notes))))


def _facts(snapshot: Snapshot) -> list[Reading]:
    """Numbers about the run become readings of the pseudo-measure ``run``, so that they are recorded too."""

    def reading(name: str, value: Scalar) -> Iterator[Reading]:
        if isinstance(value, (int, float)):
            yield Reading("run", name, None, snapshot.step, float(value))

    return [r for name, value in snapshot.facts.items() for r in reading(name, value)]


def as_it_stands(guard: Guard, read: Callable[[], Report] | None, last: Report) -> Report:
    """The report of a session; without one the last that is known, or one that says what failed.

    Args:
        guard: Of the monitor.
        read: Gives the session's report; None: there is no session.
        last: What is known from earlier.
    """
    report = guard.call("the report", read) if read is not None else None
    if isinstance(report, Report):
        return report
    if last == Report.empty() and guard.causes:
        blind = Diagnosis()
        blind.tell_faults(guard.causes)
        return blind.report()
    return last


def diagnose(snapshots: Iterable[Snapshot], selection: Selection | None = None) -> Report:
    """The report on a series of snapshots, in order of steps."""
    diagnosis = Diagnosis(selection or Selection())
    for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.step):
        diagnosis.add(snapshot)
    return diagnosis.report()
