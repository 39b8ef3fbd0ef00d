"""Statistics at normalization layers: against NumPy on the raw tensors, closed forms, merging."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from nndiag.functional import hellinger2, log_scale_spread
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import (
    BatchDrift,
    BatchLabels,
    BatchMeans,
    FeatureScales,
    Moments,
    NormState,
    Running,
    SampleScales,
    Statistic,
    centered,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def running(channels: int, momentum: float | None = 0.1, tracked: int | None = 100) -> Running:
    counted = None if tracked is None else torch.tensor(tracked)
    return Running(torch.zeros(channels), torch.ones(channels), counted, momentum, 0.0)


def test_a_batch_of_twice_the_scale_one_off_center() -> None:
    """Batch mean 1 and variance 4 against (0, 1): r = 2, d = 1."""
    drift = BatchDrift.of(torch.tensor([[[-1.0]], [[3.0]]]), running(1))
    assert math.exp(float(drift.log_scale)) == pytest.approx(2.0)
    assert float(drift.offset) == pytest.approx(1.0)
    assert float(drift.distance) == pytest.approx(float(hellinger2(0, 1, 1, 4)), rel=1e-6)
    # (1 - 0)^2 over w / N (1 + a / (2 - a)) with w = 8 and N = 2.
    assert drift.z2 == pytest.approx(1 / (4 * (1 + 0.1 / 1.9)))


@pytest.mark.parametrize(("momentum", "tracked", "weight"), [(0.3, 7, 0.3), (None, 9, 0.1), (None, 0, 1.0)])
def test_z2_against_numpy(momentum: float | None, tracked: int, weight: float) -> None:
    x = 2 * draw(16, 6, 5) + 1
    drift = BatchDrift.of(x, running(5, momentum, tracked))
    y = x.double().numpy().mean(1)
    noise = y.var(0, ddof=1) / 16 * (1 + weight / (2 - weight))
    assert drift.z2 == pytest.approx((y.mean(0) ** 2).sum() / noise.sum(), rel=1e-5)
    assert (drift.batch_size, drift.values_per_statistic) == (16, 96)


@pytest.mark.parametrize("momentum", [0.5, 0.1])
def test_z2_of_random_batches_is_one_at_any_momentum(momentum: float) -> None:
    """Weights that stand still, correlated positions: the noise of the running mean is accounted for."""
    torch.manual_seed(0)
    layer, total = nn.BatchNorm1d(64, momentum=momentum), None
    for step in range(120):
        x = torch.randn(16, 64, 1) + 0.5 * torch.randn(16, 64, 6)
        if step >= 60:
            memory = Running(layer.running_mean, layer.running_var, layer.num_batches_tracked, momentum, 1e-5)
            drift = BatchDrift.of(x.movedim(1, 2), memory)
            total = drift if total is None else total.merge(drift)
        layer(x)
    assert total is not None
    assert total.z2 == pytest.approx(1.0, abs=0.15)


def test_single_samples_say_nothing_about_z2() -> None:
    drift = BatchDrift.of(draw(1, 9, 3), running(3))
    assert math.isnan(drift.z2)
    assert math.isnan(drift.merge(drift).z2)
    assert drift.merge(BatchDrift.of(draw(8, 9, 3), running(3))).z2 > 0


def test_short_last_batch_weighs_by_what_it_says() -> None:
    full, short = (BatchDrift.of(draw(n, 1, 4, seed=n), running(4)) for n in (64, 3))
    both = full.merge(short)
    expected = (float(full.observed) + float(short.observed)) / (float(full.expected) + float(short.expected))
    assert both.z2 == pytest.approx(expected)
    assert (int(both.batches), int(both.samples)) == (2, 67)


def test_constant_channels_do_not_count_in_the_distance() -> None:
    x = torch.cat([draw(32, 1, 3), torch.zeros(32, 1, 1)], 2)
    alone = BatchDrift.of(x[:, :, :3], running(3))
    assert float(BatchDrift.of(x, running(4)).distance) == pytest.approx(float(alone.distance))


def test_distance_and_floor_meet_where_batches_are_random() -> None:
    drift = None
    for seed in range(40):
        one = BatchDrift.of(draw(16, 1, 64, seed=seed), running(64))
        drift = one if drift is None else drift.merge(one)
    assert drift is not None
    # 1/2 (1/16) / 2 for the mean and the variance of 16 Gaussian values each.
    assert drift.per_batch(drift.floor) == pytest.approx(1 / 64, rel=0.1)
    assert drift.per_batch(drift.distance) == pytest.approx(1 / 64, rel=0.2)


def test_first_batch_of_several_tells_how_many_came_before() -> None:
    early, late = (BatchDrift.of(draw(4, 1, 2), running(2, tracked=t)) for t in (5, 9))
    assert int(late.merge(early).tracked) == 5
    assert int(BatchDrift.of(draw(4, 1, 2), running(2, tracked=None)).tracked) == -1


@pytest.mark.parametrize(
    ("reduction", "groups", "axes"), [("layer", 1, (2,)), ("rms", 1, ()), ("group", 3, (1, 3))]
)
def test_scales_of_features_against_numpy(reduction: str, groups: int, axes: tuple[int, ...]) -> None:
    x = draw(20, 7, 12) * torch.arange(1, 13) + 3
    raw = x.double().numpy().reshape(20, 7, groups, 12 // groups)
    mean = raw.mean(tuple(axis + (reduction == "layer") for axis in axes), keepdims=True) if axes else 0.0
    clean = raw - mean
    found = FeatureScales.of(centered(x, reduction, groups))  # type: ignore[arg-type]
    assert_allclose(found.mean, clean.mean((0, 1)), atol=1e-5)
    assert_allclose(found.variance, clean.var((0, 1)), rtol=1e-4)
    assert_allclose(found.high, clean.max((0, 1)), rtol=1e-5)
    sigma2 = (clean**2).mean((1, 3) if reduction == "group" else 3)
    scales = SampleScales.of(
        centered(x, reduction, groups),  # type: ignore[arg-type]
        eps=0.5,
        over_positions=reduction == "group",
    )
    assert int(scales.n) == sigma2.size
    assert float(scales.mean) == pytest.approx(np.log(sigma2).mean() / 2, rel=1e-5)
    assert scales.spread == pytest.approx((np.log(sigma2) / 2).std(), rel=1e-4)
    assert scales.eps_fraction == pytest.approx((0.5 / (sigma2 + 0.5)).mean(), rel=1e-5)


def test_spread_of_the_scale_of_independent_features() -> None:
    scales = SampleScales.of(centered(draw(20000, 1, 64), "layer"), 1e-5)
    assert scales.spread == pytest.approx(log_scale_spread(64), rel=0.03)


def test_rows_of_zeros_and_of_nothing_finite_are_no_scale() -> None:
    x = torch.stack([torch.zeros(1, 4), torch.full((1, 4), torch.nan), draw(1, 4)])
    scales = SampleScales.of(centered(x, "layer"), 1e-5)
    assert (int(scales.n), int(scales.zero)) == (1, 1)
    assert math.isfinite(scales.eps_fraction)
    assert math.isfinite(float(FeatureScales.of(centered(x, "layer")).mean.sum()))


def test_groups_are_judged_by_themselves() -> None:
    """Unlike features in one group leave the other alone.

    Centering gives a quarter of the large one to each of its neighbors: s = (75, 25, 25, 25).
    """
    x = draw(4000, 1, 8) * torch.tensor([1.0, 1, 1, 1, 100, 1, 1, 1])
    gains = FeatureScales.of(centered(x, "group", 2)).gains
    assert gains[0].gamma > 0.95
    expected = math.sqrt((75 * 25**3) ** 0.5 / (75**2 + 3 * 25**2) * 4)
    assert gains[1].gamma == pytest.approx(expected, rel=0.01)
    assert gains[1].share == pytest.approx(0.75, abs=0.01)
    assert gains[1].largest == 0


def test_a_feature_that_is_rarely_on_reaches_as_far_as_others() -> None:
    x = draw(2000, 1, 16)
    rare = torch.zeros(2000, 1, 16)
    rare[::200] = 3 * x[::200].sign()
    mixed = torch.cat([x, rare], 2)
    scales = FeatureScales.of(centered(mixed, "rms"))
    assert scales.gains[0].scales == pytest.approx(math.sqrt(0.045**0.5 / 0.5225), rel=0.05)
    assert scales.reaches[0].scales > 0.95


def test_batch_means_keep_the_newest_batches_of_one_shape() -> None:
    one = BatchMeans.of(draw(8, 2, 5))
    assert one.means.shape == (1, 10)
    assert_allclose(one.variances, draw(8, 2, 5).flatten(1).var(0).unsqueeze(0), rtol=1e-5)
    many = one
    for seed in range(80):
        many = many.merge(BatchMeans.of(draw(8, 2, 5, seed=seed)))
    assert many.batches == 64
    assert_allclose(many.means[-1], draw(8, 2, 5, seed=79).flatten(1).mean(0), atol=1e-6)
    assert many.merge(BatchMeans.of(draw(8, 3))).batches == 1
    assert BatchMeans.of(draw(4, 1000)).means.shape[1] <= 128


def test_batch_labels_grow_a_column_for_new_labels() -> None:
    first, second = BatchLabels.of(torch.tensor([0, 1, 1])), BatchLabels.of(torch.tensor([3, -100, 0]))
    assert first is not None
    assert second is not None
    assert first.merge(second).table.tolist() == [[1, 2, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    "labels",
    [
        torch.rand(4),
        torch.eye(3).long(),
        torch.tensor([10**6]),
        torch.tensor([-1]),
        torch.tensor([], dtype=torch.long),
    ],
    ids=["floats", "one-hot", "identifiers", "ignored", "empty"],
)
def test_what_is_no_label(labels: Tensor) -> None:
    assert BatchLabels.of(labels) is None


def test_norm_state_of_torch_layers() -> None:
    layer = nn.BatchNorm1d(3, momentum=None)
    state = NormState.of(
        layer.running_mean,
        layer.running_var,
        torch.tensor(5),
        momentum=None,
        eps=1e-5,
        training=True,
        trainable=True,
    )
    assert state.keeps_statistics
    assert state.uses_batches
    assert state.weight_of_newest == pytest.approx(0.2)
    layer(draw(4, 3) + 5)
    assert float(state.mean.sum()) == 0.0, "a copy"
    distance = state.distance(torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 1, 4]))
    assert_allclose(distance, [0, 0.117503, 0.105573], atol=2e-6)
    bare = NormState.of(None, None, None, momentum=0.1, eps=1e-5, training=True, trainable=None)
    assert not bare.keeps_statistics
    assert not bare.uses_batches


STATISTICS = {
    "batch drift": lambda x: BatchDrift.of(x, running(6)),
    "features": lambda x: FeatureScales.of(centered(x, "layer")),
    "groups": lambda x: FeatureScales.of(centered(x, "group", 3)),
    "samples": lambda x: SampleScales.of(centered(x, "rms"), 1e-5),
    "means": BatchMeans.of,
}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_is_associative_and_survives_a_file(name: str, dtype: torch.dtype, tmp_path) -> None:  # type: ignore[no-untyped-def]
    make = STATISTICS[name]
    parts: list[Statistic] = [make(draw(n, 4, 6, seed=n).to(dtype).float()).cpu() for n in (5, 9, 2)]
    left, right = (parts[0].merge(parts[1])).merge(parts[2]), parts[0].merge(parts[1].merge(parts[2]))
    path = tmp_path / "snapshot"
    key = Key("layer", "input", "stream", type(left).name)
    Snapshot(0, "live", {}, {key: left}).save(path)
    loaded = Snapshot.load(path).statistics[key]
    for field, value in left.to_tensors().items():
        assert_allclose(value, right.to_tensors()[field], rtol=1e-9, atol=1e-12)
        assert torch.equal(value, loaded.to_tensors()[field])


@pytest.mark.parametrize("name", ["features", "groups", "samples"])
def test_chunks_give_what_the_whole_gives(name: str) -> None:
    x = draw(30, 4, 6)
    make = STATISTICS[name]
    whole, parts = make(x).cpu(), make(x[:7]).cpu().merge(make(x[7:]).cpu())
    for field, value in whole.to_tensors().items():
        assert_allclose(value, parts.to_tensors()[field], rtol=1e-4, atol=1e-5)


def test_positions_of_a_frozen_convolution_are_not_samples() -> None:
    """Variance of batch means over its prediction: 1 from per-sample means, up to 4 off from single values.

    Independent batches, weights at their initial values, nothing wrong: smooth images and a padded stack.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU()),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
    )
    smooth = nn.functional.avg_pool2d(torch.randn(6400, 1, 12, 12), 5, 1)
    with torch.no_grad():
        x = net(3 * smooth).flatten(2).transpose(1, 2)
    parts = [Moments.of(part).cpu() for part in x.split(64)]
    means = torch.stack([part.mean for part in parts])
    observed = means.var(0)
    naive = observed / torch.stack([part.variance / part.n for part in parts]).mean(0)
    cluster = observed / torch.stack([part.se2 for part in parts]).mean(0)
    assert float((naive.log().abs()).max()) > math.log(1.8)
    assert_allclose(cluster, torch.ones_like(cluster), atol=0.5)
    assert float(cluster.mean()) == pytest.approx(1.0, abs=0.1)
