"""Sick trainings with their healthy twins: every norm rule speaks where it should, and is silent else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nndiag.options import MonitorOptions
from nndiag.session import Session

from .runs import Batch, Run, batches, classify, prototypes

STEPS = 202
"""Until the second experiment after the longest wait."""

SHORT = 62
"""Until the first experiment after the wait of momentum 0.1."""


def perceptron(norm: Callable[[int], nn.Module] = nn.BatchNorm1d, width: int = 32) -> nn.Sequential:
    """64 -> 32 -> 32 -> 10 with normalization between."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(64, width), norm(width), nn.ReLU()),
        *(nn.Linear(width, width), norm(width), nn.ReLU()),
        nn.Linear(width, 10),
    )


def train(
    model: nn.Module,
    data: list[Any],
    *,
    loss_of: Callable[[nn.Module, Any], Tensor] = classify,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 0.05,
    **options: Any,
) -> Run:
    """With this measure only, on the cadence of a run of unknown length: start-up visits, then every 50 steps."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    plain = {"measures": ["norm_drift"], "max_overhead": None, "console": False, "strict": True}
    session, updates = Session(model, MonitorOptions.checked(**plain | options)), []
    for step, batch in enumerate(data):
        session.begin_batch(step)
        session.open_window(glue=False)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        session.before_update(optimizer=optimizer)
        optimizer.step()
        updates.append(session.end_batch(loss, batch[1] if isinstance(batch, tuple) else None))
    return Run(model, [update for update in updates if update is not None], session.close())


@functools.cache
def healthy() -> Run:
    """A run in which nothing is wrong."""
    return train(perceptron(), batches(STEPS))


@torch.no_grad()
def score(model: nn.Module) -> float:
    """Share of 512 samples classified right in eval mode."""
    x, y = prototypes(512)
    model.eval()
    right = float((model(x).argmax(1) == y).double().mean())
    model.train()
    return right


def one_class_each(steps: int, size: int = 64) -> list[Batch]:
    """Batches of a single class each."""
    x, y = prototypes(2048)
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(steps):
        members = (y == step * 7 % 10).nonzero().flatten()
        pick = members[torch.randint(len(members), (size,), generator=generator)]
        found.append((x[pick], y[pick]))
    return found


def stratified(steps: int) -> list[Batch]:
    """Batches with six samples of each class."""
    x, y = prototypes(2048)
    generator = torch.Generator().manual_seed(1)
    rows = [(y == c).nonzero().flatten() for c in range(10)]
    picks = [
        torch.cat([m[torch.randint(len(m), (6,), generator=generator)] for m in rows]) for _ in range(steps)
    ]
    return [(x[pick], y[pick]) for pick in picks]


def brightened(steps: int) -> list[Batch]:
    """Random batches, each with a contrast and a brightness of its own."""
    generator = torch.Generator().manual_seed(2)
    draws = torch.rand(steps, 2, generator=generator)
    return [((0.5 + a) * x + 2 * b - 1, y) for (x, y), (a, b) in zip(batches(steps), draws, strict=True)]


def test_healthy_batch_normalization_is_silent_and_measured() -> None:
    run = healthy()
    assert run.alarms() == []
    assert score(run.model) > 0.95
    for layer in ("1", "4"):
        assert run.reading("running_distance", layer).value < 0.005
        assert 0 < run.reading("batch_z2", layer).value < 4
        assert run.reading("values_per_statistic", layer).value == 64
        entry = run.report.coverage.of(layer, "norm_drift")
        assert entry is not None
        assert entry.status == "measured"
    assert run.reading("train_eval_gap", None).value < 0.01
    assert run.reading("label_dispersion", None).value == pytest.approx(1, abs=0.3)
    assert abs(run.reading("input_icc", None).value) < 0.02


@pytest.mark.usefixtures("float32")
def test_slow_momentum_and_its_repair() -> None:
    """The statistics are still almost (0, 1); refreshing them at fixed weights brings the accuracy back."""
    model = perceptron(lambda width: nn.BatchNorm1d(width, momentum=1e-4))
    with torch.no_grad():
        model[0].bias.add_(3.0)
    run = train(model, batches(STEPS))
    found = run.findings()
    assert found["ND401"].severity == "critical"
    assert set(found["ND401"].layers) == {"1", "4"}
    assert found["ND403"].severity == "warning"
    assert found["ND403"] in [f for top in run.report.findings for f in top.related]
    assert found["ND401"].first_step >= 100
    sick = score(model)
    refresh(model)
    assert score(model) > 0.95 > sick + 0.1
    model[1].momentum = model[4].momentum = 0.1
    after = train(model, batches(SHORT), lr=1e-4)
    assert after.alarms() == []


@torch.no_grad()
def refresh(model: nn.Module) -> None:
    """PreciseBN: a cumulative average over shuffled data."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for x, _ in batches(16):
        model(x)


