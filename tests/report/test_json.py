"""A report written as JSON comes back as it was, and what is no report is refused in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nndiag
from nndiag.errors import CheckpointError
from nndiag.findings import Coverage
from nndiag.report import SCHEMA_VERSION, Report
from report.samples import HOSTILE, finding, full_report, healthy_report, hostile_report, reading


def same(one: Report, other: Report) -> bool:
    """Equality that takes NaN for itself and tells 1 from 1.0 from "1"."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("make", [full_report, healthy_report, Report.empty])
def test_round_trip(make: Any) -> None:
    before = make()
    after = Report.from_json(before.to_json())
    assert same(before, after)
    assert after.to_json() == before.to_json()
    assert after.status == before.status


def test_round_trip_is_equality_where_numbers_are() -> None:
    before = replace(full_report(), readings=(reading(units=(0.1, math.inf)),))
    assert Report.from_json(before.to_json()) == before


def test_round_trip_keeps_every_field() -> None:
    after = Report.from_json(full_report().to_json())
    cause, units = after.findings[0], after.readings[0].units
    assert [each.rule for each in cause.walk()] == ["ND201", "ND311", "ND601"]
    assert isinstance(cause.severity, nndiag.Severity)
    assert (cause.first_step, cause.last_clean_step, cause.last_step) == (3, None, 12_345)
    assert after.findings[1].layers == ("fc4", "fc5")
    assert after.findings[1].value is None
    assert units is not None
    assert units[:5] == (0.0, 0.1, -1.5e-300, math.inf, -math.inf)
    assert math.isnan(units[5])
    assert math.isnan(after.readings[1].value)
    assert after.readings[2].value == -math.inf
    assert after.coverage == full_report().coverage
    assert after.run == full_report().run


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1.7976931348623157e308])
def test_round_trip_of_odd_numbers(value: float) -> None:
    before = Report((finding(value=value, threshold=value),), (reading(value=value, units=(value,)),))
    after = Report.from_json(before.to_json())
    assert same(before, after)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["resolution", "detail", "evidence", "run"])
def test_round_trip_of_odd_numbers_in_side_facts(value: float, place: str) -> None:
    before = {
        "resolution": Report(readings=(reading(resolution=value),)),
        "detail": Report(readings=(reading(detail={"x": value}),)),
        "evidence": Report((finding(evidence={"x": value}),)),
        "run": Report(run={"x": value}),
    }[place]
    assert same(before, Report.from_json(before.to_json()))


@pytest.mark.parametrize("kind", HOSTILE)
def test_round_trip_of_hostile_text(kind: str, tmp_path: Path) -> None:
    before, path = hostile_report(HOSTILE[kind]), tmp_path / "report.json"
    text = before.to_json(path)
    assert Report.from_json(text) == before
    assert Report.from_json(path) == Report.from_json(str(path)) == before
    assert path.read_bytes().isascii()  # whatever the reader's encoding is
    assert all(char.isprintable() or char == "\n" for char in text)


def test_document_has_what_readers_rely_on(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = full_report().to_json(path)
    assert path.read_text(encoding="utf-8") == text + "\n"

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    record = json.loads(text, parse_constant=refuse)
    assert list(record) == ["schema_version", "status", "findings", "readings", "coverage", "run"]
    assert record["schema_version"] == SCHEMA_VERSION == 1
    assert record["status"] == "critical"
    assert record["findings"][0]["severity"] == "critical"
    assert record["findings"][0]["related"][0]["related"][0]["rule"] == "ND601"
    assert record["readings"][1]["value"] == "nan"
    assert record["readings"][0]["units"][3:6] == ["inf", "-inf", "nan"]


def changed(**changes: Any) -> str:
    """A whole report with some of its parts replaced."""
    return json.dumps(full_report().to_dict() | changes)


def changed_finding(**changes: Any) -> str:
    """A report whose finding has wrong parts."""
    return changed(findings=[finding().to_dict() | changes])


def changed_reading(**changes: Any) -> str:
    """A report whose reading has wrong parts."""
    return changed(readings=[reading().to_dict() | changes])


def changed_entry(**changes: Any) -> str:
    """A report with a wrong line in its coverage."""
    entry = {"layer": "fc1", "measure": "saturation", "status": "measured", "reason": ""}
    return changed(coverage={"entries": [entry | changes], "notes": []})


BAD = {
    "empty object": "{}",
    "truncated": full_report().to_json()[:-20],
    "truncated early": '{"schema_version": 1, "find',
    "trailing words": full_report().to_json() + " x",
    "deep nesting": '{"schema_version":' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep nesting of objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "no version": json.dumps({k: v for k, v in full_report().to_dict().items() if k != "schema_version"}),
    "version is text": changed(schema_version="1"),
    "version is null": changed(schema_version=None),
    "version is before the first": changed(schema_version=0),
    "version is not a number": changed(schema_version=math.nan),
    "run holds a list": changed(run={"x": []}),
    "status of a finding is unknown": changed_finding(status="gone"),
    "evidence is nested": changed_finding(evidence={"x": {"y": 1}}),
    "layer of a finding is a number": changed_finding(layers=[3]),
    "note is a number": changed(coverage={"entries": [], "notes": [3]}),
    "no findings": json.dumps({k: v for k, v in full_report().to_dict().items() if k != "findings"}),
    "findings is a number": changed(findings=3),
    "finding is null": changed(findings=[None]),
    "finding is empty": changed(findings=[{}]),
    "unknown severity": changed_finding(severity="\x1b[31mfatal\n"),
    "value is words": changed_finding(value="much\n"),
    "layers is null": changed_finding(layers=None),
    "evidence is a number": changed_finding(evidence=3),
    "related is wrong": changed_finding(related=[{"rule": "x"}]),
    "step is words": changed_reading(step="late\n"),
    "step is not a number": changed_reading(step=math.nan),
    "units are words": changed_reading(units=["a\nb"]),
    "coverage is a list": changed(coverage=[]),
    "coverage entry lacks a field": changed(coverage={"entries": [{"layer": "x"}], "notes": []}),
    "run is null": changed(run=None),
}


def assert_refused(source: Any) -> str:
    """One line of visible characters, not too long; returns it."""
    with pytest.raises(CheckpointError) as caught:
        Report.from_json(source)
    message = str(caught.value)
    assert message.isprintable()
    assert 10 < len(message) < 1000
    assert isinstance(caught.value, nndiag.NNDiagError)
    assert isinstance(caught.value, ValueError)
    return message


@pytest.mark.parametrize("kind", BAD)
def test_bad_text_is_refused(kind: str) -> None:
    assert "the text" in assert_refused(BAD[kind])


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(BAD[kind], encoding="utf-8")
    assert str(path) in assert_refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"[]", b"null", b"3", b'"text"', b"\xef\xbb\xbf{}"]
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    assert str(path) in assert_refused(path)


