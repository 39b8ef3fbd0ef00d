"""Which layers a module has, under which names, and that looking leaves the module as it is."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize

from layers.cutting import cut, domain, filled, layer
from nndiag.layers import LayerInfo, discover, named_layers, strip_wrappers


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Dropout()), nn.Linear(4, 2)
    )


def compiled(module: nn.Module) -> nn.Module:
    """Wrapped as for compilation, which the first call would start."""
    return torch.compile(module, backend="eager")


def test_layers_come_in_order_of_registration_without_containers():
    layers = discover(small())
    assert list(layers) == ["0", "1", "2.0", "2.1", "3"]
    assert [info.depth for info in layers.values()] == [0, 1, 2, 3, 4]
    assert [info.name for info in layers.values()] == list(layers)
    assert [info.role for info in layers.values()] == ["weight", "activation", "weight", "dropout", "weight"]


def test_a_network_without_layers():
    assert discover(nn.Sequential()) == {}


@pytest.mark.parametrize(
    ("module", "role"),
    [
        (nn.PReLU(), "activation"),
        (nn.GELU(), "activation"),
        (nn.Hardtanh(), "activation"),
        (nn.Dropout2d(), "dropout"),
        (nn.FeatureAlphaDropout(), "dropout"),
        (nn.MultiheadAttention(4, 2), "attention"),
        (nn.LSTM(2, 3), "recurrent"),
        (nn.GRUCell(2, 3), "recurrent"),
        (nn.EmbeddingBag(5, 3), "embedding"),
        (nn.RMSNorm(3), "norm"),
    ],
    ids=lambda v: str(v).partition("(")[0],
)
def test_roles(module, role):
    info = layer(module)
    assert (info.role, info.kind) == (role, type(module).__name__)


@pytest.mark.parametrize("module", [nn.Softmax(1), nn.GLU(), nn.Identity(), nn.Flatten(), nn.MaxPool2d(2)])
def test_what_has_neither_units_nor_tails_is_no_layer(module):
    assert discover(module) == {}


def test_a_reused_module_is_one_layer_with_aliases():
    shared = nn.Linear(3, 3)
    layers = discover(nn.ModuleDict({"a": shared, "b": nn.Tanh(), "c": shared, "d": nn.ModuleList([shared])}))
    assert list(layers) == ["a", "b"]
    assert layers["a"].aliases == ("c", "d.0")


def test_a_reused_activation_is_one_layer_with_aliases():
    relu = nn.ReLU()
    layers = discover(nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu))
    assert layers["1"].aliases == ("3",)


def test_tied_weights_are_one_layer():
    net = nn.ModuleDict({"embedding": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    net["head"].weight = net["embedding"].weight
    layers = discover(net)
    assert list(layers) == ["embedding"]
    assert layers["embedding"].aliases == ("head",)


def test_modules_that_are_only_alike_are_two_layers():
    assert list(
        discover(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.LayerNorm(3, elementwise_affine=False)))
    ) == list("012")


def test_a_frozen_layer_is_not_trainable():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU())
    net[0].requires_grad_(False)
    assert [info.trainable for info in discover(net).values()] == [False, True, True]


def test_a_frozen_transposed_linear_is_not_trainable():
    conv1d = type("Conv1D", (nn.Module,), {})()
    conv1d.weight, conv1d.bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    conv1d.requires_grad_(False)
    assert not layer(conv1d).trainable


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm3d, nn.BatchNorm1d])
@pytest.mark.parametrize("name", ["Fused", "NormAnd", "Norm7d"])
def test_a_norm_may_have_any_class_name(kind, name):
    named, plain = layer(type(name, (kind,), {})(4)), layer(kind(4))
    assert (named.unit_axis, named.units, named.kind) == (plain.unit_axis, 4, name)


# Reparametrizations


def state_of(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in module.state_dict().values()]


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
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(4, 3), lambda: nn.Conv2d(2, 3, 2), lambda: nn.ConvTranspose1d(4, 3, 2)]
)
def test_discovering_moves_nothing(wrap, make):
    module = wrap(make()).train()
    before, generator = state_of(module), torch.get_rng_state()
    assert layer(module).units == 3
    assert all(a.equal(b) for a, b in zip(before, state_of(module), strict=True))
    assert torch.get_rng_state().equal(generator)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_old_weight_norm():
    module = filled(nn.utils.weight_norm(nn.Linear(4, 3)))
    assert layer(module).weight is None
    assert cut(module).equal(torch.cat([module.bias[:, None], module.weight_g, module.weight_v], 1).detach())


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
def test_old_spectral_norm():
    module = filled(nn.utils.spectral_norm(nn.Linear(4, 3)))
    assert layer(module).weight is None
    assert cut(module).equal(torch.cat([module.bias[:, None], module.weight_orig], 1).detach())


def test_parametrized_weight_norm():
    module = filled(parametrizations.weight_norm(nn.Conv2d(2, 3, 2)))
    g, v = (module.parametrizations.weight.original0, module.parametrizations.weight.original1)
    assert cut(module).equal(torch.cat([module.bias[:, None], g.flatten(1), v.flatten(1)], 1).detach())


def test_parametrized_spectral_norm():
    module = filled(parametrizations.spectral_norm(nn.Linear(4, 3)))
    original = module.parametrizations.weight.original
    assert cut(module).equal(torch.cat([module.bias[:, None], original], 1).detach())


@pytest.mark.parametrize("dim", [0, None], ids=["a scale an input", "one scale"])
def test_a_scale_that_no_unit_owns_is_left_out(dim):
    module = filled(parametrizations.weight_norm(nn.ConvTranspose1d(4, 3, 2), dim=dim))
    v = module.parametrizations.weight.original1
    assert cut(module).equal(torch.cat([module.bias[:, None], v.transpose(0, 1).flatten(1)], 1).detach())


@pytest.mark.parametrize("group", [0, 1])
def test_weight_norm_of_a_grouped_convolution(group):
    module = filled(parametrizations.weight_norm(nn.Conv1d(4, 6, 2, groups=2)))
    own = slice(3 * group, 3 * group + 3)
    g, v = (module.parametrizations.weight.original0[own], module.parametrizations.weight.original1[own])
    expected = torch.cat([module.bias[own, None], g.flatten(1), v.flatten(1)], 1).detach()
    assert cut(module, f"group {group}").equal(expected)


def test_a_parametrized_class_keeps_its_kind():
    assert layer(parametrizations.weight_norm(nn.Linear(4, 3))).kind == "Linear"
    assert layer(type("FSDPLinear", (nn.Linear,), {})(4, 3)).kind == "Linear"
    assert layer(type("MyLinear", (nn.Linear,), {})(4, 3)).kind == "MyLinear"


def test_a_recurrent_layer_whose_weights_are_all_computed_has_no_domain():
    module = nn.GRUCell(2, 3, bias=False)
    for name in ("weight_ih", "weight_hh"):
        parametrize.register_parametrization(module, name, nn.Identity())
    assert layer(module).domains == ()


# What cannot be looked into


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(4), lambda: nn.LazyConv2d(4, 2)])
def test_a_lazy_module_is_a_layer_without_units_until_its_first_call(make):
    module = make()
    before = layer(module)
    assert (before.role, before.units, before.domains) == ("weight", None, ())
    module(torch.ones(2, 3, 5, 5) if "Conv" in type(module).__name__ else torch.ones(2, 3))
    after = layer(module)
    assert (after.units, after.kind, len(after.domains)) == (4, type(module).__name__, 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_scripted_modules_are_skipped():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": scripted, "c": nn.Linear(2, 2)})
    assert list(discover(net)) == ["a", "c"]
    assert discover(scripted) == {}


def test_meta_tensors_have_layers():
    assert layer(nn.Linear(4, 3, device="meta")).units == 3


# Names


WRAPPED = {
    "_orig_mod.blocks.0.fc": "blocks.0.fc",
    "blocks.0._orig_mod.fc": "blocks.0.fc",
    "_fsdp_wrapped_module.fc": "fc",
    "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.fc": "blocks.0.fc",
    "_orig_mod": "",
    "": "",
    "my_orig_mod.fc": "my_orig_mod.fc",
    "module.fc": "module.fc",  # a name of the user's, for all one can tell
}


@pytest.mark.parametrize(("raw", "name"), WRAPPED.items())
def test_wrappers_are_stripped_from_names(raw, name):
    assert strip_wrappers(raw) == name


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        nn.DataParallel,
        checkpoint_wrapper,
        lambda net: compiled(nn.DataParallel(net)),
        lambda net: nn.DataParallel(compiled(net)),
        lambda net: nn.DataParallel(checkpoint_wrapper(net)),
    ],
    ids=[
        "compiled",
        "parallel",
        "checkpointed",
        "compiled parallel",
        "parallel compiled",
        "parallel checkpointed",
    ],
)
@pytest.mark.parametrize("make", [small, lambda: nn.Linear(3, 4)], ids=["network", "one layer"])
def test_a_wrapped_network_has_the_same_layers(wrap, make):
    assert discover(wrap(make())) == discover(make())


def test_a_wrapped_part_has_the_same_name():
    net = small()
    net[2] = compiled(net[2])
    net[3] = checkpoint_wrapper(net[3])
    assert discover(net) == discover(small())


def test_a_module_of_the_users_may_be_called_module():
    assert list(discover(nn.ModuleDict({"module": small()[2]}))) == ["module.0", "module.1"]


def test_named_layers_gives_every_name_of_a_module():
    shared = nn.Linear(2, 2)
    assert [name for name, _ in named_layers(nn.Sequential(shared, shared))] == ["", "0", "1"]


# LayerInfo


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(2, 3),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.LSTM(2, 3, bidirectional=True),
        nn.MultiheadAttention(4, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_round_trip(module):
    info = replace(layer(module), edges=(-2.5, None), aliases=("x", "y"), source="z", inferred="from z")
    record = json.loads(json.dumps(asdict(info)))
    assert LayerInfo.from_dict(record) == info
    assert LayerInfo.from_dict(record | {"added later": 1}) == info


@pytest.mark.parametrize(
    ("name", "source", "place"),
    [("fc", None, "fc"), ("mlp:relu#1", None, "mlp"), (":relu", None, ":relu"), ("act", "fc", "fc")],
)
def test_place(name, source, place):
    assert replace(layer(nn.ReLU()), name=name, source=source).place == place


@pytest.mark.parametrize(
    ("module", "activation", "is_odd"),
    [
        (nn.RNN(2, 3), "tanh", True),
        (nn.RNN(2, 3, nonlinearity="relu"), "relu", False),
        (nn.RNNCell(2, 3), "tanh", True),
        (nn.RNNCell(2, 3, nonlinearity="relu"), "relu", False),
        (nn.LSTM(2, 3), "tanh", False),
        (nn.GRUCell(2, 3), "tanh", False),
    ],
    ids=lambda v: str(v),
)
def test_activation_of_recurrent_layers(module, activation, is_odd):
    assert (layer(module).activation, layer(module).odd) == (activation, is_odd)


def test_domains_name_parameters_that_exist():
    net = nn.ModuleList(
        [nn.MultiheadAttention(4, 2, kdim=3), nn.LSTM(2, 3, 2), parametrizations.weight_norm(nn.Linear(2, 2))]
    )
    known = dict(net.named_parameters())
    for name, info in discover(net).items():
        for part in (part for d in info.domains for part in domain(net, d.name, name).parts):
            assert f"{name}.{part.parameter}" in known