@pytest.mark.parametrize(("momentum", "first"), [(0.5, 16), (0.1, 61), (0.01, 101), (1e-4, 101)])
def test_running_statistics_are_not_judged_before_they_could_be_right(momentum: float, first: int) -> None:
    """After min(ln(0.01) / ln(1 - momentum), 100) steps, at the next experiment."""
    model = perceptron(lambda width: nn.BatchNorm1d(width, momentum=momentum))
    run = train(model, batches(first + 1))
    assert [u.step for u in run.updates for r in u.readings if r.name == "running_distance"] == [first] * 2


def test_pretrained_statistics_on_other_data() -> None:
    model = perceptron(lambda width: nn.BatchNorm1d(width, momentum=0.01))
    train(model, batches(SHORT))
    for norm in (model[1], model[4]):
        norm.num_batches_tracked.fill_(10_000)
    run = train(model, [(3 * x + 2, y) for x, y in batches(70)], lr=1e-3)
    assert run.findings()["ND402"].severity == "warning"
    assert "1" in run.findings()["ND402"].layers


def test_two_samples_a_batch() -> None:
    torch.manual_seed(0)
    run = train(perceptron(), batches(STEPS, 2))
    found = run.findings()["ND404"]
    assert found.severity == "warning"
    assert set(found.layers) == {"1", "4"}
    assert found.evidence["values_per_statistic"] == 2
    # That running statistics scatter, too, is a consequence.
    assert [top.rule for top in run.report.findings if top.severity.rank > 0] == ["ND404"]


def test_few_samples_with_many_positions_are_enough() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 10)),
    )
    run = train(model, batches(STEPS, 4), lr=0.01)
    assert run.reading("values_per_statistic", "2").value == 4 * 36
    assert run.alarms() == []


def test_one_class_a_batch() -> None:
    run = train(perceptron(), one_class_each(STEPS))
    found = run.findings()["ND405"]
    assert found.severity == "warning"
    assert found.evidence["classes_in_a_batch"] == 1.0
    assert run.reading("input_icc", None).value > 0.15
    assert {f.rule for f in run.findings().values() if f.severity != "info"} == {"ND405"}
    assert score(run.model) < 0.8 < score(healthy().model)


def test_one_class_a_batch_without_labels() -> None:
    run = train(perceptron(), [list(batch) for batch in one_class_each(STEPS)])
    assert "label_dispersion" not in {r.name for r in run.report.readings}
    assert run.findings()["ND405"].severity == "warning"


def test_one_class_a_batch_without_batch_statistics_is_a_note() -> None:
    run = train(perceptron(nn.LayerNorm), one_class_each(SHORT))
    assert run.findings()["ND405"].severity == "info"
    assert run.alarms() == []


def test_augmentation_of_whole_batches_is_a_note() -> None:
    run = train(perceptron(), brightened(STEPS))
    assert score(run.model) > 0.9
    assert run.findings()["ND405"].severity == "info"
    assert run.alarms() == []


