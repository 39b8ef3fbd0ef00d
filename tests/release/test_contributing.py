"""The guide for contributors: its measure reads and judges, its commands and places exist."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from nndiag.findings import CoverageEntry, Reading, Severity
from nndiag.layers import discover
from nndiag.measures import MEASURES, RULES, Measure, Visit
from nndiag.rules import History, View
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import ParameterFlow

from .building import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LAYERS = discover(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))


@pytest.fixture(scope="module")
def measure() -> Measure:
    """That of the guide."""
    code = re.search(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert code is not None
    module = types.ModuleType("weight_growth")
    exec(code[1], vars(module))  # noqa: S102
    assert isinstance(module.MEASURE, Measure)
    return module.MEASURE


def snapshot(step: int, parameters: Mapping[str, Tensor]) -> Snapshot:
    """One with the parameters of the first layer."""
    flows = {
        Key("0", "grad", "weights", f"flow/{name}"): ParameterFlow.of(value, None)
        for name, value in parameters.items()
    }
    return Snapshot(step, "live", LAYERS, flows)


def read(measure: Measure, factor: float) -> list[Reading | CoverageEntry]:
    """After the weights went from norm 5 to ``factor`` times that."""
    start = {"weight": torch.tensor([[3.0, 0.0], [0.0, 0.0]]), "bias": torch.tensor([4.0, 0.0])}
    first = snapshot(0, start)
    now = snapshot(9, {name: factor * value for name, value in start.items()})
    return list(measure.read(Visit(now, first)))


def test_it_reads_norms(measure: Measure) -> None:
    reading, entry = read(measure, 20)
    assert isinstance(reading, Reading)
    assert (reading.layer, reading.value, reading.detail["norm"]) == (
        "0",
        pytest.approx(20),
        pytest.approx(100),
    )
    assert isinstance(entry, CoverageEntry)
    assert (entry.layer, entry.status) == ("1", "not applicable")


@pytest.mark.parametrize(("factor", "speaks"), [(20, True), (5, False)])
def test_it_judges_growth_beyond_its_threshold(measure: Measure, factor: float, speaks: bool) -> None:
    (rule,) = measure.rules
    history = History()
    history.add(9, LAYERS, [each for each in read(measure, factor) if isinstance(each, Reading)])
    verdict = rule.judge(View(history, measure.name, "0", rule.threshold))
    assert (verdict is not None) is speaks
    if verdict is not None:
        assert verdict.severity is Severity.INFO
        assert verdict.value == pytest.approx(factor / rule.threshold)


def test_its_names_are_free(measure: Measure) -> None:
    assert measure.name not in MEASURES
    assert not {rule.id for rule in measure.rules} & set(RULES)


@pytest.mark.parametrize("folder", sorted({*re.findall(r"python -m tests\.(\w+)", GUIDE)}))
def test_command_exists(folder: str) -> None:
    assert (ROOT / "tests" / folder / "__main__.py").exists()


def test_every_command_is_listed() -> None:
    commands = {path.parent.name for path in ROOT.glob("tests/*/__main__.py")}
    assert commands <= {*re.findall(r"python -m tests\.(\w+)", GUIDE)}


def test_modes_exist() -> None:
    modes = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    asked = re.findall(r"NNDIAG_TEST_MODE=(\w+)", GUIDE)
    assert asked
    assert [mode for mode in asked if f'"{mode}":' not in modes] == []


def test_places_exist() -> None:
    named = re.findall(r"`((?:nndiag|tests|docs|\.ci)/[\w/.]+)`", GUIDE)
    theirs = [place for place in named if "weight_growth" not in place]
    assert len(theirs) > 8
    assert [place for place in theirs if not (ROOT / place).exists()] == []