@pytest.mark.parametrize("as_text", [True, False])
def test_missing_file_and_directory(as_text: bool, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path, tmp_path / "missing" / "report.json"):
        assert str(path) in assert_refused(str(path) if as_text else path)


def test_every_truncation_is_refused() -> None:
    text = healthy_report().to_json()
    for end in range(1, len(text) - 1, 7):
        assert_refused(text[:end])


@pytest.mark.parametrize("version", [2, 99, 1.5])
def test_newer_schema_says_to_upgrade(version: float, tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"schema_version": version, "verdicts": []}), encoding="utf-8")
    message = assert_refused(path)
    assert str(path) in message
    assert "newer" in message
    assert "upgrade nndiag" in message


def test_unknown_parts_of_the_same_version_are_ignored() -> None:
    record = full_report().to_dict() | {"extra": 1}
    record["findings"][0]["extra"] = record["readings"][0]["extra"] = [1]
    assert same(Report.from_json(json.dumps(record)), full_report())


@pytest.mark.parametrize(
    "text",
    [
        changed_reading(step=math.inf),
        changed_reading(step=1).replace('"step": 1', '"step": 1e999'),
        changed_reading(value=10**400),
        changed_finding(threshold=10**400),
    ],
    ids=["step Infinity", "step 1e999", "value 10**400", "threshold 10**400"],
)
def test_numbers_too_large_are_refused(text: str) -> None:
    assert_refused(text)


@pytest.mark.parametrize(
    "source", ["missing\x1b[31m\n.json", "nul\x00byte", changed_entry(**{"\x1b[31m\n": 1})]
)
def test_refusals_are_inert(source: str) -> None:
    assert_refused(source)


@pytest.mark.parametrize("text", ["[" * 100_000, "not a report " * 10_000])
def test_long_text_of_another_kind_is_refused_briefly(text: str) -> None:
    assert_refused(text)


WRONG_TYPES = {
    "unknown coverage status": changed_entry(status="elsewhere"),
    "first_step is text": changed_finding(first_step="soon"),
    "last_step is null": changed_finding(last_step=None),
    "last_clean_step is text": changed_finding(last_clean_step="soon"),
    "recommendation is null": changed_finding(recommendation=None),
    "layer of coverage is a list": changed_entry(layer=["fc1"]),
    "reading name is a list": changed_reading(name=["x"]),
    "reading measure is an object": changed_reading(measure={}),
}


@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_what_was_accepted_can_be_shown(kind: str) -> None:
    try:
        report = Report.from_json(WRONG_TYPES[kind])
    except CheckpointError:
        return
    for show in (str, Report.to_json, Report.to_markdown, Report.to_html, Report._repr_html_):
        assert isinstance(show(report), str)


@pytest.mark.parametrize(("depth", "is_read"), [(50, True), (51, False), (300, False), (100_000, False)])
def test_symptoms_are_read_back_as_deep_as_they_can_be_shown(depth: int, is_read: bool) -> None:
    inner = finding(related=()).to_dict()
    text = json.dumps(inner)
    head, tail = text[: -len("[]}")] + "[", "]}"
    assert text == f"{head}{tail}"
    source = changed(findings="@").replace('"@"', f"[{head * depth}{text}{tail * depth}]")
    if not is_read:
        assert_refused(source)
        return
    report = Report.from_json(source)
    assert len(list(report.findings[0].walk())) == depth + 1
    for show in (str, Report.to_json, Report.to_markdown, Report.to_html, Report._repr_html_):
        assert isinstance(show(report), str)


def test_a_name_is_refused_once_and_briefly(tmp_path: Path) -> None:
    path = tmp_path / "x\x9b31m\u202e.json"
    path.write_text("[]", encoding="utf-8")
    message = assert_refused(path)
    assert message.count("x9b31m") == 1
    assert assert_refused("missing.json") == "missing.json cannot be read: No such file or directory."


def test_empty_coverage_is_kept() -> None:
    assert Report.from_json(Report.empty().to_json()).coverage == Coverage()
