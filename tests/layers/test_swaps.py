"""Units of a domain can be swapped, with their outgoing weights, and the network stays the same function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layers.cutting import cut, filled, noise, swap_


def assert_swap_is_invisible(
    run: Callable[[], Tensor], swap: Callable[[], None], rows: Callable[[], Tensor], i: int, j: int
) -> None:
    """The function stays; the unit matrix changes by that swap of rows and by nothing else."""
    before, units = run().detach(), rows()
    swap()
    torch.testing.assert_close(run().detach(), before)
    expected = units.clone()
    swap_(expected, i, j)
    torch.testing.assert_close(rows(), expected)
    assert not torch.allclose(rows(), units)


def test_linear():
    net, x = filled(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))), noise(7, 3)

    def swap() -> None:
        swap_(net[0].weight, 1, 4)
        swap_(net[0].bias, 1, 4)
        swap_(net[2].weight, 1, 4, axis=1)

    assert_swap_is_invisible(lambda: net(x), swap, lambda: cut(net, layer_name="0"), 1, 4)


@pytest.mark.parametrize("group", [0, 1])
def test_convolution_within_a_group(group):
    net, x = (
        filled(nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Conv2d(6, 2, 2))),
        noise(2, 4, 4, 4),
    )
    i, j = 3 * group, 3 * group + 2

    def swap() -> None:
        swap_(net[0].weight, i, j)
        swap_(net[0].bias, i, j)
        swap_(net[2].weight, i, j, axis=1)

    assert_swap_is_invisible(lambda: net(x), swap, lambda: cut(net, f"group {group}", "0"), 0, 2)


def test_filters_of_different_groups_cannot_be_swapped():
    net, x = (
        filled(nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Conv2d(6, 2, 2))),
        noise(2, 4, 4, 4),
    )
    before = net(x).detach()
    for tensor, axis in ((net[0].weight, 0), (net[0].bias, 0), (net[2].weight, 1)):
        swap_(tensor, 0, 5, axis)
    assert not torch.allclose(net(x), before)


def test_transposed_convolution():
    net, x = filled(nn.Sequential(nn.ConvTranspose1d(3, 4, 2), nn.ReLU(), nn.Conv1d(4, 2, 2))), noise(2, 3, 5)

    def swap() -> None:
        swap_(net[0].weight, 0, 3, axis=1)
        swap_(net[0].bias, 0, 3)
        swap_(net[2].weight, 0, 3, axis=1)

    assert_swap_is_invisible(lambda: net(x), swap, lambda: cut(net, layer_name="0"), 0, 3)


class Reader(nn.Module):
    """A recurrent layer and a readout of its outputs."""

    def __init__(self, recurrent: nn.Module, features: int) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0])


def swap_hidden(recurrent: nn.Module, suffix: str, i: int, j: int, size: int) -> None:
    """Swaps two hidden units: rows of every gate, and the columns through which they are read back."""
    for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        tensor = getattr(recurrent, f"{stem}_{suffix}")
        for gate in range(tensor.shape[0] // size):
            swap_(tensor, gate * size + i, gate * size + j)
    swap_(getattr(recurrent, f"weight_hh_{suffix}"), i, j, axis=1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent(kind):
    net, x = filled(Reader(kind(3, 5), 5)), noise(6, 2, 3)

    def swap() -> None:
        swap_hidden(net.recurrent, "l0", 1, 3, 5)
        swap_(net.head.weight, 1, 3, axis=1)

    assert_swap_is_invisible(lambda: net(x), swap, lambda: cut(net, "l0", "recurrent"), 1, 3)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("direction", ["", "_reverse"])
def test_lower_layer_of_a_bidirectional_stack(kind, direction):
    net, x = filled(Reader(kind(3, 4, num_layers=2, bidirectional=True), 8)), noise(6, 2, 3)
    offset = 4 if direction else 0

    def swap() -> None:
        swap_hidden(net.recurrent, f"l0{direction}", 0, 2, 4)
        for reader in ("weight_ih_l1", "weight_ih_l1_reverse"):
            swap_(getattr(net.recurrent, reader), offset, offset + 2, axis=1)

    rows = lambda: cut(net, f"l0{direction}", "recurrent")  # noqa: E731
    assert_swap_is_invisible(lambda: net(x), swap, rows, 0, 2)


def test_cells_of_a_projected_lstm():
    net, x = filled(Reader(nn.LSTM(3, 5, proj_size=2), 2)), noise(6, 2, 3)

    def swap() -> None:
        for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            for gate in range(4):
                swap_(getattr(net.recurrent, f"{stem}_l0"), 5 * gate + 1, 5 * gate + 4)
        swap_(net.recurrent.weight_hr_l0, 1, 4, axis=1)

    assert_swap_is_invisible(lambda: net(x), swap, lambda: cut(net, "l0", "recurrent"), 1, 4)


def attended(net: nn.MultiheadAttention, x: Tensor) -> Callable[[], Tensor]:
    return lambda: net(x, x, x, need_weights=False)[0]


def input_weights(net: nn.MultiheadAttention) -> list[Tensor]:
    """Views of q, k and v: writing to them writes to the module."""
    if net.in_proj_weight is not None:
        return list(net.in_proj_weight.detach().split(net.embed_dim))
    return [net.q_proj_weight.detach(), net.k_proj_weight.detach(), net.v_proj_weight.detach()]


@pytest.mark.parametrize("is_packed", [True, False])
def test_attention_heads(is_packed):
    net, x = filled(nn.MultiheadAttention(6, 3, kdim=None if is_packed else 6)), noise(4, 2, 6)
    if not is_packed:
        net = filled(separate(6, 3))

    def swap() -> None:
        for weight, bias in zip(input_weights(net), net.in_proj_bias.detach().split(6), strict=True):
            swap_(weight.view(3, 2, 6), 0, 2)
            swap_(bias.view(3, 2), 0, 2)
        swap_(net.out_proj.weight.detach().view(6, 3, 2), 0, 2, axis=1)

    assert_swap_is_invisible(attended(net, x), swap, lambda: cut(net, "heads"), 0, 2)


def separate(size: int, heads: int) -> nn.MultiheadAttention:
    """Attention with a matrix each for queries, keys and values, which here have one size."""
    net = nn.MultiheadAttention(size, heads)
    for index, name in enumerate(("q_proj_weight", "k_proj_weight", "v_proj_weight")):
        setattr(net, name, nn.Parameter(net.in_proj_weight.detach().split(size)[index].clone()))
    net.in_proj_weight, net._qkv_same_embed_dim = None, False
    return net


@pytest.mark.parametrize("head", [0, 1, 2])
def test_values_within_a_head(head):
    net, x = filled(nn.MultiheadAttention(6, 3)), noise(4, 2, 6)
    i, j = 2 * head, 2 * head + 1

    def swap() -> None:
        swap_(input_weights(net)[2], i, j)
        swap_(net.in_proj_bias.detach()[12:], i, j)
        swap_(net.out_proj.weight, i, j, axis=1)

    assert_swap_is_invisible(attended(net, x), swap, lambda: cut(net, "values"), i, j)


def test_columns_of_an_embedding():
    net, tokens = filled(nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2))), torch.arange(7)

    def swap() -> None:
        swap_(net[0].weight, 0, 3, axis=1)
        swap_(net[1].weight, 0, 3, axis=1)

    assert_swap_is_invisible(lambda: net(tokens), swap, lambda: cut(net, layer_name="0"), 0, 3)
