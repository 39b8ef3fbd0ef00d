"""AttentionEntropy: rows of softmax(q k^T) against scipy.stats.entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import special, stats
from torch import Tensor

from nndiag.statistics import AttentionEntropy

CAUSAL = torch.ones(7, 7, dtype=torch.bool).tril()


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape) * scale)


def by_scipy(queries: Tensor, keys: Tensor, allowed: Tensor | None) -> list[list[float]]:
    """Normalized entropies of the rows of each head that have a choice."""
    scores = queries.numpy() @ keys.numpy().swapaxes(-1, -2)
    mask = np.ones(scores.shape, bool) if allowed is None else np.broadcast_to(allowed.numpy(), scores.shape)
    heads: list[list[float]] = [[] for _ in range(scores.shape[1])]
    for (_, head, _), row, seen in zip(
        np.ndindex(scores.shape[:3]),
        scores.reshape(-1, scores.shape[-1]),
        mask.reshape(-1, mask.shape[-1]),
        strict=True,
    ):
        if seen.sum() >= 2:
            heads[head].append(stats.entropy(special.softmax(row[seen])) / math.log(seen.sum()))
    return heads


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize(
    "allowed",
    [None, CAUSAL, torch.from_numpy(np.random.default_rng(3).random((4, 1, 7, 7)) < 0.4)],
    ids=["all keys", "causal", "random mask"],
)
def test_rows_are_those_of_scipy(allowed: Tensor | None, scale: float) -> None:
    queries, keys = normal(4, 3, 7, 5, scale=scale), normal(4, 3, 7, 5, seed=1)
    found, expected = AttentionEntropy.of(queries, keys, allowed), by_scipy(queries, keys, allowed)
    assert found.count.tolist() == [len(rows) for rows in expected]
    assert_allclose(found.total, [sum(rows) for rows in expected], rtol=1e-4, atol=1e-5)
    assert found.sharp.tolist() == [sum(value < 0.05 for value in rows) for rows in expected]
    assert found.rows == sum(map(len, expected))


def test_uniform_rows_read_one_also_under_a_causal_mask() -> None:
    found = AttentionEntropy.of(torch.zeros(2, 3, 7, 4), normal(2, 3, 7, 4), CAUSAL)
    assert found.count.tolist() == [12, 12, 12], "the first row has a single key"
    assert_allclose(found.mean, 1.0, rtol=1e-6)
    assert found.saturated_share == 0.0


def test_one_key_reads_zero() -> None:
    keys = torch.eye(4).reshape(1, 1, 4, 4)
    found = AttentionEntropy.of(1000 * keys, keys)
    assert_allclose(found.mean, 0.0, atol=1e-6)
    assert (found.sharp.tolist(), found.saturated_share) == ([4], 1.0)


def test_half_the_keys_read_a_half() -> None:
    keys = torch.tensor([1.0, 1.0, -1.0, -1.0]).reshape(1, 1, 4, 1)
    found = AttentionEntropy.of(torch.full((1, 1, 3, 1), 500.0), keys)
    assert_allclose(found.mean, 0.5, rtol=1e-6)


def test_rows_without_a_choice_are_not_counted() -> None:
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    single = nothing.clone()
    single[:, 2] = True
    for allowed in (nothing, single):
        found = AttentionEntropy.of(normal(2, 1, 3, 4), normal(2, 1, 5, 4), allowed)
        assert (found.rows, found.saturated_share, found.mean.tolist()) == (0, 0.0, [0.0])


@pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_do_not_spread(hole: float) -> None:
    queries = normal(1, 1, 3, 4)
    queries[0, 0, 1, 2] = hole
    found = AttentionEntropy.of(queries, normal(1, 1, 5, 4))
    assert found.rows == 3
    assert torch.isfinite(found.total).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_read_in_float32(dtype: torch.dtype) -> None:
    queries, keys = normal(2, 2, 6, 8).to(dtype), normal(2, 2, 6, 8, seed=1).to(dtype)
    found, expected = AttentionEntropy.of(queries, keys), by_scipy(queries.double(), keys.double(), None)
    assert_allclose(found.total, [sum(rows) for rows in expected], rtol=1e-5)


def test_order_of_samples_and_heads() -> None:
    queries, keys = normal(4, 3, 7, 5), normal(4, 3, 7, 5, seed=1)
    plain = AttentionEntropy.of(queries, keys)
    samples = AttentionEntropy.of(queries.flip(0), keys.flip(0))
    heads = AttentionEntropy.of(queries.flip(1), keys.flip(1))
    assert_allclose(samples.total, plain.total, rtol=1e-9)
    assert_allclose(heads.total, plain.total.flip(0), rtol=1e-9)
