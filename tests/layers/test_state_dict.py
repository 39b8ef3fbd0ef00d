"""Layers of a bare state dict: what names and shapes can tell, and nothing more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from layers.cutting import filled
from nndiag.layers import LayerInfo, discover, discover_state_dict, unit_rows

SAME: list[nn.Module] = [
    nn.Linear(4, 3),
    nn.Linear(4, 3, bias=False),
    nn.Conv1d(2, 3, 2),
    nn.Conv2d(2, 3, 2, bias=False),
    nn.Conv3d(2, 3, 2),
    nn.ConvTranspose1d(2, 3, 2),
    nn.ConvTranspose2d(4, 3, 2),
    nn.ConvTranspose3d(2, 3, 2),
    nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    nn.LSTM(3, 6, proj_size=3),
    nn.LSTM(3, 6, bias=False),
    nn.GRU(3, 4, bidirectional=True),
    nn.RNN(3, 4),
    nn.LSTMCell(3, 4),
    nn.GRUCell(3, 4, bias=False),
    nn.RNNCell(3, 4),
]


def alone(module: nn.Module) -> dict[str, Tensor]:
    """The state of a network that is one layer, called "net.part"."""
    return nn.ModuleDict({"net": nn.ModuleDict({"part": module})}).state_dict()


def matrices(info: LayerInfo, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Unit matrices by domain."""
    found = {d.name: unit_rows(d, lambda name: state[prefix + name]) for d in info.domains}
    return {name: rows for name, rows in found.items() if rows is not None}


@pytest.mark.parametrize("module", SAME, ids=str)
def test_same_units_as_the_module(module):
    filled(module)
    state = alone(module)
    found = discover_state_dict(state)
    assert list(found) == ["net.part"]
    inferred, known = found["net.part"], discover(module)[""]
    assert (inferred.kind, inferred.role, inferred.units) == (
        known.kind.removesuffix("Cell"),
        known.role,
        known.units,
    )
    assert inferred.inferred
    ours, theirs = matrices(inferred, state, "net.part."), matrices(known, state, "net.part.")
    assert ours.keys() == theirs.keys()
    for name, rows in theirs.items():
        torch.testing.assert_close(ours[name], rows)


@pytest.mark.parametrize("name", ["embedding", "tok_embed", "wte", "wpe", "pos_emb", "embed_tokens"])
def test_an_embedding_is_known_by_its_name(name):
    state = {f"model.{name}.weight": torch.rand(9, 4)}
    info = discover_state_dict(state)[f"model.{name}"]
    assert (info.kind, info.role, info.units) == ("Embedding", "embedding", 4)
    assert matrices(info, state, f"model.{name}.")[""].equal(state[f"model.{name}.weight"].T)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 12), (12, 4)])
def test_transposed_linear_of_the_first_gpt(inputs, outputs):
    state = {
        "h.0.attn.c_attn.weight": torch.rand(inputs, outputs),
        "h.0.attn.c_attn.bias": torch.zeros(outputs),
    }
    info = discover_state_dict(state)["h.0.attn.c_attn"]
    assert (info.kind, info.units, info.fan_in, info.fan_out) == ("Conv1D", outputs, inputs, outputs)
    rows = matrices(info, state, "h.0.attn.c_attn.")[""]
    assert rows.equal(torch.cat([state["h.0.attn.c_attn.weight"].T, torch.zeros(outputs, 1)], 1))


