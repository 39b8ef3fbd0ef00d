"""RowSignature: classes of equal units against a comparison of all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import partition
from torch import Tensor

from nndiag.functional import judge_units
from nndiag.statistics import RowSignature, signature


def normal(units: int, dims: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((units, dims)))


def all_pairs(rows: Tensor, relative: float, *, signed: bool = False) -> list[int]:
    """Classes by comparing each row with each: O(n^2)."""
    x = rows.double().numpy()
    limit = relative * np.sort(np.linalg.norm(x, axis=1))[(len(x) - 1) // 2]
    labels = np.arange(len(x))
    for i in range(len(x)):
        for j in range(i):
            apart = np.linalg.norm(x[i] - x[j])
            apart = min(apart, np.linalg.norm(x[i] + x[j])) if signed else apart
            if apart <= limit:
                labels[labels == labels[i]] = labels[j]
    return partition(labels)


def clones(seed: int, noise: float, *, flip: bool = False) -> Tensor:
    """30 to 60 units, some of them copies of others up to relative noise, in a shuffled order."""
    rng = np.random.default_rng(seed)
    dims, count = int(rng.integers(2, 40)), int(rng.integers(10, 20))
    rows = rng.standard_normal((count, dims))
    copies = rows[rng.integers(0, count, 2 * count)]
    jitter = rng.standard_normal(copies.shape)
    jitter /= np.linalg.norm(jitter, axis=1, keepdims=True)
    copies = copies + noise * jitter * np.linalg.norm(copies, axis=1, keepdims=True)
    copies *= rng.choice([-1.0, 1.0], (len(copies), 1)) if flip else 1.0
    both = np.concatenate([rows, copies, np.zeros((2, dims))])
    return torch.from_numpy(rng.permutation(both))


seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, noise=st.sampled_from([0.0, 1e-8, 1e-4, 0.05]))
def test_classes_are_those_of_all_pairs(seed: int, noise: float) -> None:
    rows = clones(seed, noise)
    found = RowSignature.of(rows)
    assert partition(found.exact) == all_pairs(rows, signature.EXACT)
    assert partition(found.loose) == all_pairs(rows, signature.LOOSE)


@given(seed=seeds, noise=st.sampled_from([0.0, 1e-8, 1e-4, 0.05]))
def test_signed_classes_are_those_of_all_pairs(seed: int, noise: float) -> None:
    rows = clones(seed, noise, flip=True)
    assert partition(RowSignature.of(rows).signed) == all_pairs(rows, signature.LOOSE, signed=True)


@given(seed=seeds, scale=st.sampled_from([1e-40, 1e-25, 1e-10, 1e10, 1e25]))
def test_scale_does_not_matter(seed: int, scale: float) -> None:
    rows = clones(seed, 0.0)
    found = RowSignature.of((rows * scale).float() if scale > 1e-30 else rows * scale)
    expected = RowSignature.of(rows)
    assert partition(found.exact) == partition(expected.exact)
    torch.testing.assert_close(found.norms, expected.norms * scale, rtol=1e-6, atol=0)


@given(seed=seeds)
def test_order_of_units_does_not_matter(seed: int) -> None:
    rows = clones(seed, 1e-4, flip=True)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rows)))
    plain = RowSignature.of(rows, rows.cos(), directions=rows)
    moved = RowSignature.of(rows[order], rows[order].cos(), directions=rows[order])
    for name in ("exact", "loose", "signed", "joint"):
        assert partition(getattr(moved, name)) == partition(getattr(plain, name)[order]), name
    torch.testing.assert_close(moved.norms, plain.norms[order])
    torch.testing.assert_close(moved.gradient_norms, plain.gradient_norms[order])
    torch.testing.assert_close(moved.cosine, plain.cosine)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_clones_are_found_in_any_precision(dtype: torch.dtype) -> None:
    rows = normal(33, 513).to(dtype)
    rows[20] = rows[32] = rows[3]
    found = RowSignature.of(rows)
    assert partition(found.exact) == all_pairs(rows, signature.EXACT)
    assert len(found.exact.unique()) == 31
    assert found.units == 33


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("units", "dims"), [(7, 13), (33, 513), (101, 784)])
def test_clones_are_found_among_units_of_zeros(units: int, dims: int, dtype: torch.dtype) -> None:
    rows = torch.cat([torch.zeros(units + 1, dims), normal(1, dims).expand(units, -1)]).to(dtype)
    found = RowSignature.of(rows)
    assert partition(found.exact) == [0] * (units + 1) + [1] * units


def test_all_units_of_zeros_are_one_class() -> None:
    found = RowSignature.of(torch.zeros(6, 4), torch.zeros(6, 4))
    for labels in (found.exact, found.loose, found.signed, found.joint):
        assert partition(labels) == [0] * 6
    assert found.norms.tolist() == found.gradient_norms.tolist() == [0.0] * 6


def test_one_unit() -> None:
    found = RowSignature.of(torch.ones(1, 3), torch.ones(1, 3), directions=torch.ones(1, 3))
    assert found.exact.tolist() == found.joint.tolist() == [0]
    assert torch.isnan(found.cosine)


@pytest.mark.parametrize("hole", [torch.nan, torch.inf])
def test_a_diverged_unit_is_no_clone_of_healthy_ones(hole: float) -> None:
    rows = normal(40, 8)
    rows[5, 2] = hole
    rows[9] = rows[30]
    labels = partition(RowSignature.of(rows).exact)
    assert len(set(labels)) == 39
    assert labels[9] == labels[30]


@pytest.mark.parametrize(("apart", "same"), [(0.5e-5, True), (5e-5, False)])
@pytest.mark.parametrize("dims", [2, 784])
def test_gradients_are_equal_relative_to_the_largest(apart: float, same: bool, dims: int) -> None:
    rows, gradients = normal(6, dims), normal(6, dims, seed=1)
    rows[1] = rows[0]
    largest = float(gradients.norm(dim=1).max())
    gradients[1] = gradients[0]
    gradients[1, 0] += apart * largest
    found = RowSignature.of(rows, gradients)
    assert bool(found.joint[0] == found.joint[1]) is same
    verdict = judge_units(found.exact.numpy(), found.joint.numpy(), found.gradient_norms.numpy())
    assert (verdict.locked, verdict.healing, verdict.stuck) == ((2, 0, 0) if same else (0, 2, 0))


def test_equal_gradients_of_unequal_units_do_not_join_them() -> None:
    rows = normal(6, 9)
    found = RowSignature.of(rows, torch.ones(6, 9))
    assert partition(found.joint) == list(range(6))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_clones_without_a_gradient_are_stuck_at_any_scale_of_weights(scale: float) -> None:
    rows = (normal(1, 9).expand(4, -1) * scale).float()
    found = RowSignature.of(rows, torch.zeros(4, 9))
    verdict = judge_units(found.exact.numpy(), found.joint.numpy(), found.gradient_norms.numpy())
    assert (verdict.distinct, verdict.stuck) == (1, 4)
    assert partition(found.joint) == [0] * 4


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_most_alike_pair_is_that_of_all_pairs(scale: float) -> None:
    rows = normal(50, 6)
    unit = rows / rows.norm(dim=1, keepdim=True)
    expected = float((unit @ unit.T).abs().fill_diagonal_(0).max())
    found = RowSignature.of(rows, directions=(rows * scale).float())
    assert float(found.cosine) == pytest.approx(expected, rel=1e-5)
    assert (int(found.compared), int(found.directed), int(found.dims)) == (50, 6, 6)


@given(seed=seeds)
def test_scales_of_single_units_do_not_make_them_more_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.standard_normal((20, 5)))
    rescaled = rows * torch.from_numpy(np.exp(rng.standard_normal((20, 1))))
    plain, other = (RowSignature.of(x, directions=x) for x in (rows, rescaled))
    torch.testing.assert_close(other.cosine, plain.cosine, rtol=1e-9, atol=0)


def test_units_of_zeros_have_no_direction() -> None:
    directions = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 3.0]])
    found = RowSignature.of(directions, directions=directions)
    assert int(found.compared) == 2
    assert float(found.cosine) == pytest.approx(0.5**0.5)


def test_at_most_1024_units_are_compared_for_alikeness() -> None:
    found = RowSignature.of(torch.ones(3000, 2), directions=normal(3000, 2))
    assert 512 <= int(found.compared) <= 1024


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often two rows are compared: the norms of single vectors."""
    counted = [0]
    plain = np.linalg.norm

    def norm(x, *args, **kwargs):
        counted[0] += np.ndim(x) == 1
        return plain(x, *args, **kwargs)

    monkeypatch.setattr(np.linalg, "norm", norm)
    return counted


