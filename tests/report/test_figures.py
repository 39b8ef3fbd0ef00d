"""The data of the page: what the report and the visits of its run say, and no more than a page can hold."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from nndiag.findings import Coverage, CoverageEntry, Reading
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.report import figures as module
from nndiag.report.figures import coverage_groups, figures
from report.samples import finding, full_report, reading


class Visit(NamedTuple):
    """A visit of a recorded run."""

    layers: dict[str, LayerInfo]
    readings: tuple[Reading, ...]


INFOS = {"b": LayerInfo("b", "Linear", "weight", 0, units=4), "a": LayerInfo("a", "Linear", "weight", 1)}


def visits(steps: range = range(3), **changes: Any) -> list[Visit]:
    """Saturation of two layers and the loss; the value says layer and step."""
    return [
        Visit(
            INFOS,
            (
                reading("b", step=step, value=float(step), **changes),
                reading("a", step=step, value=100.0 + step),
                reading(None, measure="run", name="loss", step=step, value=1 / (1 + step)),
            ),
        )
        for step in steps
    ]


def unpacked(row: dict[str, Any]) -> dict[int, list[float]]:
    """Values by place of a layer, as the page reads them."""
    values = np.frombuffer(base64.b64decode(row["values"]), "<f4").reshape(
        len(row["layers"]), len(row["steps"])
    )
    return dict(zip(row["layers"], values.tolist(), strict=True))


def test_a_series_by_layer_and_step() -> None:
    data = figures(Report(), visits(), "mine")
    assert data["run"]["name"] == "mine"
    assert data["run"]["is_series"] is True
    assert [layer["name"] for layer in data["run"]["layers"]] == ["b", "a"]
    assert data["run"]["layers"][0] == {
        "name": "b",
        "kind": "Linear",
        "role": "weight",
        "depth": 0,
        "units": 4,
        "activation": None,
        "source": None,
        "is_output": False,
    }
    row = data["rows"]["saturation/saturated"]
    assert (row["steps"], row["samples"]) == ([0, 1, 2], 3)
    assert unpacked(row) == {0: [0, 1, 2], 1: [100, 101, 102]}


def test_newest_values_beside_what_is_known_of_a_reading() -> None:
    [facts] = figures(Report(), visits())["run"]["readings"]
    assert (facts["values"], facts["steps"]) == ([2, 102], [2, 2])
    assert (facts["worst"], facts["judged"], facts["limits"]) == ("high", True, {"ND201": 0.7})


def test_numbers_of_the_run() -> None:
    data = figures(Report(), visits())
    [number] = data["numbers"]
    assert (number["reading"], number["steps"]) == ("loss", [0, 1, 2])
    assert number["values"] == [1, 0.5, 0.333333]
    assert data["run"]["numbers"] == [{"tag": number["tag"], "measure": "run", "reading": "loss"}]


def test_a_report_alone_has_no_series_but_all_that_it_says() -> None:
    data = figures(full_report())
    run = data["run"]
    assert run["is_series"] is False
    assert (run["step"], run["visits"], run["is_complete"]) == (12_345, 7, True)
    assert [row["rule"] for row in run["findings"]] == ["ND201", "ND202", "ND313", "ND301"]
    assert {layer["name"] for layer in run["layers"]} == {f"fc{k}" for k in range(1, 7)}
    assert run["facts"]["loss"] == pytest.approx(2.302585)
    assert unpacked(data["rows"]["saturation/saturated"]) == {0: [0.875], 2: [-math.inf]}


def test_an_empty_report() -> None:
    data = figures(Report.empty())
    assert data["rows"] == {}
    assert data["run"]["step"] is None
    assert data["run"]["visits"] is None
    assert data["run"]["layers"] == []


@pytest.mark.parametrize("facts", [{"visits": "many", "last_step": -1}, {"visits": None, "last_step": 2.5}])
def test_odd_facts_are_not_taken_for_numbers(facts: dict[str, Any]) -> None:
    run = figures(Report(readings=(reading(),), run=facts))["run"]
    assert (run["visits"], run["step"]) == (None, 12_345)


def test_units_of_the_layers_that_findings_name() -> None:
    report = Report((finding(("b",)), finding(("a",), status="resolved", rule="ND202")))
    data = figures(report, visits(range(100), units=(0.0, 0.5, math.nan)))
    [units] = data["units"]
    assert (units["layer"], units["form"], units["total"]) == ("b", "each", 3)
    steps = [shot["step"] for shot in units["snapshots"]]
    assert len(steps) == 24
    assert (steps[0], steps[-1]) == (0, 99)
    assert units["snapshots"][0]["values"] == [0, 0.5, None]


def test_heat_maps_of_long_runs_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", 80)
    row = figures(Report(), visits(range(400)))["rows"]["saturation/saturated"]
    assert row["samples"] == 400
    assert len(row["steps"]) == 40
    assert row["steps"][-1] == 399
    assert unpacked(row)[1][-1] == 499


def test_coverage_by_measure_status_and_reason() -> None:
    entries = [CoverageEntry(name, "saturation", "not observed", "why") for name in ("x", "y")]
    groups = coverage_groups(Coverage((*entries, CoverageEntry(None, "data", "measured"))))
    assert groups == [
        {"measure": "saturation", "status": "not observed", "reason": "why", "layers": ["x", "y"]},
        {"measure": "data", "status": "measured", "reason": "", "layers": [None]},
    ]


def test_it_is_json() -> None:
    odd = (reading(value=math.nan), reading("x", value=math.inf), reading(None, value=-math.inf))
    text = json.dumps(figures(Report((finding(value=math.nan),), odd, run={"x": math.inf})), allow_nan=False)
    assert json.loads(text)["run"]["facts"]["x"] == "inf"
