"""What the tensors of a file alone say of a network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nndiag
from nndiag.checkpoints import reading, snapshotting
from nndiag.checkpoints.child import read_here
from nndiag.checkpoints.tensors import Stored
from nndiag.findings import Finding
from nndiag.report import Report


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each file would take its time; the reader is the same."""
    monkeypatch.setattr(reading, "read", lambda path, **_: read_here(path))


def rows(units: int = 16, width: int = 12) -> Tensor:
    return torch.randn(units, width, generator=torch.Generator().manual_seed(0))


def checked(folder: Path, state: dict[str, Any], step: int | None = None, **more: Any) -> Report:
    known = {} if step is None else {"global_step": step}
    torch.save({"state_dict": state, **known, **more}, folder / "x.ckpt")
    return nndiag.check(folder / "x.ckpt")


def found(report: Report, rule: str) -> Finding | None:
    return next((finding for top in report.findings for finding in top.walk() if finding.rule == rule), None)


def the(report: Report, rule: str) -> Finding:
    finding = found(report, rule)
    assert finding is not None
    return finding


# --- normalizations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", [0.0, 6e-33, -1.5e-9])
@pytest.mark.parametrize("name", ["weight", "gamma"])
def test_some_gains_next_to_zero(tiny: float, name: str, tmp_path: Path) -> None:
    gain = torch.linspace(0.5, 1.5, 16)
    gain[[1, 4, 7]] = tiny
    finding = the(checked(tmp_path, {f"norm.{name}": gain}), "ND406")
    assert (finding.severity, finding.evidence["which"], finding.evidence["channels"]) == (
        "info",
        "1, 4, 7",
        16,
    )
    assert "constant: their gain is next to nothing (channels 1, 4, 7)" in finding.message


def test_a_small_gain_is_no_constant_output(tmp_path: Path) -> None:
    gain = torch.ones(16)
    gain[3] = 1e-4
    assert found(checked(tmp_path, {"norm.weight": gain}), "ND406") is None


def test_gains_and_variances_together(tmp_path: Path) -> None:
    state = {f"bn.{name}": tensor for name, tensor in nn.BatchNorm1d(16).state_dict().items()}
    state["bn.weight"][2] = 0.0
    state["bn.running_var"][[2, 5]] = 1e-8
    finding = the(checked(tmp_path, state, 40), "ND406")
    assert finding.evidence["which"] == "2, 5"
    assert "their gain or their running variance is next to nothing" in finding.message


# --- units ----------------------------------------------------------------------------------------------------


def test_decayed_rows_are_not_copies(tmp_path: Path) -> None:
    """Weight decay leaves rows of a hundred-thousandth: they repeat nothing."""
    weight = rows()
    weight[:4] *= 1e-5
    finding = the(checked(tmp_path, {"fc.weight": weight}, 40), "ND304")
    assert (finding.severity, finding.evidence["copies"], finding.evidence["zero_units"]) == ("info", 0, 4)
    assert "4 units have weights next to zero" in finding.message


def test_multiples_of_units_are_a_note(tmp_path: Path) -> None:
    weight, bias = rows(), torch.linspace(-1, 1, 16)
    weight[8:12], bias[8:12] = 3 * weight[:4], 3 * bias[:4]
    finding = the(checked(tmp_path, {"fc.weight": weight, "fc.bias": bias}, 40), "ND304")
    assert (finding.severity, finding.evidence["scaled_copies"], finding.evidence["distinct"]) == (
        "info",
        4,
        16,
    )
    assert "4 more are multiples of others" in finding.message


def test_units_of_a_depthwise_convolution_read_inputs_of_their_own(tmp_path: Path) -> None:
    state = {"stem.weight": rows(16, 27).reshape(16, 3, 3, 3), "dw.weight": torch.ones(16, 1, 3, 3)}
    assert found(checked(tmp_path, state), "ND304") is None


def test_a_first_convolution_of_one_channel_is_not_depthwise(tmp_path: Path) -> None:
    state = {"stem.weight": torch.ones(16, 1, 3, 3), "next.weight": rows(16, 144).reshape(16, 16, 3, 3)}
    assert the(checked(tmp_path, state), "ND304").layers == ("stem",)


# --- initial weights ------------------------------------------------------------------------------------------

DEFAULT = "torch default (uniform in +-1/sqrt(fan_in))"
LAWS: dict[str, tuple[Callable[[Tensor], Tensor], str, float]] = {
    "kaiming": (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), "He normal (fan_in)", 2.0),
    "lecun": (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"), "LeCun uniform", 1.0),
    "default": (
        lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
        "torch default (uniform in +-1/sqrt(fan_in))",
        1 / 3,
    ),
    "constant": (lambda w: nn.init.constant_(w, 0.125), "constant", 64 * 0.125**2),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("is_large", [False, True])
def test_law_and_gain_of_initial_weights(
    name: str, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr(snapshotting, "_LAW", 10_000)
    torch.manual_seed(0)
    initialize, law, gain = LAWS[name]
    report = checked(tmp_path, {"fc.weight": initialize(torch.empty(400, 64))}, 0)
    reading = next(r for r in report.readings if r.name == "weight_gain")
    assert law in str(reading.detail["laws"]).split("; ")
    assert reading.value == pytest.approx(gain, rel=0.05)


def test_laws_of_trained_weights_are_not_sought(tmp_path: Path) -> None:
    report = checked(tmp_path, {"fc.weight": rows()}, 40)
    assert not [r for r in report.readings if r.name == "weight_gain"]


# --- reading --------------------------------------------------------------------------------------------------


def test_a_model_inside_a_model(tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": {"fc.weight": rows()}, "args": {"a": 1}}}, tmp_path / "x.pt")
    snapshot = read_here(tmp_path / "x.pt")
    assert list(snapshot.layers) == ["fc"]
    assert "the model was read from 'state_dict' of 'model' of the checkpoint" in snapshot.notes


def test_each_tensor_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[object] = Counter()
    read = Stored.read

    def counted(stored: Stored) -> Tensor:
        reads[stored.identity] += 1
        return read(stored)

    monkeypatch.setattr(Stored, "read", counted)
    net = nn.Sequential(
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.LSTM(8, 4), nn.Embedding(5, 8), nn.LayerNorm(8)
    )
    report = checked(tmp_path, dict(net.state_dict()), 0)
    assert report.run["visits"] == 1
    assert set(reads.values()) == {1}


def test_numbers_too_large_to_be_squared(tmp_path: Path) -> None:
    """Of float64: the norm stays infinite where nothing else is wrong."""
    weight = torch.full((8, 6), 1e200, dtype=torch.float64)
    assert found(checked(tmp_path, {"fc.weight": weight}), "ND604") is None
