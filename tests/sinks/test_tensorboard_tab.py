"""What the sink writes for the dashboard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.samples import HOSTILE, finding
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from nndiag import events
from nndiag.findings import Coverage, CoverageEntry, Severity
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.report.units import MAX_WIDTH
from nndiag.sinks import TensorBoardSink
from nndiag.sinks.tab import MAX_UNITS, TabData
from sinks.runs import reading, update


def told(*updates: Any, tab: TabData | None = None, file: object = "one") -> list[dict[str, Any]]:
    """The values of each update by tag."""
    tab = tab or TabData()
    return [{value.tag: value for value in tab.values(each, file)} for each in updates]


def text(value: Any) -> dict[str, Any]:
    """The record in a value."""
    record: dict[str, Any] = json.loads(value.tensor.string_val[0])
    return record


def facts(value: Any) -> dict[str, Any]:
    """What a tag says of itself."""
    record: dict[str, Any] = json.loads(value.metadata.plugin_data.content)
    return record


def infos(*names: str, **sources: str) -> dict[str, LayerInfo]:
    """Linear layers in this order."""
    return {
        name: LayerInfo(name, "Linear", "weight", depth, source=sources.get(name))
        for depth, name in enumerate(names)
    }


ROW = "nndiag/row/saturation/saturated"


def test_one_row_a_reading_with_all_layers() -> None:
    readings = (reading("b", 0.5), reading("a", 0.25), reading("a", 3.0, name="phi"))
    [values] = told(update(0, layers=infos("a", "b", "c"), readings=readings))
    np.testing.assert_array_equal(make_ndarray(values[ROW].tensor), np.float32([0.25, 0.5, math.nan]))
    np.testing.assert_array_equal(
        make_ndarray(values["nndiag/row/saturation/phi"].tensor), np.float32([3, math.nan, math.nan])
    )
    assert [row["name"] for row in text(values[events.LAYERS_TAG])["layers"]] == ["a", "b", "c"]


def test_numbers_of_the_run() -> None:
    [values] = told(update(0, readings=(reading(None, 2.5, measure="run", name="loss"),)))
    assert make_ndarray(values["nndiag/run/run/loss"].tensor).tolist() == [2.5]


@pytest.mark.parametrize(("value", "kept"), [(math.nan, math.nan), (math.inf, math.inf), (1e300, math.inf)])
def test_values_that_float32_does_not_hold(value: float, kept: float) -> None:
    [values] = told(update(0, layers=infos("fc1"), readings=(reading("fc1", value),)))
    np.testing.assert_array_equal(make_ndarray(values[ROW].tensor), np.float32([kept]))


def test_tags_are_described_once_a_file() -> None:
    tab = TabData()
    first, second = told(update(0, layers=infos("fc1")), update(1, layers=infos("fc1")), tab=tab)
    assert all(value.HasField("metadata") for value in first.values())
    assert not any(value.HasField("metadata") for value in second.values())
    assert set(second) < set(first)  # layers and coverage are as they were
    [third] = told(update(2, layers=infos("fc1")), tab=tab, file="another")
    assert set(third) == set(first)
    assert all(value.HasField("metadata") for value in third.values())


def test_a_description_says_who_owns_it_and_how_to_read_it() -> None:
    [values] = told(update(0, layers=infos("fc1")))
    for value in values.values():
        assert value.metadata.plugin_data.plugin_name == events.PLUGIN_NAME == "nndiag"
        assert value.metadata.data_class == DATA_CLASS_TENSOR  # without it readers do not see the tag
        assert facts(value)["v"] == events.SCHEMA_VERSION == 1
    said = facts(values[ROW])
    assert (said["kind"], said["measure"], said["reading"]) == ("row", "saturation", "saturated")
    assert said["limits"] == {"ND201": 0.7}


def test_layers_keep_their_places_when_others_come() -> None:
    first, second = told(
        update(0, layers=infos("b"), readings=(reading("b", 0.5),)),
        update(1, layers=infos("a", "b"), readings=(reading("a", 0.25), reading("b", 0.75))),
    )
    assert make_ndarray(first[ROW].tensor).tolist() == [0.5]
    assert make_ndarray(second[ROW].tensor).tolist() == [0.75, 0.25]
    rows = text(second[events.LAYERS_TAG])["layers"]
    assert [(row["name"], row["depth"]) for row in rows] == [("b", 1), ("a", 0)]


def test_findings_are_complete_each_time() -> None:
    found = (finding(("a", "gone"), related=(finding(("b",)),)), finding((), severity=Severity.INFO))
    both = told(*(update(step, layers=infos("a", "b"), findings=found) for step in (3, 5)))
    for step, values in zip((3, 5), both, strict=True):
        record = text(values[events.FINDINGS_TAG])
        assert record["step"] == step
        assert [row["layers"] for row in record["findings"]] == [
            [0, "gone"],
            [],
        ]  # places; names where none is known
        assert record["findings"][0]["related"][0]["layers"] == [1]
        assert record["findings"][0]["evidence"]["samples"] == 512
    assert text(both[1][events.FINDINGS_TAG])["visits"] == 2


def test_values_of_findings_that_json_does_not_hold() -> None:
    [values] = told(update(0, findings=(finding(value=math.nan, evidence={"x": math.inf}),)))
    [row] = text(values[events.FINDINGS_TAG])["findings"]
    assert (row["value"], row["evidence"]) == ("nan", {"x": "inf"})


def test_coverage_by_reason() -> None:
    rows = (
        CoverageEntry("a", "saturation", "measured"),
        CoverageEntry("b", "saturation", "not observed", "compiled"),
        CoverageEntry("c", "saturation", "not observed", "compiled"),
        CoverageEntry(None, "data", "not observed", "no labels"),
    )
    given = update(0, layers=infos("a", "b", "c"), coverage=Coverage(rows, ("a note",)))
    record = text(told(given)[0][events.COVERAGE_TAG])
    assert [(row["status"], row["reason"], row["layers"]) for row in record["groups"]] == [
        ("measured", "", [0]),
        ("not observed", "compiled", [1, 2]),
        ("not observed", "no labels", [None]),
    ]
    assert record["notes"] == ["a note"]


def test_the_end_brings_the_facts_of_the_run(tmp_path: Path) -> None:
    tab = TabData()
    told(update(3, layers=infos("a")), tab=tab)
    report = Report((finding(("a",)),), (), Coverage(), {"overhead": 0.01, "torch": "2.13"})
    values = {value.tag: value for value in tab.ending(report, "one")}
    record = text(values[events.FINDINGS_TAG])
    assert record["is_complete"] is True
    assert record["step"] == 3
    assert record["run"] == {"overhead": 0.01, "torch": "2.13"}
    assert record["findings"][0]["layers"] == [0]


def units_of(values: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Units by tag."""
    prefix = f"{events.UNITS_PREFIX}/"
    return {tag: make_ndarray(value.tensor) for tag, value in values.items() if tag.startswith(prefix)}