def test_identical_units_are_cheap_to_tell(comparisons: list[int]) -> None:
    found = RowSignature.of(normal(1, 64).expand(4096, -1))
    assert len(found.exact.unique()) == 1
    assert comparisons[0] <= 4 * 4096, "at most one comparison a unit, for each kind of class"


def test_distinct_units_are_cheap_to_tell(comparisons: list[int]) -> None:
    found = RowSignature.of(normal(4096, 64).float())
    assert len(found.exact.unique()) == 4096
    assert comparisons[0] <= 4096


def test_pairs_of_units_are_cheap_to_tell(comparisons: list[int]) -> None:
    found = RowSignature.of(normal(2048, 64).float().repeat(2, 1))
    assert len(found.exact.unique()) == 2048
    assert comparisons[0] <= 4 * 4096


def test_one_infinite_weight_is_cheap_to_survive(comparisons: list[int]) -> None:
    rows = normal(2048, 64).float()
    rows[0, 0] = torch.inf
    found = RowSignature.of(rows)
    assert len(found.exact.unique()) == 2048
    assert comparisons[0] <= 4 * 2048


@pytest.mark.parametrize("count", [3, 63, 64, 65, 300])
def test_the_only_twins_of_many_are_found(count: int) -> None:
    """Whether neighbors are gone through one by one or by a search tree."""
    rows = normal(count, 200)
    rows[count - 1] = rows[0]
    rows[1] = -rows[2]
    signature = RowSignature.of(rows)
    expected = [0, 1, 2, *range(3, count - 1), 0] if count > 3 else [0, 1, 0]
    if count > 3:
        assert partition(signature.exact) == expected
        assert partition(signature.signed) == [0, 1, 1, *range(2, count - 2), 0]


def test_layers_of_copies_with_a_few_others() -> None:
    rows = normal(1, 50).repeat(500, 1)
    rows[100:110] = normal(10, 50, seed=1)
    assert len(set(partition(RowSignature.of(rows).exact))) == 11


def test_one_size_for_all_weights_is_told_up_to_the_sign() -> None:
    rows = normal(40, 30).sign()
    rows[7] = -rows[3]
    assert len(set(partition(RowSignature.of(rows).signed))) == 39
