"""The graph of a loss: its kind, the loss of guessing, and outputs that are squashed twice."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.observe.loss_graph import loss_form

Loss = Callable[[Tensor, Tensor], Tensor]

LABELS = torch.tensor([0, 3, 1, 2, 4, 4])
TWICE: dict[str, tuple[Loss, str]] = {
    "softmax, cross_entropy": (lambda z, y: F.cross_entropy(z.softmax(1), y), "softmax"),
    "softmax, another shape": (lambda z, y: F.cross_entropy(z.softmax(-1).view(6, 5).clone(), y), "softmax"),
    "softmax, one term of two": (
        lambda z, y: 0.3 * F.cross_entropy(z.softmax(1), y) + z.square().mean(),
        "softmax",
    ),
    "softmax, label smoothing": (
        lambda z, y: F.cross_entropy(z.softmax(1), y, label_smoothing=0.1),
        "softmax",
    ),
    "softmax, KL divergence": (
        lambda z, y: F.kl_div(z.softmax(1).log_softmax(1), F.one_hot(y, 5).float(), reduction="batchmean"),
        "softmax",
    ),
    "sigmoid, with logits": (
        lambda z, y: F.binary_cross_entropy_with_logits(z.sigmoid(), F.one_hot(y, 5).float()),
        "sigmoid",
    ),
    "sigmoid, sigmoid": (
        lambda z, y: F.binary_cross_entropy(z.sigmoid().sigmoid(), F.one_hot(y, 5).float()),
        "sigmoid",
    ),
}
ONCE: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "softmax, log, NLL": lambda z, y: F.nll_loss(z.softmax(1).log(), y),
    "log_softmax, NLL": lambda z, y: F.nll_loss(z.log_softmax(1), y),
    "log_softmax, cross_entropy": lambda z, y: F.cross_entropy(z.log_softmax(1), y),
    "sigmoid, BCE": lambda z, y: F.binary_cross_entropy(z.sigmoid(), F.one_hot(y, 5).float()),
    "Brier": lambda z, y: F.mse_loss(z.softmax(1), F.one_hot(y, 5).float()),
    "attention in front": lambda z, y: F.cross_entropy(z.softmax(1) @ z.T[:, :5] @ z[:5], y),
    "a scaled softmax": lambda z, y: F.cross_entropy(20 * z.softmax(1), y),
    "expected reward": lambda z, y: F.nll_loss(z.softmax(1), y),
}


def trained(loss: Loss) -> tuple[Tensor, nn.Linear]:
    """A loss after its backward pass, and the layer in front of it."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 5)
    value = loss(layer(torch.randn(6, 4)), LABELS)
    value.backward()
    return value, layer


@pytest.mark.parametrize("name", TWICE)
def test_what_is_squashed_twice_is_seen(name: str) -> None:
    loss, function = TWICE[name]
    value, layer = trained(loss)
    found = loss_form(value)
    assert found.squashed == function
    assert any(found.parameter is own for own in layer.parameters())


@pytest.mark.parametrize("name", ONCE)
def test_what_is_squashed_once_is_not_blamed(name: str) -> None:
    assert loss_form(trained(ONCE[name])[0]).squashed is None


def test_guessing_costs_the_logarithm_of_the_number_of_classes() -> None:
    """Also for each pixel, where the axis of classes is not the last one."""
    assert loss_form(trained(F.cross_entropy)[0]).guessing == pytest.approx(math.log(5))
    maps = torch.randn(2, 7, 3, 3, requires_grad=True)
    assert loss_form(F.cross_entropy(maps, torch.zeros(2, 3, 3).long())).guessing == pytest.approx(
        math.log(7)
    )


def test_guessing_yes_or_no_costs_the_logarithm_of_two() -> None:
    z = torch.randn(6, 1, requires_grad=True)
    assert loss_form(F.binary_cross_entropy_with_logits(z, torch.ones(6, 1))).guessing == math.log(2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y, reduction="sum"),
        lambda z, y: 2 * F.cross_entropy(z, y),
        lambda z, y: F.cross_entropy(z, y).detach(),
    ],
)
def test_a_loss_that_is_no_plain_mean_is_measured_by_nothing(loss: Loss) -> None:
    z = torch.randn(6, 5, requires_grad=True)
    assert loss_form(loss(z, LABELS)).guessing is None
