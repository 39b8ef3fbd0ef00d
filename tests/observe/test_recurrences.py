"""How far back recurrent layers reach, against a hand-written recurrence; and what is left out, with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nndiag
from nndiag.snapshot import Snapshot
from nndiag.statistics import TimeReach

STEPS, SAMPLES = 12, 16


class Reader(nn.Module):
    """A recurrent layer and a readout of its last output."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.rnn, self.head = cell, nn.Linear(cell.hidden_size * (2 if cell.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        sequence = self.rnn(x)[0]
        return self.head(sequence[:, -1] if self.rnn.batch_first else sequence[-1])


def watched(cell: nn.RNNBase, x: Tensor) -> tuple[Reader, Snapshot, nndiag.Monitor]:
    """The snapshot of one step at rest: the weights stay what they are."""
    model = Reader(cell)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with nndiag.Monitor(model, optimizer=optimizer, console=False, strict=True) as monitor:
        model(x).square().mean().backward()
        optimizer.step()
        monitor.step(0.0)
    session = monitor._session
    assert session is not None
    assert session.latest is not None
    assert session.latest.snapshot is not None
    return model, session.latest.snapshot, monitor


@pytest.mark.parametrize("batch_first", [True, False])
def test_ratio_is_that_of_the_jacobian(batch_first: bool) -> None:
    torch.manual_seed(0)
    cell = nn.RNN(3, 5, batch_first=batch_first)
    x = torch.randn(SAMPLES, STEPS, 3)
    model, snapshot, _ = watched(cell, x if batch_first else x.transpose(0, 1))
    reach = snapshot.get("rnn", "input", "probe", "time_reach")
    assert isinstance(reach, TimeReach)
    rows, rnn = x[: int(reach.samples)].double().requires_grad_(), model.rnn.double()
    h = torch.zeros(len(rows), 5, dtype=torch.double)
    for t in range(STEPS):
        h = torch.tanh(
            rows[:, t] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
        )
    signs = torch.tensor([1.0, -1, 1, -1, 1], dtype=torch.double)
    (gradient,) = torch.autograd.grad((h * signs).sum(), rows)
    square = gradient.square().sum((0, 2))
    assert reach.ratio == pytest.approx(float((square[:3].sum() / square[-3:].sum()).sqrt()), rel=1e-4)


@pytest.mark.parametrize(
    "cell", [nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True), nn.GRU(3, 4, batch_first=True)]
)
def test_every_kind_is_read_and_left_as_it_was(cell: nn.RNNBase) -> None:
    before = {name: value.clone() for name, value in cell.state_dict().items()}
    _, snapshot, _ = watched(cell, torch.randn(SAMPLES, STEPS, 3))
    assert snapshot.get("rnn", "input", "probe", "time_reach") is not None
    assert all(torch.equal(value, before[name]) for name, value in cell.state_dict().items())


def test_short_sequences_are_left_out() -> None:
    _, snapshot, _ = watched(nn.GRU(3, 4, batch_first=True), torch.randn(SAMPLES, 7, 3))
    assert snapshot.get("rnn", "input", "probe", "time_reach") is None
