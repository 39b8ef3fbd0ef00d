"""Outputs that are squashed by the network and once more by the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.report import Report

from .loops import train
from .runs import Run, batches


def classifier(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), *last)


def is_seven(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A binary task with the loss that applies the sigmoid itself."""
    return F.binary_cross_entropy_with_logits(model(batch[0])[:, 0], (batch[1] == 7).float())


def run(model: nn.Module, loss: object = None) -> Run:
    options = {} if loss is None else {"loss_of": loss}
    return train(model, batches(20), torch.optim.SGD(model.parameters(), 0.1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last", "loss", "function"),
    [((nn.Softmax(1),), None, "softmax"), ((nn.Sigmoid(),), is_seven, "sigmoid")],
    ids=["softmax", "sigmoid"],
)
def test_the_graph_of_the_loss_is_proof(last: tuple[nn.Module, ...], loss: object, function: str) -> None:
    found = run(classifier(*last), loss).findings()["ND201"]
    assert (found.layer, found.severity, found.first_step) == ("2", "warning", 0)
    assert found.evidence["function"] == function
    assert f"goes through a {function}, and the loss applies a {function} of its own" in found.message
    assert f"Take the {function} behind layer 2 out" in found.recommendation


@pytest.mark.parametrize("loss", [None, is_seven], ids=["cross entropy", "binary"])
def test_logits_are_left_alone(loss: object) -> None:
    watched = run(classifier(), loss)
    assert watched.reading("squashed_twice", "2").value == 0
    assert "ND201" not in watched.findings()


def test_a_sigmoid_in_front_of_its_own_loss_is_left_alone() -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.binary_cross_entropy(model(batch[0])[:, 0], (batch[1] == 7).float())

    report: Report = run(classifier(nn.Sigmoid()), loss).report
    assert not any("squashed_twice" in finding.evidence for finding in report.findings)
