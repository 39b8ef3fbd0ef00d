"""Parameters and gradients are read where they lie, and reading them runs no code of the model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from nndiag.layers import discover
from nndiag.measures import Need
from nndiag.observe.weights import WeightsObserver
from nndiag.snapshot import Key

from .recordings import draw

NEEDS = frozenset({Need.UNIT_SIGNATURES, Need.WEIGHT_LAWS})


def observer(model: nn.Module, needs: frozenset[Need] = NEEDS) -> WeightsObserver:
    """Of all layers."""
    return WeightsObserver(model, discover(model), needs)


def trained(model: nn.Module) -> nn.Module:
    """After one backward pass."""
    model(draw(8, 4)).square().mean().backward()
    return model


def layers(statistics: Any, name: str) -> set[str]:
    """Layers that have a statistic whose name begins so."""
    return {key.layer for key in statistics if key.statistic.startswith(name)}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def test_each_layer_with_exchangeable_units_is_signed() -> None:
    seen = observer(trained(mlp())).read()
    assert layers(seen.statistics, "signature") >= {"0"}
    assert seen.gaps == {}


def test_laws_are_read_at_first_only() -> None:
    model = trained(mlp())
    assert layers(observer(model).read(first=True).statistics, "law") == {"0", "2"}
    assert layers(observer(model).read().statistics, "law") == set()


def test_nothing_is_read_that_nobody_needs() -> None:
    assert observer(trained(mlp()), frozenset()).read(first=True).statistics == {}


def test_without_gradients_there_is_a_gap() -> None:
    seen = observer(mlp()).read()
    assert {gap.tap for gap in seen.gaps} == {"grad"}
    assert layers(seen.statistics, "signature") >= {"0"}, "the weights are read all the same"


def test_stale_gradients_are_not_read() -> None:
    model = trained(mlp())
    assert {gap.tap for gap in observer(model).read(gradients=False).gaps} == {"grad"}


def test_gradients_of_another_optimizer_are_not_read() -> None:
    model = trained(mlp())
    seen = observer(model).read(only=list(model[2].parameters()))
    assert {gap.layer for gap in seen.gaps} == {"0"}


def test_second_optimizer_adds_its_layers_only() -> None:
    model = trained(mlp())
    watching = observer(model)
    first = watching.read(only=list(model[0].parameters())).statistics
    again = watching.read(only=list(model[2].parameters()), skip=first).statistics
    assert not any(key.layer == "0" for key in again)
    assert watching.read(only=list(model[0].parameters()), skip=first).statistics.keys() >= {
        key for key in first if key.layer == "0"
    }


def test_reading_runs_no_power_iteration() -> None:
    """``module.weight`` of a spectral norm moves its own state in train mode."""
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(6, 2))
    )
    trained(model)
    before = [buffer.clone() for buffer in model.buffers()]
    observer(model).read(first=True)
    assert all(map(torch.equal, before, model.buffers()))


def test_names_are_those_of_the_inner_model() -> None:
    class DistributedDataParallel(nn.Module):
        """Its name is what counts."""

        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    inner = trained(mlp())
    watching = WeightsObserver(DistributedDataParallel(inner), discover(inner), NEEDS)
    assert watching.read().statistics.keys() == observer(inner).read().statistics.keys()


def test_scripted_parts_are_passed_over(recwarn: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 2))))
    recwarn.clear()
    assert layers(observer(trained(model)).read().statistics, "signature") <= {"0"}


def test_lazy_parameters_are_gaps() -> None:
    seen = observer(nn.Sequential(nn.LazyLinear(4))).read(first=True)
    assert seen.statistics == {}


def test_the_parameters_are_looked_up_anew() -> None:
    """A parameter may be replaced by another."""
    model = trained(mlp())
    watching = observer(model)
    model[0].weight = nn.Parameter(torch.zeros(6, 4))
    seen = watching.read()
    assert {(gap.layer, gap.tap) for gap in seen.gaps} == {("0", "grad")}
    assert isinstance(next(iter(seen.statistics)), Key)
