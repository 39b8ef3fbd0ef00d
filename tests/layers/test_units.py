"""The unit matrix of every kind of layer, against rows cut by hand from real weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layers.cutting import by_hand, cut, domain, filled, gradients, layer, noise
from nndiag.layers import unit_rows


def test_linear():
    module = filled(nn.Linear(4, 3))
    expected = by_hand(3, lambda u: [module.weight[u], module.bias[u]])
    assert cut(module).equal(expected)


def test_linear_without_bias():
    module = filled(nn.Linear(4, 3, bias=False))
    assert cut(module).equal(module.weight.detach())


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(kind, bias):
    module = filled(kind(2, 3, 2, bias=bias))
    expected = by_hand(3, lambda u: [module.weight[u], *([module.bias[u]] if bias else [])])
    assert cut(module).equal(expected)


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution_keeps_units_on_the_second_axis(kind, bias):
    module = filled(kind(2, 3, 2, bias=bias))
    expected = by_hand(3, lambda u: [module.weight[:, u], *([module.bias[u]] if bias else [])])
    assert cut(module).equal(expected)


@pytest.mark.parametrize("group", [0, 1])
def test_grouped_convolution_has_a_domain_a_group(group):
    module = filled(nn.Conv2d(4, 6, 3, groups=2))
    assert [d.name for d in layer(module).domains] == ["group 0", "group 1"]
    first = 3 * group
    expected = by_hand(3, lambda u: [module.weight[first + u], module.bias[first + u]])
    assert cut(module, f"group {group}").equal(expected)


@pytest.mark.parametrize("group", [0, 1])
def test_grouped_transposed_convolution_has_a_domain_a_group(group):
    module = filled(nn.ConvTranspose2d(4, 6, 3, groups=2))
    inputs = slice(2 * group, 2 * group + 2)
    expected = by_hand(3, lambda u: [module.weight[inputs, u], module.bias[3 * group + u]])
    assert cut(module, f"group {group}").equal(expected)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d])
def test_depthwise_convolution_has_nothing_to_swap(kind):
    assert layer(kind(4, 4, 3, groups=4)).domains == ()


def test_depthwise_convolution_with_two_filters_a_channel():
    module = filled(nn.Conv1d(3, 6, 2, groups=3))
    assert len(layer(module).domains) == 3
    assert cut(module, "group 2").equal(by_hand(2, lambda u: [module.weight[4 + u], module.bias[4 + u]]))


@pytest.mark.parametrize(
    "module",
    [nn.Linear(4, 1), nn.Conv2d(3, 1, 3), nn.ConvTranspose1d(3, 1, 3), nn.Embedding(5, 1)],
    ids=lambda module: type(module).__name__,
)
def test_one_unit_has_no_twin(module):
    assert layer(module).domains == ()


def gated(module: nn.Module, suffix: str, gates: int, size: int) -> Tensor:
    """Input rows gate by gate, then self-weights, row sums, and both biases."""
    ending = f"_{suffix}" if suffix else ""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, r, b, c = (getattr(module, stem + ending, None) for stem in names)

    def row(unit: int) -> list[Tensor]:
        own = [gate * size + unit for gate in range(gates)]
        parts = [w[k] for k in own]
        if r.shape[1] == size:
            parts += [r[k, unit] for k in own] + [r[k].sum() for k in own]
        return parts + ([b[k] for k in own] + [c[k] for k in own] if b is not None else [])

    return by_hand(size, row)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_layers_and_directions(kind, gates, bias):
    module = filled(kind(3, 5, num_layers=2, bidirectional=True, bias=bias))
    names = [d.name for d in layer(module).domains]
    assert names == ["l0", "l0_reverse", "l1", "l1_reverse"]
    for name in names:
        torch.testing.assert_close(cut(module, name), gated(module, name, gates, 5))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_cells(kind, gates, bias):
    module = filled(kind(3, 5, bias=bias))
    torch.testing.assert_close(cut(module), gated(module, "", gates, 5))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_a_cell_of_your_own_keeps_its_gates(kind, gates):
    module = filled(type("MyCell", (kind,), {})(3, 5))
    torch.testing.assert_close(cut(module), gated(module, "", gates, 5))


def test_projected_lstm_has_no_summary_of_its_recurrent_rows():
    module = filled(nn.LSTM(3, 8, proj_size=2))
    assert "weight_hh_l0" not in {part.parameter for part in domain(module, "l0").parts}
    torch.testing.assert_close(cut(module, "l0"), gated(module, "l0", 4, 8))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 3, "vdim": 5}], ids=["packed", "separate"])
def test_attention_heads_and_values(bias, sizes):
    size, heads = 6, 3
    module = filled(nn.MultiheadAttention(size, heads, bias=bias, **sizes))
    if sizes:
        q, k, v = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    else:
        q, k, v = module.in_proj_weight.split(size)
    biases = module.in_proj_bias.split(size) if bias else ()
    out, width = module.out_proj.weight, size // heads

    def head(h: int) -> list[Tensor]:
        own = slice(h * width, (h + 1) * width)
        parts = []
        for index, weight in enumerate((q, k, v)):
            parts += [weight[own], *(b[own] for b in biases[index : index + 1])]
        return [*parts, out[:, own].T]

    assert cut(module, "heads").equal(by_hand(heads, head))
    value = by_hand(size, lambda u: [v[u], *(b[u] for b in biases[2:]), out[:, u]])
    assert cut(module, "values").equal(value)


def test_one_head_is_not_compared():
    assert [d.name for d in layer(nn.MultiheadAttention(4, 1)).domains] == ["values"]


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_units_of_an_embedding_are_columns(kind):
    module = filled(kind(7, 3))
    assert cut(module).equal(module.weight.detach().T)


def test_transposed_linear_of_the_first_gpt():
    conv1d = type("Conv1D", (nn.Module,), {})()
    conv1d.weight, conv1d.bias = nn.Parameter(noise(4, 3)), nn.Parameter(noise(3))
    assert cut(conv1d).equal(by_hand(3, lambda u: [conv1d.weight[:, u], conv1d.bias[u]]))
    info = layer(conv1d)
    assert (info.units, info.fan_in, info.fan_out, info.role) == (3, 4, 3, "weight")


NORMS = [
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4),
    nn.BatchNorm3d(4),
    nn.SyncBatchNorm(4),
    nn.InstanceNorm1d(4, affine=True),
    nn.InstanceNorm2d(4, affine=True),
    nn.InstanceNorm3d(4, affine=True),
    nn.GroupNorm(2, 4),
    nn.LayerNorm(4),
    nn.RMSNorm(4),
]


@pytest.mark.parametrize("module", NORMS, ids=lambda module: type(module).__name__)
def test_affine_numbers_of_a_norm_are_no_units(module):
    info = layer(module)
    assert info.role == "norm"
    assert info.domains == ()
    assert info.units == 4


INPUTS = [
    (nn.Linear(3, 4), (2, 5, 3)),
    (nn.Conv1d(3, 4, 2), (2, 3, 5)),
    (nn.Conv2d(3, 4, 2), (2, 3, 5, 5)),
    (nn.Conv3d(3, 4, 2), (2, 3, 5, 5, 5)),
    (nn.ConvTranspose1d(3, 4, 2), (2, 3, 5)),
    (nn.ConvTranspose2d(3, 4, 2), (2, 3, 5, 5)),
    (nn.ConvTranspose3d(3, 4, 2), (2, 3, 5, 5, 5)),
    (nn.Conv2d(3, 4, 2), (3, 5, 5)),  # without a batch
    (nn.BatchNorm1d(4), (2, 4)),
    (nn.BatchNorm1d(4), (2, 4, 5)),
    (nn.BatchNorm2d(4), (2, 4, 5, 6)),
    (nn.BatchNorm3d(4), (2, 4, 5, 6, 7)),
    (nn.InstanceNorm1d(4), (2, 4, 5)),
    (nn.InstanceNorm2d(4), (2, 4, 5, 6)),
    (nn.InstanceNorm3d(4), (2, 4, 5, 6, 7)),
    (nn.InstanceNorm2d(4), (4, 5, 6)),
    (nn.GroupNorm(2, 4), (2, 4, 5, 6)),
    (nn.LayerNorm(4), (2, 5, 4)),
    (nn.LayerNorm((5, 4)), (2, 5, 4)),
    (nn.RMSNorm(4), (2, 5, 4)),
]


@pytest.mark.parametrize(("module", "shape"), INPUTS, ids=lambda v: str(v).partition("(")[0] or str(v))
def test_the_unit_axis_is_an_axis_of_the_output(module, shape):
    info = layer(module)
    assert info.units == 4
    assert module(torch.ones(shape)).shape[info.unit_axis] == 4


ONE_UNIT: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(3, 4), (2, 3)),
    (nn.Conv1d(3, 4, 2), (2, 3, 5)),
    (nn.Conv2d(4, 6, 2, groups=2), (2, 4, 5, 5)),
    (nn.Conv3d(3, 4, 2), (2, 3, 3, 3, 3)),
    (nn.ConvTranspose1d(3, 4, 2), (2, 3, 5)),
    (nn.ConvTranspose2d(4, 6, 2, groups=2), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(4, 4, 2, groups=2), (2, 4, 3, 3, 3)),
    (nn.LSTM(3, 4), (1, 2, 3)),
    (nn.GRU(3, 4), (1, 2, 3)),
    (nn.RNN(3, 4), (1, 2, 3)),
    (nn.LSTMCell(3, 4), (2, 3)),
    (nn.GRUCell(3, 4), (2, 3)),
]


def first_tensor(output: Any) -> Tensor:
    """The output, or the first of several."""
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize(("module", "shape"), ONE_UNIT, ids=lambda v: str(v).partition("(")[0] or str(v))
def test_the_output_of_a_unit_depends_on_its_own_row_only(module, shape):
    """From a zero state a recurrent layer, too, is one function a unit."""
    filled(module)
    info, x = layer(module), noise(*shape)
    for unit in range(info.units):
        module.zero_grad()
        first_tensor(module(x)).movedim(info.unit_axis, 0)[unit].sum().backward()
        touched = [
            rows.abs().sum(1) > 0
            for d in info.domains
            if (rows := unit_rows(d, gradients(module))) is not None
        ]
        assert torch.cat(touched).nonzero().flatten().tolist() == [unit]


def test_a_missing_part_leaves_no_unit_matrix():
    module = nn.Linear(4, 3)
    assert unit_rows(domain(module), lambda name: module.weight if name == "weight" else None) is None


@pytest.mark.parametrize(
    ("module", "fan_in", "fan_out"),
    [
        (nn.Linear(5, 3), 5, 3),
        (nn.Conv2d(4, 6, 3), 36, 54),
        (nn.Conv2d(4, 6, (3, 2), groups=2), 12, 18),
        (nn.ConvTranspose1d(4, 6, 3), 12, 18),
    ],
    ids=lambda v: str(v),
)
def test_fans(module, fan_in, fan_out):
    assert (layer(module).fan_in, layer(module).fan_out) == (fan_in, fan_out)
