"""The certificate: where the samples of each layer are is measured, never guessed by shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nndiag.observe.certificate import Digest, compare
from nndiag.observe.watch import Call
from nndiag.statistics import Rows

from .programs import network
from .recordings import Clock, draw, probe_of

FIRST = Rows(0, 1, "sample")


class Noting:
    """A listener that keeps what it is shown."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}

    def before(self, call: Call) -> None:
        """Nothing."""

    def after(self, call: Call, output: Any) -> None:
        """The first tensor."""
        while isinstance(output, tuple):
            output = output[0]
        self.outputs[call.key] = output.detach().clone()


def test_samples_first() -> None:
    probe = probe_of(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), [draw(10, 4)], samples=10)
    assert [probe.rows(key) for key in ("", "0", "1")] == [FIRST] * 3
    assert probe.n == 10


def test_time_first_is_told_from_samples() -> None:
    """[T, B, D]: the time axis is the first of the right size, but recurrence mixes along it."""
    torch.manual_seed(0)
    rnn = nn.GRU(3, 5)
    probe = probe_of(nn.Sequential(rnn), [draw(6, 10, 3)], samples=10)
    assert probe.rows("0") == Rows(1, 1, "sample")
    assert probe.n == 10


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_hidden_state_has_its_samples_second(kind: Any) -> None:
    """[layers, B, H] goes into a head as it is."""
    torch.manual_seed(0)
    model = network(
        lambda m, x: m.head(m.rnn(x)[1][0] if kind is nn.LSTM else m.rnn(x)[1]),
        rnn=kind(3, 5, num_layers=2, batch_first=True),
        head=nn.Linear(5, 2),
    )
    probe = probe_of(model, [draw(10, 6, 3)], samples=10)
    assert probe.rows("rnn") == FIRST
    assert probe.rows("head") == Rows(1, 1, "sample")


def test_transposed_inside() -> None:
    model = network(
        lambda m, x: m.last(m.first(x).transpose(0, 1)).transpose(0, 1),
        first=nn.Linear(4, 6),
        last=nn.Linear(6, 2),
    )
    probe = probe_of(model, [draw(10, 5, 4)], samples=10)
    assert [probe.rows(key) for key in ("first", "last", "")] == [FIRST, Rows(1, 1, "sample"), FIRST]


@pytest.mark.parametrize(("major", "permute"), [("sample", (0, 1, 2)), ("position", (1, 0, 2))])
def test_samples_and_positions_on_one_axis(major: Any, permute: tuple[int, ...]) -> None:
    """[B * T, D] and [T * B, D]."""

    def forward(m: Any, x: Tensor) -> Tensor:
        x = x.permute(permute)
        return m.last(m.first(x.reshape(-1, 4))).view(*x.shape[:2], 2).permute(permute)

    model = network(forward, first=nn.Linear(4, 6), last=nn.Linear(6, 2))
    probe = probe_of(model, [draw(10, 3, 4)], samples=10)
    assert probe.rows("first") == Rows(0, 3, major)
    assert probe.rows("last") == Rows(0, 3, major)
    assert probe.rows("") == FIRST


