"""Parameters around an update: what is held, what is read, whose turn it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from nndiag.observe.updates import UpdatesObserver
from nndiag.snapshot import Gap, Key
from nndiag.statistics import ParameterFlow, UpdateSize


def observer(root: nn.Module, aliases: dict[str, str] | None = None, keeps: str = "") -> UpdatesObserver:
    return UpdatesObserver(root, aliases or {}, lambda name: name.startswith(keeps))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def backward(model: nn.Module) -> Tensor:
    loss = model(torch.ones(5, 4)).square().sum()
    loss.backward()
    return loss


def names(seen: object, kind: type) -> set[tuple[str, str]]:
    found = seen.statistics  # type: ignore[attr-defined]
    return {(k.layer, k.statistic.partition("/")[2]) for k, v in found.items() if isinstance(v, kind)}


ALL = {("0", "weight"), ("0", "bias"), ("2", "weight"), ("2", "bias")}


def test_each_parameter_before_and_after() -> None:
    model = network()
    watch = observer(model)
    backward(model)
    before = watch.before()
    assert names(before, ParameterFlow) == ALL
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    after = watch.after()
    assert names(after, UpdateSize) == ALL
    assert after.statistics[Key("0", "weight", "weights", "update/weight")].ratio == pytest.approx(0.5)
    assert after.statistics[Key("2", "weight", "weights", "update/weight")].ratio == 0


def test_nothing_is_held_after_the_step() -> None:
    model = network()
    watch = observer(model)
    watch.before()
    assert names(watch.after(), UpdateSize) == ALL
    assert watch.after().statistics == {}
    watch.before()
    watch.forget()
    assert watch.after().statistics == {}


def test_nothing_is_written() -> None:
    model = network()
    backward(model)
    before = [(p, p.detach().clone(), p._version, p.grad.clone()) for p in model.parameters()]
    watch = observer(model)
    watch.before(scale=8.0)
    watch.after()
    assert all(
        torch.equal(p, w) and p._version == version and torch.equal(p.grad, g) for p, w, version, g in before
    )


def test_gradients_of_another_step_are_not_read() -> None:
    model = network()
    backward(model)
    flow = observer(model).before(gradients=False).statistics[Key("0", "grad", "weights", "flow/weight")]
    assert int(flow.has_gradient) == -1
    assert not flow.is_known


def test_the_scale_is_taken_out() -> None:
    model = network()
    backward(model)
    key = Key("2", "grad", "weights", "flow/weight")
    plain = observer(model).before().statistics[key]
    assert observer(model).before(scale=4.0).statistics[key].gradient == pytest.approx(plain.gradient / 4)


def test_two_optimizers_take_turns() -> None:
    """A parameter is read at its own optimizer's step; those of none, with the first."""
    model = network()
    watch = observer(model)
    first = watch.before(only=list(model[0].parameters()))
    second = watch.before(only=list(model[2].parameters()))
    assert names(second, ParameterFlow) == {("2", "weight"), ("2", "bias")}
    assert names(first, ParameterFlow) == ALL  # at the very first step nobody knows of the second
    watch.after()
    assert names(watch.before(only=list(model[0].parameters())), ParameterFlow) == {
        ("0", "weight"),
        ("0", "bias"),
    }


def test_who_is_in_no_optimizer() -> None:
    model = network()
    watch = observer(model)
    assert watch.unowned == []
    watch.before()
    assert watch.unowned == []
    watch.before(only=[model[0].weight, model[0].bias])
    assert set(watch.unowned) == {"2"}


def test_who_has_a_rate_of_zero_at_present() -> None:
    model = network()
    watch = observer(model)
    every = list(model.parameters())
    watch.before(only=every, idle=[model[2].weight])
    assert watch.idle == ["2"]
    watch.before(only=every)
    assert watch.idle == []


def test_another_optimizer_does_not_wake_it() -> None:
    model = network()
    watch = observer(model)
    watch.before(only=[model[2].weight], idle=[model[2].weight])
    watch.before(only=[model[0].weight])
    assert watch.idle == ["2"]


def test_shared_and_frozen_parameters() -> None:
    model = network()
    model.append(nn.Linear(3, 2))
    model[3].weight = model[2].weight
    model[0].requires_grad_(False)
    assert names(observer(model).before(), ParameterFlow) == {("2", "weight"), ("2", "bias"), ("3", "bias")}


def test_layers_that_were_not_asked_for() -> None:
    assert names(observer(network(), keeps="2").before(), ParameterFlow) == {("2", "weight"), ("2", "bias")}


def test_behind_a_parametrization() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    found = {layer for layer, _ in names(observer(model).before(), ParameterFlow)}
    assert found == {"0"}


def test_an_unreadable_gradient_is_a_gap() -> None:
    model = nn.Sequential(nn.Embedding(6, 4, sparse=True))
    model(torch.tensor([1, 2])).sum().backward()
    seen = observer(model).before()
    assert Gap("0", "grad", "weights") in seen.gaps
    assert names(seen, ParameterFlow) == set()


def test_large_parameters_are_sampled() -> None:
    model = nn.Sequential(nn.Linear(300, 200))
    watch = observer(model)
    watch.before()
    update = watch.after().statistics[Key("0", "weight", "weights", "update/weight")]
    assert 2048 <= int(update.sampled) <= 4096
