"""The record of a run: it survives crashes, refuses damage, and gives the report again."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from report.samples import HOSTILE

import nndiag
from nndiag.diagnosis import Update
from nndiag.errors import CheckpointError
from nndiag.findings import Coverage, CoverageEntry, Reading, Severity
from nndiag.layers import LayerInfo
from nndiag.options import Selection
from nndiag.report import Report
from nndiag.sinks import RecordSink, read_run, rediagnose
from nndiag.sinks.jsonl import encode, pack, unpack
from sinks.runs import STEPS, VISITS, finding, reading, sick_network, update, watched


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nndiag.Report]:
    """The directory of a finished run, and its live report."""
    directory = tmp_path_factory.mktemp("run")
    return directory, watched(directory).report


def write(directory: Path, *updates: Update, report: Report | None = None) -> Path:
    """One session; closed when a report is given."""
    sink = RecordSink(directory)
    for each in updates:
        sink.write(each)
    if report is not None:
        sink.close(report)
    return directory / "nndiag.jsonl"


def numbers_of(each: Reading) -> Iterator[float]:
    """Every number that a reading holds."""
    yield from (
        value for value in (each.value, each.resolution, *each.detail.values()) if isinstance(value, float)
    )
    yield from each.units or ()


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Every line of a record."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def refusal(path: Path) -> str:
    """The one line with which a record is refused."""
    with pytest.raises(CheckpointError) as caught:
        read_run(path)
    message = str(caught.value)
    assert message.isprintable()
    assert str(path) in message
    return message


def test_the_record_gives_the_live_report_again(run: tuple[Path, nndiag.Report]) -> None:
    directory, live = run
    again = rediagnose(read_run(directory))
    assert live.status == "critical"
    assert "ND201" in {finding.rule for finding in live.findings}
    assert again.findings == live.findings
    assert again.readings == live.readings
    assert again.coverage == live.coverage
    assert dict(again.run) == dict(live.run)
    assert again == live


def test_the_plain_monitor_reads_gradients(run: tuple[Path, nndiag.Report]) -> None:
    assert "ND301" in {each.rule for top in run[1].findings for each in top.walk()}
    assert "locked_share" in {reading.name for reading in read_run(run[0]).visits[2].readings}


def test_visits_are_those_of_the_run(run: tuple[Path, nndiag.Report]) -> None:
    recorded = read_run(run[0])
    assert [visit.step for visit in recorded.visits] == VISITS
    assert recorded.path == run[0] / "nndiag.jsonl"
    assert {r.step for visit in recorded.visits[3:4] for r in visit.readings} == {3}
    assert set(recorded.visits[0].layers) == {"0", "1", "2", "3", "4"}
    assert recorded.visits[0].layers["1"].activation == "tanh"
    assert read_run(str(run[0] / "nndiag.jsonl")).visits == recorded.visits


def test_every_line_is_json_with_a_checksum_of_what_stands_before(run: tuple[Path, nndiag.Report]) -> None:
    raw = (run[0] / "nndiag.jsonl").read_bytes()
    assert raw.endswith(b"\n")
    assert raw.isascii()
    for line in raw.splitlines():
        body, _, rest = line.rpartition(b',"crc32":"')
        assert rest == f'{zlib.crc32(body):08x}"}}'.encode()
        assert json.loads(line)["crc32"] == f"{zlib.crc32(body):08x}"


def test_lines_come_in_order_and_only_when_they_change(run: tuple[Path, nndiag.Report]) -> None:
    lines = lines_of(run[0] / "nndiag.jsonl")
    kinds = [line["kind"] for line in lines]
    assert kinds[:3] == ["session", "layers", "visit"]
    assert kinds[-1] == "end"
    assert kinds.count("session") == kinds.count("end") == 1
    assert kinds.count("visit") == len(VISITS)
    assert 1 <= kinds.count("findings") < len(VISITS)
    assert lines[0]["schema_version"] == 1
    assert lines[0]["nndiag"] == nndiag.__version__
    assert lines[-1]["status"] == run[1].status
    newest = [line for line in lines if line["kind"] == "findings"][-1]
    assert {f["rule"] for f in newest["findings"]} == {f.rule for f in run[1].findings}


def test_no_sample_is_written(tmp_path: Path) -> None:
    """No number of the record is one of the inputs, or one of the weights at the start."""
    watched(tmp_path)
    recorded = {
        value for visit in read_run(tmp_path).visits for each in visit.readings for value in numbers_of(each)
    }
    generator = torch.Generator().manual_seed(1)
    inputs = torch.cat([torch.randn(64, 8, generator=generator) for _ in range(STEPS)])
    weights = torch.cat([parameter.detach().flatten() for parameter in sick_network().parameters()])
    assert len(recorded) > 100
    assert recorded.isdisjoint(inputs.flatten().tolist())
    assert recorded.isdisjoint(weights.tolist())


def test_coverage_is_written_when_it_changes(tmp_path: Path) -> None:
    later = Coverage((CoverageEntry("fc1", "saturation", "not observed", "gone"),))
    path = write(tmp_path, update(0), update(1), update(2, coverage=later), update(3, coverage=later))
    assert ["coverage" in line for line in lines_of(path) if line["kind"] == "visit"] == [
        True,
        False,
        True,
        False,
    ]
    assert [visit.coverage.entries[0].reason for visit in read_run(path).visits] == ["", "", "gone", "gone"]


def test_layers_are_written_when_they_change(tmp_path: Path) -> None:
    one = {"fc1": LayerInfo("fc1", "Linear", "weight", 0)}
    two = one | {"fc2": LayerInfo("fc2", "Tanh", "activation", 1, edges=(-2.0, None), aliases=("x",))}
    path = write(tmp_path, update(0, layers=one), update(1, layers=one), update(2, layers=two))
    assert [line["kind"] for line in lines_of(path)] == [
        "session",
        "layers",
        "visit",
        "visit",
        "layers",
        "visit",
    ]
    assert [dict(visit.layers) for visit in read_run(path).visits] == [one, one, two]


def test_findings_are_written_when_they_change(tmp_path: Path) -> None:
    path = write(tmp_path, update(0), update(1, changed=True, findings=(finding(),)))
    [line] = [line for line in lines_of(path) if line["kind"] == "findings"]
    assert line["step"] == 1
    assert line["findings"] == [finding().to_dict()]


def test_a_run_without_a_visit_leaves_no_file(tmp_path: Path) -> None:
    RecordSink(tmp_path / "run").close(Report.empty())
    assert list(tmp_path.iterdir()) == []


# --- units ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_units_come_back_bit_for_bit(count: int) -> None:
    generator = np.random.default_rng(0)
    units = tuple((generator.standard_normal(count) * 10.0 ** generator.integers(-300, 300, count)).tolist())
    packed = json.loads(json.dumps(pack(reading(units=units))))
    assert isinstance(packed["units"], list if count < 64 else str)
    assert unpack(packed) == reading(units=units)


def test_units_that_are_no_ordinary_numbers() -> None:
    odd = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1)
    for units in (odd, odd * 20):
        back = unpack(json.loads(json.dumps(pack(reading(units=units)), allow_nan=False))).units
        assert back is not None
        assert np.asarray(back).tobytes() == np.asarray(units).tobytes()
        assert all(type(unit) is float for unit in back)


@given(st.lists(st.floats(), min_size=64, max_size=80))
def test_any_units(units: list[float]) -> None:
    back = unpack(pack(reading(units=tuple(units)))).units
    assert back is not None
    assert [math.isnan(a) or (a == b and math.copysign(1, a) == math.copysign(1, b)) for a, b in zip(
        units, back, strict=True
    )] == [True] * len(units)  # fmt: skip


def test_no_units_are_no_units() -> None:
    assert "units" not in pack(reading())
    assert unpack(pack(reading())).units is None


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    readings = tuple(
        reading(name, value) for name, value in (("a", math.nan), ("b", math.inf), ("c", -math.inf))
    )
    path = write(tmp_path, update(0, readings=readings))
    assert repr(read_run(path).visits[0].readings) == repr(readings)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names(kind: str, tmp_path: Path) -> None:
    name = HOSTILE[kind]
    layers = {name: LayerInfo(name, name, "weight", 0, aliases=(name,))}
    coverage = Coverage((CoverageEntry(name, "saturation", "not observed", name),), (name,))
    given = update(0, layers=layers, readings=(reading(name, detail={"x": name}),), coverage=coverage)
    path = write(tmp_path, given, update(1), report=Report(run={"probe": name}))
    assert path.read_bytes().isascii()
    assert path.read_bytes().count(b"\n") == len(lines_of(path)) == 6
    recorded = read_run(path)
    assert recorded.visits[0].readings == given.readings
    assert recorded.visits[0].coverage == coverage
    assert recorded.visits[0].layers == layers
    assert recorded.run == {"probe": name}


# --- crashes --------------------------------------------------------------------------------------------------


def test_a_crash_may_cut_the_last_line_anywhere(tmp_path: Path) -> None:
    path = write(tmp_path, update(0), update(1))
    whole = path.read_bytes()
    begin = whole[:-1].rindex(b"\n") + 1
    for end in range(begin, len(whole)):
        path.write_bytes(whole[:end])
        steps = [visit.step for visit in read_run(path).visits]
        assert steps == ([0, 1] if end == len(whole) - 1 else [0])


@pytest.mark.parametrize("cut", [1, 2, 3, 20, 60])
def test_a_cut_line_before_a_second_session(cut: int, tmp_path: Path) -> None:
    path = write(tmp_path, update(0), update(1))
    path.write_bytes(path.read_bytes()[:-cut])
    write(tmp_path, update(5), update(6), report=Report(run={"visits": 2}))
    recorded = read_run(path)
    assert [visit.step for visit in recorded.visits] == ([0, 1, 5, 6] if cut == 1 else [0, 5, 6])
    assert recorded.run == {"visits": 2}


def test_a_cut_line_before_a_third_session(tmp_path: Path) -> None:
    for session in range(3):
        path = write(tmp_path, update(2 * session), update(2 * session + 1))
        path.write_bytes(path.read_bytes()[:-10])
    assert [visit.step for visit in read_run(path).visits] == [0, 2, 4]


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    write(tmp_path, update(0), update(7))
    report = rediagnose(read_run(tmp_path))
    assert report.run == {"nndiag": nndiag.__version__, "is_complete": False, "visits": 2, "last_step": 7}
    assert "the record stops before the run ended" in str(report)


def test_a_later_session_counts_where_steps_overlap(tmp_path: Path) -> None:
    first = [update(step, readings=(reading(value=0.1, step=step),)) for step in (0, 1, 2, 3)]
    write(tmp_path, *first, report=Report(run={"visits": 4}))
    second = [update(step, readings=(reading(value=0.2, step=step),)) for step in (2, 5)]
    write(tmp_path, *second)
    visits = read_run(tmp_path).visits
    assert [(visit.step, visit.readings[0].value) for visit in visits] == [
        (0, 0.1),
        (1, 0.1),
        (2, 0.2),
        (5, 0.2),
    ]
    assert read_run(tmp_path).run["is_complete"] is False


def test_after_an_error_a_new_session_begins(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    sink = RecordSink(directory)
    sink.write(update(0))
    path = directory / "nndiag.jsonl"
    path.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        sink.write(update(1))
    sink.write(update(2))
    assert [line["kind"] for line in lines_of(path)] == ["session", "layers", "visit"]
    assert [visit.step for visit in read_run(path).visits] == [2]


# --- damage ---------------------------------------------------------------------------------------------------


def flip(line: bytes) -> bytes:
    """One bit in the middle of a line."""
    place = len(line) // 2
    return line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped bit": flip,
    "cut": lambda line: line[: len(line) // 2],
    "other text": lambda line: b"# heading",
    "no checksum": lambda line: line.partition(b',"crc32"')[0] + b"}",
    "wrong checksum": lambda line: line[:-10] + b'00000000"}',
    "not UTF-8": lambda line: b"\xff\xfe" + line,
    "two lines in one": lambda line: line + line,
}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_in_the_middle_is_refused(damage: str, number: int, tmp_path: Path) -> None:
    path = write(tmp_path, update(0), update(1), update(2))
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = DAMAGE[damage](lines[number - 1])
    path.write_bytes(b"\n".join(lines))
    assert f"line {number} is damaged" in refusal(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "no" / "such" / "run")
    (tmp_path / "nndiag.jsonl").mkdir()
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not a record", b"\x00" * 1000, b"{}\n", b"[" * 100_000])
def test_files_of_another_kind_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nndiag.jsonl"
    path.write_bytes(content)
    refusal(path)


def test_a_header_alone_is_no_run(tmp_path: Path) -> None:
    path = write(tmp_path, update(0))
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert "holds no visit" in refusal(path)


def session(**changes: Any) -> dict[str, Any]:
    """A header."""
    return {"kind": "session", "schema_version": 1, "nndiag": "0.1.0", "time": 0.0} | changes


def visit(**changes: Any) -> dict[str, Any]:
    """A visit as it is written."""
    row = reading(step=0).to_dict() | changes
    return {"kind": "visit", "step": 0, "coverage": Coverage().to_dict(), "readings": [row]}


def forged(directory: Path, *records: dict[str, Any]) -> Path:
    """A file with right checksums and any content."""
    path = directory / "nndiag.jsonl"
    path.write_bytes(b"".join(map(encode, records)))
    return path


def test_newer_schema_says_to_upgrade(tmp_path: Path) -> None:
    message = refusal(forged(tmp_path, session(schema_version=2), {"kind": "tensors"}))
    assert "newer nndiag" in message
    assert "upgrade nndiag" in message


def test_unknown_kinds_of_lines_are_left_out(tmp_path: Path) -> None:
    path = forged(tmp_path, session(), {"kind": "weather", "x": 1}, visit())
    assert [visit.step for visit in read_run(path).visits] == [0]


def layer(**changes: Any) -> dict[str, Any]:
    """A layer as a record holds it."""
    info = LayerInfo("fc1", "Tanh", "activation", 1, edges=(-2.0, None))
    return json.loads(json.dumps(asdict(info))) | changes


def covered(**changes: Any) -> dict[str, Any]:
    """A line of coverage as a record holds it."""
    return {"layer": "fc1", "measure": "saturation", "status": "measured", "reason": ""} | changes


FLOOD = base64.b64encode(zlib.compress(bytes(2**27 + 8), 1)).decode()
BOMB = base64.b64encode(zlib.compress(b"\x00" * 1001)).decode()

WRONG: dict[str, list[dict[str, Any]]] = {
    "no kind": [{"x": 1}],
    "no version": [{"kind": "session"}],
    "version is text": [session(schema_version="1")],
    "version is before the first": [session(schema_version=0), visit()],
    "no readings": [session(), {"kind": "visit", "step": 0}],
    "step is text": [session(), visit() | {"step": "x\x1b[31m\n"}],
    "step is null": [session(), visit() | {"step": None}],
    "reading is a list": [session(), visit() | {"readings": [[]]}],
    "value is text": [session(), visit(value="much\n")],
    "units are not base64": [session(), visit(units="\x1b\n*")],
    "units are not compressed": [session(), visit(units="AAAA")],
    "units are not whole numbers of bytes": [session(), visit(units=BOMB)],
    "layers are numbers": [session(), {"kind": "layers", "layers": [1]}],
    "layer lacks a name": [session(), {"kind": "layers", "layers": [{"kind": "Linear"}]}],
    "layer lacks a kind": [session(), {"kind": "layers", "layers": [{"name": "fc1"}]}],
    "coverage is a list": [session(), visit() | {"coverage": []}],
    "run is null": [session(), visit(), {"kind": "end", "run": None}],
    "run holds a list": [session(), visit(), {"kind": "end", "run": {"x": []}}],
    "name of a reading is a list": [session(), visit(name=["x"])],
    "detail is nested": [session(), visit(detail={"x": {"y": 1}})],
    "depth is text": [session(), {"kind": "layers", "layers": [layer(depth="first")]}],
    "edges are three": [session(), {"kind": "layers", "layers": [layer(edges=[0.0, 1.0, 2.0])]}],
    "domains are of another kind": [
        session(),
        {"kind": "layers", "layers": [layer(domains=[{"name": 1, "parts": []}])]},
    ],
    "coverage is unknown": [
        session(),
        visit() | {"coverage": {"entries": [covered(status="elsewhere")], "notes": []}},
    ],
    "units never end": [session(), visit(units=FLOOD)],
}


@pytest.mark.parametrize("kind", WRONG)
def test_lines_that_say_something_else_are_refused(kind: str, tmp_path: Path) -> None:
    assert "is not of an nndiag record" in refusal(forged(tmp_path, *WRONG[kind]))


@pytest.mark.parametrize("number", ["1e999", "Infinity"])
def test_steps_too_large_are_refused(number: str, tmp_path: Path) -> None:
    path = forged(tmp_path, session(), visit())
    body = json.dumps(visit()).replace('"step": 0', f'"step": {number}').encode()[:-1]
    line = body + f',"crc32":"{zlib.crc32(body):08x}"}}\n'.encode()
    path.write_bytes(encode(session()) + line)
    refusal(path)


def test_layers_and_coverage_of_the_right_types_are_read(tmp_path: Path) -> None:
    """What the wrong ones above differ from."""
    coverage = {"entries": [covered()], "notes": []}
    path = forged(
        tmp_path, session(), {"kind": "layers", "layers": [layer()]}, visit() | {"coverage": coverage}
    )
    [recorded] = read_run(path).visits
    assert recorded.layers["fc1"].edges == (-2.0, None)
    assert recorded.coverage.entries[0].status == "measured"


def test_numbers_that_are_none_come_back(tmp_path: Path) -> None:
    odd = reading(value=math.inf, resolution=math.inf, detail={"x": -math.inf, "y": "nano"})
    path = write(tmp_path, update(0, readings=(odd,)), report=Report(run={"x": math.inf}))
    assert read_run(path).visits[0].readings == (odd,)
    assert read_run(path).run == {"x": math.inf}


def test_a_path_that_cannot_be_is_refused() -> None:
    with pytest.raises(CheckpointError):
        read_run("run\x00")


# --- today's rules --------------------------------------------------------------------------------------------


def test_rules_can_be_chosen_afterwards(run: tuple[Path, nndiag.Report]) -> None:
    recorded = read_run(run[0])

    def rules(selection: Selection) -> set[str]:
        return {each.rule for top in rediagnose(recorded, selection).findings for each in top.walk()}

    assert rules(Selection.checked(select=["ND201"])) == {"ND201"}
    assert "ND201" not in rules(Selection.checked(ignore=["ND2"]))
    assert "ND201" not in rules(Selection.checked(thresholds={"ND201": 0.999}))
    assert rules(Selection.checked(select=["ND3"])) <= {
        "ND301",
        "ND302",
        "ND303",
        "ND304",
        "ND311",
        "ND312",
        "ND313",
    }


@pytest.mark.parametrize("name", ["0", "1"])
def test_a_layer_is_known_by_its_name_and_by_the_one_that_is_shown(
    run: tuple[Path, nndiag.Report], name: str
) -> None:
    """The tanh is read as "1", and the finding names "0", whose weights make it saturate."""
    recorded, full = read_run(run[0]), {f.rule: f for top in run[1].findings for f in top.walk()}
    [found] = rediagnose(recorded, Selection.checked(select=[f"ND201:{name}"])).findings
    assert found == replace(full["ND201"], severity=found.severity, related=())
    assert found.layers == ("0",)
    assert rediagnose(recorded, Selection.checked(select=["ND201"], ignore=[f"ND201:{name}"])).findings == ()
    assert rediagnose(recorded, Selection.checked(select=["ND201:4"])).findings == ()


def test_history_is_kept_of_layers_chosen_by_the_name_that_is_shown(
    run: tuple[Path, nndiag.Report], tmp_path: Path
) -> None:
    """Clean visits name no layer, and count all the same: when it began, and that it is over."""
    layers = {"act": LayerInfo("act", "Tanh", "activation", 1, activation="tanh", bounded=True, source="fc")}
    live = next(each for each in run[1].readings if each.name == "saturated")
    updates = [
        update(step, layers=layers, readings=(replace(live, layer="act", step=step, value=value),))
        for step, value in enumerate((0.1, 0.1, 0.99, 0.99, 0.1, 0.1))
    ]
    selection = Selection.checked(select=["ND201:fc"])
    begun = rediagnose(read_run(write(tmp_path / "begun", *updates[:4])), selection)
    assert [(f.first_step, f.last_clean_step, f.status) for f in begun.findings] == [(2, 1, "active")]
    over = rediagnose(read_run(write(tmp_path / "over", *updates)), selection)
    assert [(f.first_step, f.last_clean_step, f.status) for f in over.findings] == [(2, 1, "resolved")]


def test_what_todays_rules_cannot_judge_is_refused(tmp_path: Path) -> None:
    """A record of another version may lack a fact that a rule relies on."""
    bare = reading(None, measure="coverage", name="features_with_faults", value=1.0)
    broken = reading(None, measure="initialization", name="gradient_gain", value=1e-9)
    path = write(tmp_path, update(0, readings=(bare, broken)))
    with pytest.raises(CheckpointError, match="cannot be judged by the rules of nndiag") as caught:
        rediagnose(read_run(path))
    assert str(caught.value).isprintable()


def test_layers_can_be_chosen_afterwards(run: tuple[Path, nndiag.Report]) -> None:
    report = rediagnose(read_run(run[0]), Selection.checked(layers=["2*"]))
    assert {reading.layer for reading in report.readings} == {"2", None}
    assert Severity.CRITICAL not in {
        finding.severity for finding in report.findings if finding.rule == "ND201"
    }


def test_judging_again_changes_nothing(run: tuple[Path, nndiag.Report]) -> None:
    recorded = read_run(run[0])
    assert rediagnose(recorded) == rediagnose(recorded) == rediagnose(read_run(run[0]))
    assert recorded.run == read_run(run[0]).run
