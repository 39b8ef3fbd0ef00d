"""From snapshots to a report: what is read, kept, merged and said to have changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

import nndiag.diagnosis
import nndiag.ledger
from nndiag.diagnosis import Diagnosis, diagnose
from nndiag.findings import Coverage, CoverageEntry, Reading, Severity
from nndiag.layers import LayerInfo
from nndiag.measures import MEASURES, Measure, Visit
from nndiag.options import Selection
from nndiag.report import Report
from nndiag.rules import Advice, Rule, Verdict, View
from nndiag.snapshot import Snapshot

LAYERS = {name: LayerInfo(name, "Linear", "weight", depth) for depth, name in enumerate(("fc1", "fc2"))}


def read(visit: Visit) -> Iterable[Reading | CoverageEntry]:
    """A fact "<layer>" of the snapshot is the layer's value; text is why it was not observed."""
    for name in visit.now.layers:
        value = visit.now.facts.get(f"value {name}")
        if isinstance(value, str):
            yield CoverageEntry(name, "test", "not observed", value)
        elif value is not None:
            yield Reading("test", "x", name, visit.now.step, value)
    yield Reading("test", "first step", None, visit.now.step, float(visit.first.step))
    yield Reading(
        "test", "previous step", None, visit.now.step, -1.0 if visit.previous is None else visit.previous.step
    )


def judge(view: View) -> Verdict | None:
    return Verdict(Severity.WARNING, view.value("x")) if view.value("x") > view.threshold else None


RULE = Rule("ND999", "test-rule", "test", "", "x", judge, lambda case: Advice(case.where, "Do."), 0.5)
MEASURE = Measure("test", "", frozenset(), read, (RULE,))


@pytest.fixture(autouse=True)
def one_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nndiag.diagnosis, "MEASURES", {"test": MEASURE})
    monkeypatch.setattr(nndiag.ledger, "RULES", {RULE.id: RULE})


def snapshot(
    step: int, fc1: Any = None, fc2: Any = None, notes: tuple[str, ...] = (), **facts: Any
) -> Snapshot:
    values = {"value fc1": fc1, "value fc2": fc2}
    return Snapshot(step, "live", LAYERS, {}, facts=values | facts, notes=notes)


def value(report: Report, name: str, layer: str | None = None) -> float:
    return next(r.value for r in report.readings if (r.name, r.layer) == (name, layer))


def test_nothing_seen():
    assert diagnose([]) == Report()


def test_snapshots_are_taken_in_order_of_steps():
    report = diagnose([snapshot(5, fc1=0.9), snapshot(0, fc1=0.1), snapshot(3, fc1=0.8)])
    (finding,) = report.findings
    assert (finding.first_step, finding.last_clean_step, finding.last_step) == (3, 0, 5)
    assert (value(report, "first step"), value(report, "previous step")) == (0, 3)


def test_the_report_has_the_newest_reading_of_every_series():
    report = diagnose([snapshot(0, fc1=0.1, fc2=0.2), snapshot(1, fc1=0.3)])
    assert (value(report, "x", "fc1"), value(report, "x", "fc2")) == (0.3, 0.2)


def test_the_first_visit_has_none_before_it():
    assert value(diagnose([snapshot(7)]), "previous step") == -1
    assert value(diagnose([snapshot(7)]), "first step") == 7


def test_numbers_about_the_run_become_readings():
    update = Diagnosis().add(snapshot(4, loss=2.5, total_steps=None, probe="exact", is_done=True))
    run = {r.name: (r.value, r.layer, r.step) for r in update.readings if r.measure == "run"}
    assert run == {"loss": (2.5, None, 4), "is_done": (1.0, None, 4)}


def test_layers_that_were_not_asked_for_are_not_read():
    diagnosis = Diagnosis(Selection(layers=("fc1",)))
    update = diagnosis.add(snapshot(0, fc1=0.1, fc2="not called"))
    assert {r.layer for r in update.readings} == {"fc1", None}
    assert [entry.layer for entry in update.coverage] == ["fc1"]


