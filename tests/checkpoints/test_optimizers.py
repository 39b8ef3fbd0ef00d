"""What a checkpoint says of its step and of its optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nndiag.checkpoints.child import read_here


class Net(nn.Module):
    """With a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The second layer gets gradients of exactly zero."""
        y = self.used(x)
        return y + 0 * self.unused(y)


def trained(groups: int = 1, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = Net()
    parts: list[Any] = [{"params": net.parameters()}]
    if groups == 2:
        parts = [{"params": net.used.parameters()}, {"params": net.unused.parameters(), "lr": 0.5}]
    optimizer = torch.optim.AdamW(parts, lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.rand(5, 3)).square().sum().backward()
        optimizer.step()
    return net, optimizer


def saved(path: Path, key: str = "optimizer_states", groups: int = 1, **more: Any) -> Path:
    net, optimizer = trained(groups)
    state: Any = optimizer.state_dict()
    torch.save(
        {"state_dict": net.state_dict(), key: [state] if key.endswith("states") else state, **more}, path
    )
    return path


@pytest.mark.parametrize("key", ["optimizer_states", "optimizer_state_dict", "optimizer", "optim"])
def test_settings_of_the_optimizer(key: str, tmp_path: Path) -> None:
    facts = read_here(saved(tmp_path / "x.ckpt", key)).facts
    assert (facts["lr"], facts["weight_decay"], facts["optimizer_step"]) == (0.01, 0.1, 3)


def test_largest_of_several_groups(tmp_path: Path) -> None:
    assert read_here(saved(tmp_path / "x.ckpt", groups=2)).facts["lr"] == 0.5


def test_layers_that_no_gradient_reached(tmp_path: Path) -> None:
    facts = read_here(saved(tmp_path / "x.ckpt")).facts
    assert [name for name in facts if name.startswith("no gradient so far")] == ["no gradient so far: unused"]


def test_parameters_in_groups_are_not_guessed(tmp_path: Path) -> None:
    facts = read_here(saved(tmp_path / "x.ckpt", groups=2)).facts
    assert not [name for name in facts if name.startswith("no gradient so far")]


def test_optimizer_beside_the_weights(tmp_path: Path) -> None:
    net, optimizer = trained()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    snapshot = read_here(tmp_path)
    assert (snapshot.step, snapshot.facts["step_from"], snapshot.facts["lr"]) == (3, "the optimizer", 0.01)


@pytest.mark.parametrize(
    ("name", "more", "step", "origin"),
    [
        ("x.ckpt", {"global_step": 70}, 70, "the checkpoint"),
        ("epoch=1-step=50.ckpt", {"global_step": 70}, 70, "the checkpoint"),
        ("x.ckpt", {"iteration": 9}, 9, "the checkpoint"),
        ("x.ckpt", {"global_step": -1}, 3, "the optimizer"),
        ("x.ckpt", {"global_step": True}, 3, "the optimizer"),
        ("x.ckpt", {"global_step": 1 << 70}, 3, "the optimizer"),
        ("x.ckpt", {}, 3, "the optimizer"),
    ],
)
def test_step_of_a_checkpoint(
    name: str, more: dict[str, Any], step: int, origin: str, tmp_path: Path
) -> None:
    snapshot = read_here(saved(tmp_path / name, **more))
    assert (snapshot.step, snapshot.facts["step_from"]) == (step, origin)


@pytest.mark.parametrize(
    ("name", "step", "origin"),
    [
        ("epoch=3-step=400.ckpt", 400, "the name"),
        ("model_step_17.pt", 17, "the name"),
        ("checkpoint-500.pt", 500, "the name"),
        ("global_step20.pt", 20, "the name"),
        ("iter_30.pth", 30, "the name"),
        ("resnet50-0676ba61.pth", 0, "unknown"),
        ("epoch=3.ckpt", 0, "unknown"),
        ("last.ckpt", 0, "unknown"),
    ],
)
def test_step_in_a_name(name: str, step: int, origin: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.rand(3, 2)}, tmp_path / name)
    snapshot = read_here(tmp_path / name)
    assert (snapshot.step, snapshot.facts["step_from"]) == (step, origin)


ODD: dict[str, Any] = {
    "groups of numbers": {"param_groups": [1, 2], "state": {}},
    "no state": {"param_groups": [{"lr": 0.1, "params": [0]}]},
    "a state of numbers": {"param_groups": [{"lr": 0.1}], "state": {0: 1}},
    "lr of infinity": {"param_groups": [{"lr": float("inf"), "weight_decay": float("nan")}], "state": {}},
    "lr of a text": {"param_groups": [{"lr": "0.1", "params": "ab"}], "state": {}},
    "steps of many": {"param_groups": [{"params": [0]}], "state": {0: {"step": torch.ones(3)}}},
    "squares of another shape": {
        "param_groups": [{"params": [0]}],
        "state": {0: {"step": 2, "exp_avg_sq": torch.zeros(7)}},
    },
    "squares of a text": {"param_groups": [{"params": [0]}], "state": {0: {"step": 2, "exp_avg_sq": "0"}}},
    "lr of 10^400": {"param_groups": [{"lr": 10**400, "params": [0]}], "state": {}},
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_optimizers_do_not_keep_the_weights_from_being_read(kind: str, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"fc.weight": torch.rand(3, 2)}, "optimizer_states": [ODD[kind]]}, tmp_path / "x.ckpt"
    )
    snapshot = read_here(tmp_path / "x.ckpt")
    assert list(snapshot.layers) == ["fc"]
    assert not [name for name in snapshot.facts if name.startswith("no gradient so far")]
