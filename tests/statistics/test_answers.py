"""Answers: the targets of a squared error, recovered from the gradient at the output."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nndiag.statistics import Answers


def answers(scale: float = 1.0) -> tuple[Answers, torch.Tensor, float]:
    """Of a mean squared error times ``scale``; with the targets and the loss."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(40, 5, generator=generator, requires_grad=True)
    targets = 3 + 2 * torch.randn(40, 5, generator=generator)
    loss = scale * F.mse_loss(output, targets)
    loss.backward()
    return Answers.of(output, output.grad).cpu(), targets, float(loss.detach())


def test_targets_are_recovered() -> None:
    found, targets, loss = answers()
    assert float(found.mean) == pytest.approx(float(targets.mean()), rel=1e-5)
    assert found.mean_square == pytest.approx(float(targets.square().mean()), rel=1e-5)
    assert float(found.low) == pytest.approx(float(targets.min()), abs=1e-4)
    assert float(found.high) == pytest.approx(float(targets.max()), abs=1e-4)
    assert found.agrees(loss)


@pytest.mark.parametrize("scale", [0.5, 2.0, 1024.0])
def test_a_loss_that_was_scaled_is_not_taken_for_one_that_was_not(scale: float) -> None:
    found, _, loss = answers(scale)
    assert not found.agrees(loss)


def test_several_outputs_in_one_step_agree_with_no_loss() -> None:
    found, _, loss = answers()
    both = found.merge(found)
    assert not both.agrees(loss)
    assert both.mean_square == pytest.approx(found.mean_square)