def test_stratified_batches_are_fine() -> None:
    run = train(perceptron(), stratified(STEPS))
    assert run.reading("label_dispersion", None).value == 0.0
    assert run.reading("input_icc", None).value < 0.005
    assert "ND405" not in run.findings()
    assert run.alarms() == []


@pytest.mark.parametrize("sizes", [(64, 64, 64, 5), (1, 16), (1,)], ids=["short last", "single", "singles"])
def test_batches_of_unequal_size(sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (4, 16)), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(64, 10))
    data = [
        (x[: sizes[step % len(sizes)]], y[: sizes[step % len(sizes)]])
        for step, (x, y) in enumerate(batches(SHORT))
    ]
    run = train(model, data, lr=0.01)
    assert run.alarms() == []


def test_gain_that_starts_at_zero_and_leaves_it() -> None:
    model = perceptron()
    nn.init.zeros_(model[1].weight)
    nn.init.ones_(model[1].bias)
    run = train(model, batches(SHORT))
    assert run.reading("constant_share", "1", 0).value == 1.0
    assert "ND406" not in run.findings()


def test_gain_that_stays_zero() -> None:
    model = perceptron()
    nn.init.zeros_(model[1].weight).requires_grad_(False)
    nn.init.ones_(model[1].bias)
    run = train(model, batches(SHORT))
    found = run.findings()["ND406"]
    assert (found.severity, found.layer) == ("warning", "1")
    assert found.evidence["constant"] == found.evidence["channels"] == 32


def test_a_few_constant_inputs_are_a_note() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
    run = train(model, [(x * (torch.arange(64) > 3), y) for x, y in batches(SHORT)])
    found = run.findings()["ND406"]
    assert (found.severity, found.evidence["which"]) == ("info", "0, 1, 2, 3")
    assert run.alarms() == []


def test_momentum_zero() -> None:
    run = train(perceptron(lambda width: nn.BatchNorm1d(width, momentum=0.0)), batches(SHORT))
    found = run.findings()["ND407"]
    assert found.severity == "warning"
    assert found.evidence["fault"] == "momentum 0"
    assert set(found.layers) == {"1", "4"}


