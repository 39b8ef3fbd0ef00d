"""The nouns of a diagnosis: their order, their small questions, and their way through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nndiag.findings import Coverage, CoverageEntry, Finding, Reading, Severity, plain, worst


def through_json(value: Any) -> Any:
    """The record of a noun as a file gives it back; NaN and infinity as such are no JSON."""
    return json.loads(json.dumps(value.to_dict(), allow_nan=False))


def same(one: object, other: object) -> bool:
    """Equality that takes NaN for itself."""
    return repr(one) == repr(other)


def reading(**changes: Any) -> Reading:
    fields: dict[str, Any] = {
        "measure": "saturation",
        "name": "saturated",
        "layer": "fc",
        "step": 3,
        "value": 0.5,
    }
    return Reading(**(fields | changes))


def finding(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "rule": "ND201",
        "name": "saturated-activation",
        "measure": "saturation",
        "severity": Severity.WARNING,
        "layers": ("fc1", "fc2"),
        "first_step": 1,
        "last_clean_step": 0,
        "last_step": 5,
        "status": "active",
        "value": 0.8,
        "threshold": 0.7,
        "message": "Seen.",
        "recommendation": "Do.",
    }
    return Finding(**(fields | changes))


def test_severities_are_strings_in_order():
    assert [str(s) for s in sorted(Severity, key=lambda s: s.rank)] == ["info", "warning", "critical"]
    assert [s.rank for s in Severity] == [0, 1, 2]
    assert Severity.WARNING == "warning"
    assert Severity(json.loads(json.dumps(Severity.CRITICAL))) is Severity.CRITICAL


def test_an_unknown_severity_is_refused():
    with pytest.raises(ValueError, match="severe"):
        Severity("severe")


NUMBERS = [math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1]


@pytest.mark.parametrize("value", NUMBERS)
def test_round_trip_of_a_reading(value):
    full = reading(value=value, resolution=abs(value), n=7, units=(value, 0.5), detail={"x": value, "y": "z"})
    assert same(Reading.from_dict(through_json(full)), full)


def test_round_trip_of_a_bare_reading():
    bare = reading(layer=None)
    assert set(through_json(bare)) == {"measure", "name", "layer", "step", "value"}
    assert Reading.from_dict(through_json(bare)) == bare


def test_no_units_are_not_an_absence_of_units():
    assert Reading.from_dict(through_json(reading(units=()))).units == ()
    assert Reading.from_dict(through_json(reading())).units is None


def test_a_zero_is_not_an_absence():
    back = Reading.from_dict(through_json(reading(resolution=0.0, n=0)))
    assert (back.resolution, back.n) == (0.0, 0)


def test_tag():
    assert reading().tag == "nndiag/saturation/saturated"


@pytest.mark.parametrize("value", NUMBERS)
def test_round_trip_of_a_finding(value):
    symptom = finding(rule="ND601", layers=(), last_clean_step=None, value=None, threshold=None)
    full = finding(
        value=value,
        threshold=value,
        evidence={"x": value, "n": 3, "b": True, "none": None},
        related=(symptom,),
    )
    back = Finding.from_dict(through_json(full))
    assert same(back, full)
    assert isinstance(back.severity, Severity)


@pytest.mark.parametrize("key", ["rule", "severity", "layers", "status", "related", "evidence", "value"])
def test_a_finding_without_a_field_is_refused(key):
    record = through_json(finding())
    del record[key]
    with pytest.raises(KeyError, match=key):
        Finding.from_dict(record)


def test_layer_is_the_first_of_layers():
    assert finding().layer == "fc1"
    assert finding(layers=()).layer is None


def test_walk_goes_through_symptoms_of_symptoms():
    deep = finding(rule="c")
    assert [
        f.rule
        for f in finding(rule="a", related=(finding(rule="b", related=(deep,)), finding(rule="d"))).walk()
    ] == [*("a", "b", "c", "d")]


def test_worst():
    resolved = finding(severity=Severity.CRITICAL, status="resolved")
    note = finding(severity=Severity.INFO)
    assert worst(()) is None
    assert worst((resolved,)) is None
    assert worst((resolved, note)) is Severity.INFO
    assert worst((note, finding())) is Severity.WARNING
    assert (
        worst((finding(severity=Severity.INFO, related=(finding(severity=Severity.CRITICAL),)),))
        is Severity.CRITICAL
    )


COVERAGE = Coverage(
    (
        CoverageEntry("fc1", "saturation", "measured"),
        CoverageEntry("fc1", "data", "not applicable", "not an input"),
        CoverageEntry("fc2", "saturation", "not observed", "not called"),
        CoverageEntry(None, "data", "measured"),
    ),
    ("A note.",),
)


@pytest.mark.parametrize("coverage", [COVERAGE, Coverage()])
def test_round_trip_of_coverage(coverage):
    assert Coverage.from_dict(through_json(coverage)) == coverage


def test_questions_to_coverage():
    assert len(COVERAGE) == 4
    assert COVERAGE.of("fc2", "saturation") == COVERAGE.entries[2]
    assert COVERAGE.of(None, "data") == COVERAGE.entries[3]
    assert COVERAGE.of("fc9", "saturation") is None
    assert COVERAGE.counts() == {"measured": 2, "not observed": 1, "not applicable": 1}
    assert list(COVERAGE) == list(COVERAGE.entries)


def test_plain_values():
    nested = {
        "a": (1, 2.5, math.nan),
        3: {"b": None, "c": True, "d": Severity.INFO},
        "e": [-math.inf, "x", 10**40],
    }
    assert plain(nested) == {
        "a": [1, 2.5, "nan"],
        "3": {"b": None, "c": True, "d": "info"},
        "e": ["-inf", "x", 10**40],
    }
    json.dumps(plain(nested), allow_nan=False)
