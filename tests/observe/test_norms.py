"""Normalization layers as they are read: settings without running code, replays with batches' statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.layers import discover
from nndiag.observe.batches import LABELS, BatchWindow
from nndiag.observe.buffers import Norm, NormObserver, norm_of, training_statistics
from nndiag.observe.observation import Observation
from nndiag.observe.watch import Call
from nndiag.snapshot import Key
from nndiag.statistics import BatchLabels, BatchMeans, NormState


def call(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    module = target if isinstance(target, nn.Module) else None
    function = None if module is not None else target.__name__
    return Call("layer", "layer", module, function, args, kwargs, target)


class OwnRMS(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(6))
        self.variance_epsilon = 1e-3


class OwnLayerNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.eps = 1e-4


X = torch.zeros(2, 6)
TINY = torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (call(nn.LayerNorm((2, 3), eps=1e-3), X), Norm("layer", 1e-3, 6)),
        (call(nn.RMSNorm(6), X), Norm("rms", TINY, 6)),
        (call(nn.GroupNorm(3, 6), X), Norm("group", 1e-5, groups=3)),
        (call(nn.InstanceNorm1d(6), X), Norm("group", 1e-5, groups=6)),
        (call(nn.BatchNorm1d(6).eval(), X), Norm("batch", 1e-5)),
        (call(nn.BatchNorm1d(6, track_running_stats=False), X), Norm("batch", 1e-5)),
        (call(OwnRMS(), X), Norm("rms", 1e-3, 6)),
        (call(OwnLayerNorm(), X), Norm("layer", 1e-4, 6)),
        (call(F.layer_norm, X, (6,), eps=1e-2), Norm("layer", 1e-2, 6)),
        (call(F.layer_norm, X, [6], None, None, 1e-2), Norm("layer", 1e-2, 6)),
        (call(F.rms_norm, X, (6,)), Norm("rms", TINY, 6)),
        (call(F.group_norm, X, 2), Norm("group", 1e-5, groups=2)),
        (call(F.batch_norm, X, None, None), Norm("batch", 1e-5)),
        (call(torch.batch_norm, X), None),
        (call(nn.Linear(2, 2), X).__class__("k", "k", nn.Identity(), None, (X,), {}, nn.Identity()), None),
    ],
    ids=lambda given: f"{given.function or type(given.module).__name__}" if isinstance(given, Call) else "",
)
def test_what_a_call_normalizes(seen: Call, expected: Norm | None) -> None:
    assert norm_of(seen) == expected


def test_running_statistics_of_a_training_call() -> None:
    layer = nn.BatchNorm1d(6, momentum=0.3)
    norm = norm_of(call(layer, X))
    assert norm is not None
    assert norm.running is not None
    assert norm.running.mean is layer.running_mean
    assert norm.running.momentum == 0.3
    mean, variance = torch.zeros(6), torch.ones(6)
    norm = norm_of(call(F.batch_norm, X, mean, variance, training=True, momentum=0.2))
    assert norm is not None
    assert norm.running is not None
    assert norm.running.variance is variance
    assert (norm.running.momentum, norm.running.tracked) == (0.2, None)


def test_handwritten_norms_are_discovered_by_name_and_shape() -> None:
    class RMSNormScaleless(nn.Module):
        pass

    class BatchNormOwn(OwnRMS):
        pass

    model = nn.ModuleDict({"a": OwnRMS(), "b": OwnLayerNorm(), "c": RMSNormScaleless(), "d": BatchNormOwn()})
    # OwnRMS does not say "norm"; the class below does.
    layers = discover(nn.ModuleDict({"rms": type("OwnRMSNorm", (OwnRMS,), {})(), **dict(model.items())}))
    assert {name: (info.role, info.units) for name, info in layers.items()} == {
        "rms": ("norm", 6),
        "b": ("norm", 6),
    }
    assert layers["rms"].inferred is not None


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.BatchNorm1d(6, momentum=0.0))


def observer(model: nn.Module) -> NormObserver:
    return NormObserver(model, discover(model))


def test_state_is_a_copy_of_what_the_layers_hold() -> None:
    model = net()
    model[3].eval().requires_grad_(False)
    model(torch.randn(8, 4))
    states = {key.layer: state for key, state in observer(model).read().statistics.items()}
    assert set(states) == {"1", "3"}
    first, second = states["1"], states["3"]
    assert isinstance(first, NormState)
    assert isinstance(second, NormState)
    assert torch.equal(first.mean, model[1].running_mean)
    assert first.mean.data_ptr() != model[1].running_mean.data_ptr()
    assert (int(first.training), int(first.trainable), int(first.tracked)) == (1, 1, 1)
    assert (int(second.training), int(second.trainable), float(second.momentum)) == (0, 0, 0.0)


def test_parametrized_attributes_are_not_run() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            return x

    model = nn.Sequential(nn.LayerNorm(4), nn.BatchNorm1d(4))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Counting())
    before = Counting.calls
    observer(model).read()
    norm_of(call(model[0], X))
    assert Counting.calls == before


def replay(model: nn.Module, x: Tensor, rows: Mapping[nn.Module, int | None]) -> Tensor:
    model.eval()
    with torch.no_grad(), training_statistics(model, rows):
        return model(x)


def everything(model: nn.Module) -> list[Any]:
    plain = [{k: v for k, v in m.__dict__.items() if not k.startswith("_")} for m in model.modules()]
    return [plain, {name: tensor.clone() for name, tensor in model.state_dict().items()}]


@pytest.mark.parametrize("rows", [None, 8, 5, 3])
def test_replay_normalizes_by_batches_of_the_right_size(rows: int | None) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    nn.init.normal_(model[0].weight)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    found = replay(model, x, {model[0]: rows})
    parts = torch.tensor_split(x, 1 if rows is None else round(16 / rows))
    expected = [(p - p.mean(0)) / (p.var(0, correction=0) + 1e-5).sqrt() for p in parts]
    expected_all = torch.cat(expected) * model[0].weight + model[0].bias
    assert torch.allclose(found, expected_all, atol=1e-5)


def test_replay_leaves_nothing_behind_also_after_an_exception() -> None:
    model = net().eval()
    before = everything(model)
    rows: dict[nn.Module, int | None] = {model[1]: 4, model[3]: None}
    replay(model, torch.randn(8, 4), rows)
    with pytest.raises(RuntimeError):
        replay(model, torch.randn(8, 5), rows)
    after = everything(model)
    assert after[0] == before[0]
    assert all(torch.equal(after[1][name], tensor) for name, tensor in before[1].items())


def test_frozen_layers_evaluate_in_the_replay() -> None:
    model = net()
    model[3].eval()
    watched = observer(model)
    watched.note_batch_sizes({"1": 4})
    assert watched.in_training() == {model[1]: 4}
    model[1].eval()
    assert watched.in_training() == {}


def test_window_keeps_batches_over_visits() -> None:
    window, key = BatchWindow(), Key("first", "input", "stream", "batch_means")
    for visit in range(3):
        seen = Observation()
        seen.add(key, BatchMeans.of(torch.randn(4, 5)))
        window.note_labels(torch.tensor([0, visit]))
        window.note_labels("no labels")
        window.extend(seen)
        means, labels = seen.statistics[key], seen.statistics[LABELS]
        assert isinstance(means, BatchMeans)
        assert isinstance(labels, BatchLabels)
        assert means.batches == labels.batches == visit + 1


def test_labels_are_copied_when_they_are_noted() -> None:
    window, labels, seen = BatchWindow(), torch.tensor([1, 1]), Observation()
    window.note_labels(labels)
    labels.zero_()
    window.extend(seen)
    assert seen.statistics[LABELS].table.tolist() == [[0, 2]]  # type: ignore[attr-defined]
