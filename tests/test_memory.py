"""Memory: nothing is lost on the way through a checkpoint; where it is too much, the less important part."""

from __future__ import annotations

import io
import math
import zlib
from typing import Any

import pytest
import torch

from nndiag.diagnosis import Diagnosis
from nndiag.errors import CheckpointError
from nndiag.findings import Reading, Severity
from nndiag.ledger import Ledger
from nndiag.memory import VERSION, Memory
from nndiag.options import Selection
from nndiag.rules import Series
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import Moments, ParameterFlow

KEY = Key("fc1", "grad", "weights", "flow/weight")


def series(name: str = "loss", layer: str | None = None, measure: str = "run", steps: int = 3) -> Series:
    """Readings 0.5, 1.5 and so on."""
    readings = [Reading(measure, name, layer, step, step + 0.5) for step in range(steps)]
    made = Series(readings[0])
    for reading in readings[1:]:
        made.add(reading)
    return made


def keyed(*all_series: Series) -> dict[tuple[str, str, str | None], Series]:
    """By measure, name and layer."""
    return {(s.first.measure, s.first.name, s.first.layer): s for s in all_series}


def sent(memory: Memory) -> Memory:
    """Through a file that holds nothing but weights and plain types."""
    file = io.BytesIO()
    torch.save(memory.to_state(), file)
    file.seek(0)
    return Memory.from_state(torch.load(file, weights_only=True))


@pytest.mark.parametrize("steps", [1, 2, 8, 9, 30])
def test_series_arrive_as_they_were(steps: int) -> None:
    before = series(steps=steps)
    after = sent(Memory(7, series=keyed(before))).series["run", "loss", None]
    assert after.first == before.first
    assert list(after.recent) == list(before.recent)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_arrive(value: float) -> None:
    reading = Reading("saturation", "saturated", "fc1", 3, value, None, 5, (value, 1.0), {"worst": value})
    (after,) = sent(Memory(3, series=keyed(Series(reading)))).series.values()
    assert repr(after.first) == repr(reading)


def test_first_statistics_arrive() -> None:
    flow = ParameterFlow.of(torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)).cpu()
    memory = Memory(0, first=Snapshot(4, "live", {}, {KEY: flow}))
    after = sent(memory).first
    assert after is not None
    assert after.step == 4
    for name, tensor in after.statistics[KEY].to_tensors().items():
        assert torch.equal(tensor, flow.to_tensors()[name])


def test_tracks_arrive_as_they_were() -> None:
    verdict = {"severity": "warning", "value": 0.9, "evidence": {"a": "nan"}, "places": ["fc2"]}
    row: dict[str, Any] = {"rule": "ND201", "layer": "fc1", "is_active": True, "streak_start": 3}
    row |= {"first_step": 3, "last_clean_step": 2, "clean_before": 2, "last_step": 8, "recent": [0, 1, 1]}
    row["verdict"] = {**verdict, "is_harmless": False, "is_conclusive": False}
    ledger = Ledger(Selection())
    ledger.take(sent(Memory(8, tracks=[row])).tracks)
    assert ledger.rows() == [row]
    assert Severity(row["verdict"]["severity"]) is Severity.WARNING


def test_rules_that_are_gone_are_left_behind() -> None:
    row: dict[str, Any] = {"rule": "ND999", "layer": None, "first_step": 3}
    assert sent(Memory(8, tracks=[row])).tracks == []


def test_too_much_keeps_the_facts_of_the_run_and_what_rules_decide_by() -> None:
    generator = torch.Generator().manual_seed(0)
    many = []
    for index in range(9000):
        value = float(torch.randn((), generator=generator, dtype=torch.float64))
        many.append(Series(Reading("saturation", "something_else", f"layer{index}", 1, value)))
    decisive = series("saturated", "fc1", "saturation")
    wide = Moments.of(torch.randn(4, 2, 50_000, generator=generator)).cpu()
    flow = ParameterFlow.of(torch.ones(2, 3), None).cpu()
    first = Snapshot(0, "live", {}, {Key("", "output", "probe", "moments"): wide, KEY: flow})
    memory = Memory(9, series=keyed(*many, decisive, series()), first=first)
    file = io.BytesIO()
    torch.save(memory.to_state(), file)
    assert file.tell() <= 64_000
    after = sent(memory)
    assert {("run", "loss", None), ("saturation", "saturated", "fc1")} <= after.series.keys()
    assert 1000 < len(after.series) < 9000
    assert after.first is not None
    assert after.first.step == 0
    assert Key("", "output", "probe", "moments") not in after.first.statistics


def test_restored_diagnosis_goes_on() -> None:
    diagnosis = Diagnosis()
    sent(Memory(9, series=keyed(series()), first=Snapshot(0, "live", {}, {}))).restore(diagnosis)
    update = diagnosis.add(Snapshot(12, "live", {}, {}, facts={"loss": 0.25}))
    assert update.step == 12
    kept = diagnosis.history.series["run", "loss", None]
    assert (kept.first.value, kept.last.value) == (0.5, 0.25)


def test_a_newer_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="newer nndiag wrote it"):
        Memory.from_state({"version": VERSION + 1})


def test_what_expands_too_far_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nndiag.memory._MOST_BYTES", 1000)
    bomb = zlib.compress(b"[" + b" " * 2000 + b"]")
    blob = torch.frombuffer(bytearray(bomb), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="damaged"):
        Memory.from_state({"version": VERSION, "step": 1, "memory": blob})