def test_square_mask_is_not_cut() -> None:
    """As many positions as samples: the mask looks like samples, and is made before them."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def step(model: Any, x: Tensor) -> None:
        mask = nn.Transformer.generate_square_subsequent_mask(8)
        model(x, src_mask=mask)

    probe = probe_of(
        network(lambda m, x, src_mask: m.block(x, src_mask), block=block), [draw(8, 8, 4)], step, samples=8
    )
    assert probe.rows("block.linear1") == FIRST
    assert probe.n == 8


def test_other_sizes_may_come_first() -> None:
    """A table of positions is used before the samples are."""

    def step(model: Any, x: Tensor) -> None:
        model(torch.arange(5), x)

    model = network(
        lambda m, places, x: m.last(m.table(places) + x), table=nn.Embedding(5, 4), last=nn.Linear(4, 2)
    )
    probe = probe_of(model, [draw(10, 5, 4)], step, samples=10)
    assert probe.rows("last") == FIRST
    assert probe.rows("table") is None, "it holds no samples"
    assert probe.n == 10


def test_experts_get_what_the_gate_sends() -> None:
    """Each expert sees another number of samples: inside nothing is claimed, outside everything."""

    def forward(m: Any, x: Tensor) -> Tensor:
        chosen = m.gate(x).argmax(-1)
        out = torch.zeros(len(x), 2)
        for number, expert in enumerate(m.experts):
            index = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, index, expert(x[index]))
        return out

    torch.manual_seed(1)
    experts = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))
    probe = probe_of(network(forward, gate=nn.Linear(4, 2), experts=experts), [draw(10, 4)], samples=10)
    assert probe.rows("gate") == probe.rows("") == FIRST
    assert probe.rows("experts.0") is None
    assert probe.rows("experts.1") is None


def mean_of_batch(m: Any, x: Tensor) -> Tensor:
    return m.last(x + 0.1 * x.mean(0))


MIXING = {
    "batch norm without running statistics": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "mean of the batch": lambda: network(mean_of_batch, last=nn.Linear(4, 2)),
    "attention over the batch": lambda: network(
        lambda m, x: torch.softmax(m.q(x) @ m.k(x).T, -1) @ x, q=nn.Linear(4, 4), k=nn.Linear(4, 4)
    ),
    "difference to the neighbor": lambda: network(
        lambda m, x: m.last(x - x.roll(1, 0)), last=nn.Linear(4, 2)
    ),
    "sum of all": lambda: network(lambda m, x: m.last(x).sum(0), last=nn.Linear(4, 2)),
    "noise": lambda: network(lambda m, x: m.last(x + torch.randn_like(x)), last=nn.Linear(4, 2)),
}


@pytest.mark.parametrize("build", MIXING.values(), ids=MIXING.keys())
def test_mixed_samples_are_not_certified(build: Any) -> None:
    torch.manual_seed(0)
    probe = probe_of(build(), [draw(10, 4)], samples=10)
    assert probe.certified
    assert probe.whole
    assert probe.n == 1
    assert probe.rows("last") is None


def test_position_within_the_batch_is_noticed() -> None:
    """The first samples would behave alike: the subset is a reversed one."""
    model = network(lambda m, x: m.last(x) * torch.arange(1, len(x) + 1).view(-1, 1), last=nn.Linear(4, 2))
    assert probe_of(model, [draw(10, 4)], samples=10).whole


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype)
    probe = probe_of(model, [draw(10, 4).to(dtype)], samples=10)
    assert probe.rows("2") == FIRST


def test_inputs_of_several_types_are_cut_together() -> None:
    def step(model: Any, x: Tensor) -> None:
        model(x, torch.arange(10), torch.ones(10, dtype=torch.bool), x.double())

    model = network(
        lambda m, x, ids, mask, wide: m.last(x * mask[:, None] + wide.float()) + m.table(ids),
        last=nn.Linear(4, 2),
        table=nn.Embedding(10, 2),
    )
    probe = probe_of(model, [draw(10, 4)], step, samples=10)
    assert probe.rows("last") == probe.rows("table") == FIRST


def test_stacked_batches_give_what_each_gives() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    xs = [draw(6, 4, seed=seed) for seed in range(3)]
    probe = probe_of(model, xs, samples=16)
    assert probe.n == 16
    noting = Noting()
    probe.replay(noting)
    model.eval()
    with torch.no_grad():
        hidden = model[0](torch.cat(xs)[:16])
        torch.testing.assert_close(noting.outputs["0"], hidden)
        torch.testing.assert_close(noting.outputs["3"], model[1:](hidden))


def test_batches_of_another_shape_are_not_stacked() -> None:
    model = network(lambda m, x: m.last(x).mean(1), last=nn.Linear(4, 2))
    probe = probe_of(model, [draw(6, 5, 4), draw(6, 7, 4)], samples=12)
    assert probe.n == 6
    assert probe.is_complete


def test_a_last_batch_that_is_smaller() -> None:
    probe = probe_of(nn.Sequential(nn.Linear(4, 2)), [draw(6, 4), draw(3, 4)], samples=12)
    assert probe.n == 9


def test_one_row_is_replayed_whole() -> None:
    probe = probe_of(nn.Sequential(nn.Linear(4, 2)), [draw(1, 4)] * 3)
    assert probe.certified
    assert probe.whole
    assert probe.n == 1


# How many rows: from the time that replays take.


@pytest.mark.parametrize(
    ("whole_s", "part_s", "limit_s", "rows"),
    [
        (4.0, 2.75, 5.0, 50),  # fits
        (4.0, 2.75, 2.0, 18),  # 1/16 s a row on top of 7/8: (2 - 7/8) * 16
        (4.0, 2.75, 0.5, 14),  # below what calls cost by themselves: rows may cost as much again
        (3.125, 1.875, 1.0, 16),  # 1/16 s a row and nothing besides
        (3.125, 1.875, 0.25, 8),  # at least eight
        (1.0, 1.0, 0.5, 50),  # rows cost nothing: fewer would not help
        (0.04, 0.01, 0.001, 50),  # too short to be worth cutting
    ],
)
def test_rows_follow_from_two_timings(whole_s: float, part_s: float, limit_s: float, rows: int) -> None:
    """50 rows, then 30, timed by a clock that tells what it is told; one batch took no time."""
    clock = Clock(0.0, 0.0, 0.0, whole_s, 10.0, 10.0 + part_s)
    model = nn.Sequential(nn.Linear(4, 2))
    probe = probe_of(model, [draw(50, 4)], samples=50, clock=clock, time_limit_s=limit_s)
    assert probe.n == rows
    noting = Noting()
    probe.replay(noting)
    assert torch.equal(noting.outputs["0"], model(draw(50, 4)[:rows]))


def test_small_batches_are_not_cut_below_their_own() -> None:
    clock = Clock(0.0, 0.0, 0.0, 2.0, 10.0, 11.2)
    probe = probe_of(
        nn.Sequential(nn.Linear(4, 2)),
        [draw(5, 4, seed=seed) for seed in range(10)],
        samples=50,
        clock=clock,
        time_limit_s=0.01,
    )
    assert probe.n == 5


def test_without_a_limit_no_time_is_taken() -> None:
    clock = Clock(1.0)
    assert probe_of(nn.Sequential(nn.Linear(4, 2)), [draw(50, 4)], samples=30, clock=clock).n == 30
    assert clock.times == [1.0]


# The comparison itself.


def compared(whole: Tensor, part: Tensor, count: int, kept: list[int]) -> Any:
    return compare(Digest.of(whole), Digest.of(part), torch.tensor(kept), count)


KEPT = [5, 4, 3]


def test_unchanged_outputs_are_fixed() -> None:
    assert compared(draw(4, 3), draw(4, 3), 6, KEPT) == "fixed"


def test_changed_outputs_of_the_same_size_are_mixed() -> None:
    assert compared(draw(4, 3), draw(4, 3, seed=1), 6, KEPT) == "mixed"


def test_other_sizes_are_ragged() -> None:
    assert compared(draw(6, 3), draw(4, 3), 6, KEPT) == "ragged"
    assert compared(draw(6, 3), draw(3, 2), 6, KEPT) == "ragged"
    assert compared(draw(6, 3), draw(3), 6, KEPT) == "ragged"
    assert compared(draw(7, 3), draw(3, 3), 6, KEPT) == "ragged"


def test_axes_and_majors() -> None:
    x = draw(2, 12)  # two positions of six samples along the second axis
    assert compared(x, x.view(2, 6, 2)[:, KEPT].reshape(2, 6), 6, KEPT) == Rows(1, 2, "sample")
    assert compared(x, x.view(2, 2, 6)[:, :, KEPT].reshape(2, 6), 6, KEPT) == Rows(1, 2, "position")
    assert compared(x, x.view(2, 2, 6)[:, :, [0, 1, 2]].reshape(2, 6), 6, KEPT) == "mixed"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_what_is_not_finite_can_be_compared(value: float) -> None:
    x = draw(6, 3)
    x[5, 0] = value
    assert compared(x, x[KEPT], 6, KEPT) == FIRST


def test_empty_complex_and_integer_outputs() -> None:
    assert compared(torch.zeros(0, 3), torch.zeros(0, 3), 6, KEPT) == "fixed"
    x = torch.complex(draw(6, 3), draw(6, 3, seed=1))
    assert compared(x, x[KEPT], 6, KEPT) == FIRST
    y = torch.arange(18).view(6, 3)
    assert compared(y, y[KEPT], 6, KEPT) == FIRST


@pytest.mark.parametrize(("width", "samples"), [(1 << 19, 32), (8, 128)])
def test_more_than_a_batch_is_gathered_only_where_outputs_are_small(width: int, samples: int) -> None:
    """Of an output of 2 MiB a sample 32 fit into 64 MiB."""
    probe = probe_of(nn.Linear(4, width), [draw(2, 4, seed=seed) for seed in range(64)])
    assert (probe.certified, probe.is_complete, probe.n) == (True, True, samples)