@pytest.mark.parametrize("sizes", [{}, {"kdim": 3, "vdim": 5}], ids=["packed", "separate"])
@pytest.mark.parametrize("bias", [True, False])
def test_values_of_an_attention_layer(sizes, bias):
    module = filled(nn.MultiheadAttention(6, 3, bias=bias, **sizes))
    state = alone(module)
    layers = discover_state_dict(state)
    assert list(layers) == ["net.part", "net.part.out_proj"]
    info = layers["net.part"]
    assert (info.kind, info.role, info.units) == ("MultiheadAttention", "attention", 6)
    assert [d.name for d in info.domains] == ["values"], "queries are never compared with keys"
    expected = matrices(discover(module)[""], state, "net.part.")["values"]
    assert matrices(info, state, "net.part.")["values"].equal(expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
    ],
    ids=["old spectral", "old weight", "spectral", "weight"],
)
@pytest.mark.parametrize("is_root", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(4, 3), lambda: nn.Conv2d(2, 3, 2), lambda: nn.ConvTranspose1d(4, 3, 2)]
)
def test_reparametrized_weights(wrap, is_root, make):
    module = filled(wrap(make()))
    name, state = ("", module.state_dict()) if is_root else ("net.part", alone(module))
    info = discover_state_dict(state)[name]
    assert (info.units, info.weight) == (3, None)
    prefix = f"{name}." if name else ""
    ours, theirs = matrices(info, state, prefix)[""], matrices(discover(module)[""], state, prefix)[""]
    assert ours.shape == theirs.shape
    assert sorted(ours.T.tolist()) == sorted(theirs.T.tolist()), "the same numbers a unit"


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_recurrent_layer_with_weight_norm_is_not_mistaken_for_another():
    module = nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    assert discover_state_dict(alone(module)) == {}


@pytest.mark.parametrize("prefix", ["_orig_mod.", "_fsdp_wrapped_module.", ""])
def test_wrapped_names(prefix):
    assert list(discover_state_dict({f"{prefix}fc.weight": torch.rand(3, 2)})) == ["fc"]


def test_norms_and_single_units_have_nothing_to_compare():
    net = nn.Sequential(nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.PReLU(4), nn.Linear(4, 1))
    assert discover_state_dict(net.state_dict()) == {}


def test_order_is_that_of_the_file():
    layers = discover_state_dict(
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LSTM(3, 2)).state_dict()
    )
    assert [(name, info.depth) for name, info in layers.items()] == [("0", 0), ("2", 1)]


ODD = {
    "empty": {},
    "scalar weight": {"a.weight": torch.tensor(1.0)},
    "scalar bias": {"a.weight": torch.rand(3, 2), "a.bias": torch.tensor(1.0)},
    "bias of another length": {"a.weight": torch.rand(3, 2), "a.bias": torch.rand(7)},
    "no rows": {"a.weight": torch.empty(0, 4)},
    "no columns": {"a.weight": torch.empty(4, 0)},
    "recurrent without hidden units": {"a.weight_hh_l0": torch.empty(0, 0)},
    "flat recurrent": {"a.weight_hh_l0": torch.rand(8)},
    "recurrent of no known kind": {"a.weight_hh_l0": torch.rand(10, 5), "a.weight_ih_l0": torch.rand(10, 3)},
    "recurrent that does not divide": {"a.weight_hh_l0": torch.rand(7, 2)},
    "inputs of another length": {"a.weight_hh_l0": torch.rand(8, 2), "a.weight_ih_l0": torch.rand(9, 2)},
    "flat projection": {"a.weight_hh_l0": torch.rand(8, 2), "a.weight_hr_l0": torch.rand(2)},
    "attention that does not divide": {"a.in_proj_weight": torch.rand(7, 2)},
    "flat attention": {"a.in_proj_weight": torch.rand(6), "a.in_proj_bias": torch.tensor(0.0)},
    "attention with a flat projection": {
        "a.in_proj_weight": torch.rand(6, 2),
        "a.out_proj.weight": torch.rand(2),
    },
    "scales without directions": {"a.weight_g": torch.rand(3, 1)},
    "names without a module": {"weight": torch.rand(3, 2), ".weight": torch.rand(3, 2), "": torch.rand(2)},
    "parametrizations of nothing": {"parametrizations.": torch.rand(2), "a.parametrizations.": torch.rand(2)},
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_states_raise_nothing_and_every_domain_can_be_cut(kind):
    for name, info in discover_state_dict(ODD[kind]).items():
        prefix = f"{name}." if name else ""
        for domain in info.domains:
            rows = unit_rows(domain, lambda part, prefix=prefix: ODD[kind].get(prefix + part))
            assert rows is not None
            assert len(rows) == info.units