def test_thresholds_reach_the_rules():
    snapshots = [snapshot(step, fc1=0.9) for step in range(3)]
    assert diagnose(snapshots, Selection(thresholds={"ND999": 0.95})).findings == ()
    assert diagnose(snapshots).findings != ()


@pytest.mark.parametrize(
    ("values", "status", "reason"),
    [
        (["late", 0.1], "measured", ""),
        ([0.1, "late"], "measured", ""),
        (["early", "late"], "not observed", "late"),
        (["early", None], "not observed", "early"),
    ],
)
def test_what_was_measured_once_stays_measured(values, status, reason):
    report = diagnose(snapshot(step, fc1=v) for step, v in enumerate(values))
    assert report.coverage.of("fc1", "test") == CoverageEntry("fc1", "test", status, reason)


def test_a_reading_wins_over_a_reason_of_the_same_visit(monkeypatch):
    def both(visit: Visit) -> Iterable[Reading | CoverageEntry]:
        yield CoverageEntry("fc1", "test", "not observed", "half of it")
        yield Reading("test", "x", "fc1", visit.now.step, 0.1)

    monkeypatch.setattr(nndiag.diagnosis, "MEASURES", {"test": Measure("test", "", frozenset(), both, ())})
    assert [entry.status for entry in diagnose([snapshot(0)]).coverage] == ["measured"]


def test_notes_are_kept_once():
    report = diagnose([snapshot(0, notes=("a", "b")), snapshot(1, notes=("b", "c"))])
    assert report.coverage.notes == ("a", "b", "c")


def test_an_update_says_whether_the_findings_changed():
    diagnosis = Diagnosis()
    values = [
        (0.1, 0.1),
        (0.9, 0.1),
        (0.9, 0.1),
        (0.9, 0.1),
        (0.9, 0.9),
        (0.9, 0.9),
        (0, 0),
        (0, 0),
        (0, 0),
        (0.9, 0),
        (0.9, 0),
    ]
    changed = [diagnosis.add(snapshot(step, *pair)).changed for step, pair in enumerate(values)]
    #                  clean, first bad, found, same, one layer bad, two layers, clean, resolved, same, bad, back
    assert changed == [False, False, True, False, False, True, False, True, False, False, True]


def test_an_update_holds_all_findings_and_the_snapshot():
    diagnosis, seen = Diagnosis(), snapshot(1, fc1=0.9)
    diagnosis.add(snapshot(0, fc1=0.9))
    update = diagnosis.add(seen)
    assert update.snapshot is seen
    assert update.step == 1
    assert update.layers == LAYERS
    assert update.findings == diagnosis.report().findings
    assert [f.rule for f in update.findings] == ["ND999"]


def test_readings_of_a_record_are_judged_as_those_of_a_run():
    live, recorded = Diagnosis(), Diagnosis()
    for step, fc1 in enumerate((0.1, 0.9, 0.9, 0.2)):
        update = live.add(snapshot(step, fc1=fc1, fc2="not called", loss=1.0))
        again = recorded.add_readings(step, update.layers, update.readings, update.coverage)
        assert again.findings == update.findings
        assert again.changed == update.changed
    assert recorded.report() == live.report()


def test_facts_about_the_run_are_in_the_report():
    diagnosis = Diagnosis(run={"torch": "2"})
    assert diagnosis.report().run == {"torch": "2"}
    diagnosis.report().run["torch"] = "3"
    assert diagnosis.report().run == {"torch": "2"}, "a report is a copy"


def test_a_checkpoint_is_judged_at_once():
    alone = Snapshot(9, "checkpoint", LAYERS, {}, facts={"value fc1": 0.9})
    assert [f.status for f in diagnose([alone]).findings] == ["active"]
    assert diagnose([snapshot(9, fc1=0.9)]).findings == ()


def test_real_measures_have_nothing_to_say_about_an_empty_snapshot(monkeypatch):
    monkeypatch.undo()
    report = diagnose([Snapshot(0, "live", {}, {})])
    assert report.status == "ok"
    assert Diagnosis().measures == tuple(MEASURES.values())
    assert Diagnosis(Selection(measures=("saturation",))).measures == (MEASURES["saturation"],)


def test_coverage_starts_empty():
    assert Diagnosis().report().coverage == Coverage()
