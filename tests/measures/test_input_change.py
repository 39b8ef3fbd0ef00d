"""Inputs that become others in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from .loops import train
from .runs import Run, batches

STEPS, SINCE = 160, 80


def run(change: Callable[[Tensor], Tensor]) -> Run:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    data = [(change(x) if step >= SINCE else x, y) for step, (x, y) in enumerate(batches(STEPS))]
    return train(model, data, torch.optim.SGD(model.parameters(), 0.05))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: 20 * x + 100, "times what it was, and a constant, and the loss rose"),
        (lambda x: -x - 2, "times what it was, and a constant."),
        (lambda x: x + 12, "half of all features have moved by more than 1"),
    ],
    ids=["another scale", "inverted", "another offset"],
)
def test_another_map_is_seen_and_dated(change: Callable[[Tensor], Tensor], words: str) -> None:
    found = run(change).findings()["ND102"]
    assert found.evidence["since"] is not None
    assert SINCE <= int(found.evidence["seen_at"] or 0) < SINCE + 60
    assert words in found.message
    assert "Compare how inputs are made before and after that step" in found.recommendation
    assert (found.severity == "warning") == (float(found.evidence["loss_rose"] or 0) > 1.5)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: 1.2 * x, lambda x: x.flip(0)])
def test_the_same_inputs_are_left_alone(change: Callable[[Tensor], Tensor]) -> None:
    found = run(change).findings().get("ND102")
    assert found is None or "input_change" not in found.evidence
