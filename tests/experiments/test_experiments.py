"""What the experiments say: on a reduced size each time, on the whole one with ``-m slow``."""

from __future__ import annotations

from functools import cache, partial

import pytest

from . import cluster_variance, shift_error, shift_shares
from .cluster_variance import LAYERS, SIZES, Row
from .shift_error import NETS

FULL = pytest.param(True, marks=pytest.mark.slow, id="full")
each_size = pytest.mark.parametrize("is_full", [pytest.param(False, id="reduced"), FULL])


@cache
def error_of(net: str, lr: float | None, *, is_full: bool) -> shift_error.Row:
    return shift_error.measure(net, lr, **({} if is_full else {"steps": 60, "seeds": 1}))


@each_size
@pytest.mark.parametrize("net", NETS)
def test_fixed_samples_are_nearer_the_truth_than_batches(net: str, is_full: bool) -> None:
    row = error_of(net, None, is_full=is_full)
    assert row.truth > 0.005
    assert max(row.probe_errors.values()) < row.stream_error / 3
    assert max(row.probe_errors.values()) < row.truth / 5


@each_size
@pytest.mark.parametrize("net", [net for net in NETS if not net.startswith("batch norm")])
def test_at_rest_fixed_samples_read_exactly_zero(net: str, is_full: bool) -> None:
    row = error_of(net, 0.0, is_full=is_full)
    assert row.truth == 0.0
    assert set(row.probe_errors.values()) == {0.0}
    assert 0.0 < row.stream_error < row.stream_raw


@each_size
def test_running_statistics_move_at_rest(is_full: bool) -> None:
    """Real batches, normalized by their own statistics, tell nothing of it."""
    row = error_of("batch norm, relu", 0.0, is_full=is_full)
    assert row.truth > 0.001
    assert max(row.probe_errors.values()) < row.stream_error / 10


@each_size
def test_the_upstream_share_grows_with_depth(is_full: bool) -> None:
    take = shift_shares.profile if is_full else partial(shift_shares.profile, seeds=1)
    deep, normed = take("relu, He initialization"), take("relu, layer norm")
    assert deep[0] == normed[0] == 0.0
    assert deep[1] < min(deep[2:])
    assert min(deep[2:]) > 0.6
    assert normed == sorted(normed)


@cache
def ratios(*, is_full: bool) -> list[Row]:
    """All rows that the table prints, or those of middle-sized batches."""
    if not is_full:
        return [
            r
            for trained in (False, True)
            for r in cluster_variance.measure(32, is_trained=trained, count=120)
        ]
    return [
        r for n in SIZES for trained in (False, True) for r in cluster_variance.measure(n, is_trained=trained)
    ]


@each_size
def test_samples_predict_how_batch_means_scatter(is_full: bool) -> None:
    """Three standard deviations of a variance of 120 values around 1; less where batches exhaust the data."""
    assert {row.layer for row in ratios(is_full=is_full)} == set(LAYERS)
    assert all(0.65 < row.cluster < 1.4 for row in ratios(is_full=is_full))


@each_size
def test_entries_do_not(is_full: bool) -> None:
    """Off by two and more where neighbors make up for each other, and not by one factor for all layers."""
    found = {(row.layer, row.naive / row.cluster) for row in ratios(is_full=is_full)}
    assert min(ratio for layer, ratio in found if layer == "conv2") < 0.5
    assert max(ratio for layer, ratio in found if layer == "conv3") > 1.1


@each_size
def test_entries_a_sample_is_worth_are_not_its_positions(is_full: bool) -> None:
    worth = {
        layer: [r.effective / r.positions for r in ratios(is_full=is_full) if r.layer == layer]
        for layer in LAYERS
    }
    assert min(worth["conv2"]) > 1.5
    assert min(worth["conv3"]) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [cluster_variance, shift_error, shift_shares])
def test_the_table_is_printed(experiment, capsys: pytest.CaptureFixture[str]) -> None:
    experiment.main()
    assert "│" in capsys.readouterr().out
