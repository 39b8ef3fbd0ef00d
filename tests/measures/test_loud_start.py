"""Networks whose first loss is far above that of guessing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from .loops import train
from .runs import Run, batches


def run(scale: float, *, lr: float = 1e-4, steps: int = 130) -> Run:
    """Only the output layer is scaled: no gradient grows with depth."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        model[2].weight.mul_(scale)
    return train(model, batches(steps), torch.optim.SGD(model.parameters(), lr))


def test_noise_that_stays_is_a_warning_of_the_layers_that_began_too_large() -> None:
    watched = run(200.0)
    first = watched.reading("loss", None, 0).value
    assert watched.reading("loss_over_guessing", None, 0).value == pytest.approx(
        first / math.log(10), rel=1e-6
    )
    found = watched.findings()["ND312"]
    assert (found.layer, found.severity) == ("2", "warning")
    assert found.evidence["loss_over_guessing"] == pytest.approx(first / math.log(10), rel=1e-3)
    assert "times that of one answer for all samples (2.3)" in found.message
    assert "Shrink the initial weights of layer 2" in found.recommendation


@pytest.mark.parametrize(("scale", "expected"), [(200.0, "warning"), (40.0, None)])
def test_a_fall_that_is_of_noise_alone_is_no_learning(scale: float, expected: str | None) -> None:
    """The loss falls all the way, and at step 60 it is still above what guessing costs."""
    watched = run(scale, lr=1.5e-4 if scale > 100 else 1e-3, steps=62)
    first, last = (watched.reading("loss", None, step).value for step in (0, 60))
    assert last < first / 2
    found = watched.findings().get("ND312")
    assert (found.severity if found else None) == expected
    assert (last > math.log(10)) == (expected is not None)


def test_noise_that_is_gone_in_time_is_not() -> None:
    assert "ND312" not in run(12.0, lr=0.1).findings()


def test_a_usual_start_is_not() -> None:
    watched = run(1.0, lr=0.1)
    assert watched.reading("loss_over_guessing", None, 0).value == pytest.approx(1, abs=0.1)
    assert "ND312" not in watched.findings()
