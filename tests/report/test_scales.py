"""How a reading is to be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from sinks.runs import VISITS, watched

from nndiag.measures import RULES
from nndiag.report.scales import GROUPS, JUDGED, LIMITS, SHARES, scale_of


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_belongs_to_the_measure_of_its_rule(name: str) -> None:
    measure, _, reading = name.partition("/")
    for rule in LIMITS[name]:
        assert RULES[rule].measure == measure
        assert RULES[rule].reads == reading


def test_what_is_said_of_a_reading() -> None:
    said = scale_of("saturation", "dead_share")
    assert said["worst"] == "high"
    assert said["range"] == [0, 1]
    assert said["judged"] is True
    assert said["limits"] == {"ND202": RULES["ND202"].threshold}
    assert said["rules"] == ["ND202"]
    assert said["about"]


def test_directions_are_those_of_the_measures() -> None:
    assert scale_of("neuron_symmetry", "distinct_share")["worst"] == "low"
    assert scale_of("data", "input_scale")["worst"] == "far from one"


def test_a_reading_of_a_newer_version() -> None:
    assert scale_of("tomorrow", "x") == {
        "about": "",
        "worst": "high",
        "judged": False,
        "range": None,
        "rules": [],
        "limits": {},
    }


def test_readings_of_a_run_lie_where_they_are_said_to(tmp_path: Path) -> None:
    report = watched(tmp_path).report
    named = {f"{r.measure}/{r.name}" for r in report.readings}
    assert len(named & SHARES) > 8
    assert GROUPS <= SHARES
    for reading in report.readings:
        if f"{reading.measure}/{reading.name}" in SHARES:
            assert -1e-9 <= reading.value <= 1 + 1e-6, reading


def test_rules_hold_the_reading_itself_against_their_limit(tmp_path: Path) -> None:
    report = watched(tmp_path).report
    layers = {(f"{r.measure}/{r.name}", r.value) for r in report.readings}
    checked = 0
    for finding in (each for top in report.findings for each in top.walk() if each.is_active):
        for name, rules in LIMITS.items():
            if finding.rule in rules and finding.value is not None and finding.last_step == VISITS[-1]:
                checked += 1
                assert (name, finding.value) in layers, finding
    assert checked


def test_judged_readings_are_known() -> None:
    assert LIMITS.keys() <= JUDGED
    measures = {rule.measure for rule in RULES.values()}
    assert {name.partition("/")[0] for name in JUDGED | SHARES} <= measures