def test_buffers_that_never_change() -> None:
    """Training runs on copies of the buffers."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        own = dict(model.named_parameters())
        return F.cross_entropy(torch.func.functional_call(model, own | buffers, (batch[0],)), batch[1])

    found = train(perceptron(), batches(SHORT), loss_of=loss).findings()["ND407"]
    assert (found.severity, found.evidence["fault"]) == ("warning", "never updated")


def backbone() -> nn.Sequential:
    """A trained network with all but its last layer frozen; its normalization in training mode."""
    model = perceptron()
    train(model, batches(SHORT))
    model[:6].requires_grad_(False)
    return model


def freeze(model: nn.Sequential) -> nn.Sequential:
    for layer in (model[1], model[4]):
        layer.eval()
    return model


def test_frozen_backbone_is_silent_also_on_other_data() -> None:
    model = freeze(backbone())
    data = [(2 * x + 1, y) for x, y in batches(SHORT)]
    run = train(model, data, optimizer=torch.optim.SGD(model[6].parameters(), lr=0.05))
    assert run.findings() == {}
    assert "batch_z2" not in {r.name for r in run.report.readings}
    assert not model[1].training


def test_frozen_backbone_whose_buffers_move() -> None:
    model = backbone()
    data = [(2 * x + 1, y) for x, y in batches(SHORT)]
    run = train(model, data, optimizer=torch.optim.SGD(model[6].parameters(), lr=0.05))
    found = run.findings()["ND407"]
    assert (found.severity, found.evidence["fault"]) == ("warning", "moves while frozen")
    same = backbone()
    run = train(same, batches(SHORT), optimizer=torch.optim.SGD(same[6].parameters(), lr=0.05))
    assert run.findings()["ND407"].severity == "info"
    assert run.alarms() == []


def test_backbone_unfrozen_by_train() -> None:
    model, seen = freeze(backbone()), []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch)
        if len(seen) == 20:
            model.train()
        return F.cross_entropy(model(2 * batch[0] + 1), batch[1])

    optimizer = torch.optim.SGD(model[6].parameters(), lr=0.05)
    found = train(model, batches(SHORT), loss_of=loss, optimizer=optimizer).findings()["ND407"]
    assert (found.severity, found.evidence["fault"]) == ("warning", "unfrozen")
    assert found.first_step >= 19


def test_eval_mode_from_the_start_is_a_warning() -> None:
    run = train(freeze(perceptron()), batches(SHORT))
    found = run.findings()["ND407"]
    assert (found.severity, found.evidence["fault"]) == ("warning", "evaluates its initial values")


class Checkpointed(nn.Module):
    def __init__(self, active: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.active = active
        self.stem = nn.Linear(64, 32)
        self.body = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.active and torch.is_grad_enabled():
            return self.head(checkpoint(self.body, x, use_reentrant=False))
        return self.head(self.body(x))


def test_recomputation_updates_twice() -> None:
    run = train(Checkpointed(True), batches(SHORT))
    found = run.findings()["ND407"]
    assert (found.severity, found.evidence["fault"], found.layer) == ("info", "updated twice", "body.1")
    assert found.evidence["updates_per_batch"] == 2.0
    assert run.alarms() == []
    assert "ND407" not in train(Checkpointed(False), batches(SHORT)).findings()


SCALE = torch.tensor([300.0, 0.3, 3.0, 1.0, 10.0, 0.5, 2.0, 5.0])
OFFSET = torch.tensor([1000.0, 1.0, 6.0, 3.0, 30.0, 1.0, 36.0, -10.0])


def table(scale: Tensor, offset: Tensor, steps: int = 60) -> list[tuple[Tensor, Tensor]]:
    """Eight columns and a price that depends on the small ones."""
    z = torch.randn(steps, 64, 8, generator=torch.Generator().manual_seed(3))
    return [(rows * scale + offset, rows[:, 1] + rows[:, 3] - rows[:, 5]) for rows in z]


def price(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(1), batch[1])


@pytest.mark.parametrize(
    ("scale", "offset", "severity"),
    [
        (SCALE, OFFSET, "critical"),
        (SCALE, 0 * OFFSET, "unlike"),
        (torch.ones(8), 30 * OFFSET.sign().cumsum(0), "critical"),
        (torch.ones(8), torch.zeros(8), None),
    ],
    ids=["both", "scales", "offsets", "standardized"],
)
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_layer_norm_on_a_table(
    norm: type[nn.Module], scale: Tensor, offset: Tensor, severity: str | None
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(norm(8), nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    run = train(model, table(scale, offset), loss_of=price, lr=0.01)
    found = run.findings().get("ND408")
    # Centering hands the large column on to the others; without it they are small indeed.
    expected = {"unlike": "warning" if norm is nn.LayerNorm else "critical"}.get(str(severity), severity)
    assert (found.severity if found else None) == expected
    if found is not None:
        assert found.layer == "0"
        assert found.first_step == 0
    else:
        assert run.alarms() == []


def test_rare_inputs_do_not_count_as_small() -> None:
    torch.manual_seed(0)
    keep = torch.rand(SHORT, 64, 64, generator=torch.Generator().manual_seed(5)) < torch.linspace(0.01, 1, 64)
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))
    run = train(model, [(x * mask, y) for (x, y), mask in zip(batches(SHORT), keep, strict=True)])
    assert "ND408" not in run.findings()


def test_effective_rate_of_scale_invariant_weights() -> None:
    def rate(decay: float, lr: float) -> tuple[Run, list[float]]:
        model, squares = perceptron(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
        optimizer.register_step_pre_hook(
            lambda *_: squares.append(float(model[0].weight.detach().square().sum()))
        )
        return train(model, batches(SHORT), optimizer=optimizer), squares

    fast, squares = rate(0.0, 2.0)
    assert set(fast.findings()["ND409"].layers) <= {"0", "3"}
    assert fast.reading("effective_rate", "0").value == pytest.approx(squares[0] / squares[-1], rel=1e-5)
    assert "ND409" not in rate(1e-2, 2.0)[0].findings()
    assert "ND409" not in rate(0.0, 1e-3)[0].findings()


@pytest.mark.parametrize("form", ["parametrization", "hook"])
def test_both_forms_of_weight_norm(form: str) -> None:
    torch.manual_seed(0)
    wrap = nn.utils.parametrizations.weight_norm
    if form == "hook":
        with pytest.warns(FutureWarning):
            layer = nn.utils.weight_norm(nn.Linear(64, 32))
    else:
        layer = wrap(nn.Linear(64, 32))
    run = train(nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 10)), batches(30))
    reading = run.reading("effective_rate", "0")
    assert reading.detail["why"] == "weight normalization"
    assert 0 < reading.value <= 1
    assert reading.detail["gain_growth"] > 1


@pytest.mark.parametrize(("size", "expected"), [(1e-3, "warning"), (1.0, None)])
def test_eps_larger_than_the_variance(size: float, expected: str | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))
    run = train(model, [(size * x, y) for x, y in batches(SHORT)])
    found = run.findings().get("ND410")
    assert (found.severity if found else None) == expected
    if found is not None:
        assert found.first_step >= 20


class OwnRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@pytest.mark.parametrize(
    ("body", "layer", "features"),
    [
        (lambda: OwnRMSNorm(64), "1", 64),
        (Functional, "1:layer_norm", 64),
        (lambda: nn.GroupNorm(4, 64), "1", 16),
        (lambda: nn.Sequential(nn.Unflatten(1, (16, 4)), ChannelsFirst(16), nn.Flatten()), "1.1", 16),
        (lambda: nn.Sequential(nn.Unflatten(1, (8, 8)), nn.LayerNorm((8, 8)), nn.Flatten()), "1.1", 64),
    ],
    ids=["own", "functional", "group", "channels first", "two axes"],
)
def test_features_are_found_in_every_kind(body: Callable[..., nn.Module], layer: str, features: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), body(), nn.ReLU(), nn.Linear(64, 10))
    run = train(model, batches(40))
    assert run.reading("signal_gain", layer).detail["features"] == features
    assert 0.4 < run.reading("signal_gain", layer).value <= 1
    assert run.alarms() == []


@pytest.mark.parametrize(
    ("norm", "size"),
    [
        (lambda width: nn.BatchNorm1d(width, affine=False), 64),
        (lambda width: nn.BatchNorm1d(width, track_running_stats=False), 64),
        (lambda width: nn.GroupNorm(4, width), 1),
        (lambda width: nn.LayerNorm(width, elementwise_affine=False), 2),
        (lambda width: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(width)), 64),
    ],
    ids=["no affine", "no statistics", "group", "layer", "behind dropout"],
)
def test_healthy_settings_are_silent(norm: Callable[[int], nn.Module], size: int) -> None:
    run = train(perceptron(norm), batches(102, size), lr=0.01)
    assert run.alarms() == []


def test_behind_dropout_only_means_are_compared() -> None:
    run = train(perceptron(lambda width: nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(width))), batches(70))
    assert run.reading("running_distance", "1.1").detail["compared"] == "means"


def test_readings_without_a_probe() -> None:
    run = train(perceptron(nn.LayerNorm), batches(40), probe=False)
    assert run.reading("signal_gain", "1").n == 64
    assert run.alarms() == []