def with_units(layer: str, units: tuple[float, ...], **changes: Any) -> Any:
    """A reading with units."""
    return reading(layer, 0.5, units=units, **({"name": "dead_share"} | changes))


def test_units_only_of_layers_that_active_findings_name() -> None:
    layers = infos("a", "a:relu", "b", "c", **{"a:relu": "a"})
    readings = (with_units("a:relu", (0.0, 0.5)), with_units("b", (1.0,)), with_units("c", (1.0,)))
    over = finding(("c",), status="resolved")
    other = finding(("b",), measure="data")
    [values] = told(update(0, layers=layers, readings=readings, findings=(finding(("a",)), over, other)))
    [(tag, found)] = units_of(values).items()
    assert tag == "nndiag/units/saturation/dead_share/a:relu"
    assert found.tolist() == [0.0, 0.5]
    assert facts(values[tag])["layer"] == "a:relu"
    assert (facts(values[tag])["form"], facts(values[tag])["total"]) == ("each", 2)


def test_not_too_many_layers_with_units() -> None:
    names = [f"l{k}" for k in range(30)]
    readings = tuple(with_units(name, (0.0, 1.0)) for name in names)
    [values] = told(update(0, layers=infos(*names), readings=readings, findings=(finding(tuple(names)),)))
    assert len(units_of(values)) == MAX_UNITS == 8


def test_wide_layers_come_as_order_statistics() -> None:
    width = 10_000
    units = tuple(float((7919 * unit) % width) for unit in range(width))
    [values] = told(
        update(0, layers=infos("a"), readings=(with_units("a", units),), findings=(finding(("a",)),))
    )
    [(tag, found)] = units_of(values).items()
    assert len(found) == MAX_WIDTH == 256
    assert (found[0], found[-1]) == (0, width - 1)
    np.testing.assert_allclose(found, np.linspace(0, width - 1, 256), atol=0.51)
    assert (facts(values[tag])["form"], facts(values[tag])["total"]) == ("sorted", width)


def test_marks_of_groups_stay_in_order() -> None:
    marks = tuple(float(unit % 3) for unit in range(600))
    wide = with_units("a", marks, measure="neuron_symmetry", name="effective_width")
    accused = finding(("a",), measure="neuron_symmetry")
    [values] = told(update(0, layers=infos("a"), readings=(wide,), findings=(accused,)))
    [(tag, found)] = units_of(values).items()
    assert found.tolist() == list(marks)
    assert facts(values[tag])["form"] == "groups"


def test_five_hundred_layers_take_little_room(tmp_path: Path) -> None:
    names = [f"blocks.{k}.mlp" for k in range(500)]
    writer = SummaryWriter(str(tmp_path))
    sink = TensorBoardSink(writer)
    visits, kinds = 20, 10
    for step in range(visits):
        readings = tuple(reading(name, 0.5, name=f"r{k}", step=step) for name in names for k in range(kinds))
        sink.write(update(step, layers=infos(*names), readings=readings, findings=(finding(tuple(names)),)))
    writer.close()
    [path] = tmp_path.glob("*tfevents*")
    values = visits * kinds * len(names)
    assert path.stat().st_size < 4 * values * 1.5 + 150_000  # four bytes a value, and names once


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "nothing"])
def test_hostile_names_come_back_as_they_are(kind: str) -> None:
    name = HOSTILE[kind]
    bad = (reading(name), with_units(name, (0.0, 1.0), measure=name, name=name))
    accused = finding((name,), measure=name, message=name, evidence={name: name})
    [values] = told(update(0, layers=infos(name), readings=bad, findings=(accused,)))
    assert all(tag.isascii() and tag.isprintable() and len(tag) <= 200 for tag in values)
    assert text(values[events.LAYERS_TAG])["layers"][0]["name"] == name
    assert text(values[events.FINDINGS_TAG])["findings"][0]["message"] == name
    assert len(units_of(values)) == 1
