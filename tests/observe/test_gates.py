"""Gates of recurrent layers against their equations by hand; and written-out softmaxes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.observe.taps.gates import SAMPLES
from nndiag.statistics import AttentionEntropy, Tails

from .test_recurrences import watched

SIGMOID, TANH = 4.3567, 2.1783
"""Where the slope of each is a twentieth of its maximum."""


def lstm(cell: nn.LSTM, x: Tensor) -> dict[str, Tensor]:
    """[N, T, H] what each gate of an LSTM reads, step by step (Hochreiter, Schmidhuber 1997; Gers et al. 2000)."""
    h, c = torch.zeros(len(x), cell.hidden_size), torch.zeros(len(x), cell.hidden_size)
    seen = []
    for t in range(x.shape[1]):
        z = F.linear(x[:, t], cell.weight_ih_l0, cell.bias_ih_l0)
        z = z + F.linear(h, cell.weight_hh_l0, cell.bias_hh_l0)
        i, f, g, o = z.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        seen.append(torch.stack((i, f, g, o)))
    return dict(
        zip(("input gate", "forget gate", "candidate", "output gate"), torch.stack(seen, 2), strict=True)
    )


def gru(cell: nn.GRU, x: Tensor) -> dict[str, Tensor]:
    """The same of a GRU (Cho et al. 2014), whose candidate reads the state through the reset gate."""
    h, seen = torch.zeros(len(x), cell.hidden_size), []
    for t in range(x.shape[1]):
        a = F.linear(x[:, t], cell.weight_ih_l0, cell.bias_ih_l0).chunk(3, 1)
        b = F.linear(h, cell.weight_hh_l0, cell.bias_hh_l0).chunk(3, 1)
        r, z = a[0] + b[0], a[1] + b[1]
        n = a[2] + r.sigmoid() * b[2]
        h = (1 - z.sigmoid()) * n.tanh() + z.sigmoid() * h
        seen.append(torch.stack((r, z, n)))
    return dict(zip(("reset gate", "update gate", "candidate"), torch.stack(seen, 2), strict=True))


@pytest.mark.parametrize(("kind", "by_hand"), [(nn.LSTM, lstm), (nn.GRU, gru)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_tails_are_those_of_the_equations(
    kind: type[nn.RNNBase], by_hand: Callable[..., dict[str, Tensor]], batch_first: bool
) -> None:
    torch.manual_seed(0)
    cell = kind(3, 5, batch_first=batch_first)
    with torch.no_grad():
        for weight in cell.parameters():
            weight *= 8
    x = torch.randn(SAMPLES + 8, 9, 3)
    _, snapshot, _ = watched(cell, x if batch_first else x.transpose(0, 1))
    found = snapshot.parts("rnn", "input", "probe", "tails")
    with torch.no_grad():
        expected = by_hand(cell, x[:SAMPLES])
    assert set(found) == set(expected)
    for name, z in expected.items():
        edge = TANH if name == "candidate" else SIGMOID
        tails = found[name]
        assert isinstance(tails, Tails)
        assert torch.equal(tails.low, (z <= -edge).sum((0, 1)))
        assert torch.equal(tails.high, (z >= edge).sum((0, 1)))
        assert int(tails.low.sum() + tails.high.sum()) > 0


@pytest.mark.parametrize("cell", [nn.LSTM(3, 5, num_layers=2), nn.GRU(3, 5, bidirectional=True)], ids=str)
def test_what_cannot_be_computed_is_said(cell: nn.RNNBase) -> None:
    _, snapshot, monitor = watched(cell, torch.randn(9, 32, 3))
    assert snapshot.parts("rnn", "input", "probe", "tails") == {}
    reasons = [e.reason for e in monitor.report.coverage if (e.layer, e.measure) == ("rnn", "saturation")]
    assert reasons == ["gates are computed of one layer in one direction, over plain batches only"]


class Scored(nn.Module):
    """One query over the places of a sequence, its softmax written out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key, self.head, self.dim = nn.Linear(4, 1), nn.Linear(4, 3), dim
        self.hidden_size, self.bidirectional, self.batch_first = 4, False, True

    def forward(self, x: Tensor) -> tuple[Tensor]:
        scores = self.key(x).squeeze(-1) if self.dim == 1 else self.key(x)
        shares = (
            torch.softmax(scores, dim=1) if self.dim == 1 else F.softmax(scores, dim=self.dim).squeeze(-1)
        )
        return ((shares.unsqueeze(-1) * x).sum(1, keepdim=True),)


@pytest.mark.parametrize("dim", [1, -2])
def test_written_out_softmax_is_read_along_its_axis(dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 7, 4)
    model, snapshot, _ = watched(Scored(dim), x)
    entropy = snapshot.get("rnn:softmax", "input", "probe", "attention_entropy")
    assert isinstance(entropy, AttentionEntropy)
    with torch.no_grad():
        p = model.rnn.key(x).squeeze(-1).double().softmax(1)
    expected = -(p * p.log()).sum(1).mean() / torch.tensor(7.0).log()
    assert float(entropy.mean) == pytest.approx(float(expected), rel=1e-5)
