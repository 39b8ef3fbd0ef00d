"""Statistics of dropout: the spectrum of its input against NumPy, how it is called, how masks disagree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from nndiag.functional import effective_dof
from nndiag.statistics import Disagreement, DropoutUse, Spectrum


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(a: np.ndarray) -> np.ndarray:
    scale = np.sqrt((a**2).mean(0))
    return np.linalg.eigvalsh(np.cov(a.T, bias=True) / np.outer(scale, scale))[::-1]


@pytest.mark.parametrize(("rows", "units"), [(64, 16), (16, 64), (20, 20)])
def test_eigenvalues_against_numpy(rows: int, units: int) -> None:
    """The smaller of the two Gram matrices has all that are not zero."""
    a = (draw(rows, 1, 5) @ draw(5, units, seed=1) + 0.5).relu() + 0.1
    found, count = Spectrum.of(a).eigenvalues, min(rows, units)
    assert found.shape == (count,)
    assert_allclose(found, reference(a[:, 0].numpy())[:count], atol=1e-12)


def test_independent_units_lose_what_is_dropped() -> None:
    """Sixteen zero-mean orthogonal columns: N q = 8 exactly."""
    columns = torch.from_numpy(np.linalg.qr(np.c_[np.ones(64), draw(64, 16).numpy()])[0][:, 1:])
    assert effective_dof(Spectrum.of(columns.unsqueeze(1)).eigenvalues, 0.5) == pytest.approx(8, abs=1e-12)


def test_equal_units() -> None:
    signs = torch.ones(64, 1, 1, dtype=torch.float64)
    signs[::2] = -1
    eigenvalues = Spectrum.of(signs.expand(-1, -1, 64)).eigenvalues
    assert effective_dof(eigenvalues, 0.5) == pytest.approx(64 / 65, abs=1e-12)


def test_scale_of_units_does_not_matter() -> None:
    a = draw(50, 1, 12) + 0.3
    scaled = Spectrum.of(a * torch.logspace(-6, 6, 12, dtype=torch.float64))
    assert_allclose(scaled.eigenvalues, Spectrum.of(a).eigenvalues, atol=1e-12)


def test_one_position_a_sample() -> None:
    """Positions of a sample are not independent: copies of each do not count as more rows."""
    one = draw(40, 1, 8)
    many = Spectrum.of(one.expand(-1, 9, -1))
    assert (int(many.rows), int(many.samples)) == (40, 40)
    assert_allclose(many.eigenvalues, Spectrum.of(one).eigenvalues, atol=1e-12)


def test_positions_are_visited_in_turn() -> None:
    """With as many samples as positions, each position is taken once."""
    position = torch.arange(10, dtype=torch.float64).reshape(1, 10, 1).expand(10, -1, -1)
    found = Spectrum.of(torch.cat([position, torch.ones_like(position)], 2))
    share = position[0].var(correction=0) / position[0].square().mean()
    assert_allclose(found.eigenvalues, [float(share), 0], atol=1e-12)


def test_a_whole_without_samples_is_thinned() -> None:
    found = Spectrum.of(draw(1, 1100, 4))
    assert (int(found.samples), int(found.rows)) == (1, 367)


def test_units_that_are_off() -> None:
    a = draw(32, 1, 6)
    a[:, :, 4:] = 0
    found = Spectrum.of(a)
    assert (int(found.units), int(found.alive)) == (6, 4)
    assert_allclose(found.eigenvalues[4:], 0, atol=1e-12)


def test_wide_layers_are_sampled() -> None:
    found = Spectrum.of(draw(8, 1, 5000))
    assert (int(found.units), int(found.compared)) == (5000, 1667)


def test_calls_of_a_dropout_add_up() -> None:
    calls = [
        DropoutUse.of(0.5, active=True),
        DropoutUse.of(0.1, active=False),
        DropoutUse.of(0.0, active=True),
    ]
    total = calls[0].merge(calls[1]).merge(calls[2])
    assert (int(total.calls), int(total.active), int(total.fused)) == (3, 1, 0)
    assert total.rate == pytest.approx(0.2)


def votes(*chosen: int, classes: int = 3) -> list[Tensor]:
    """One row; the class that each mask chooses."""
    return [torch.eye(classes, dtype=torch.float64)[each].unsqueeze(0) for each in chosen]


@pytest.mark.parametrize(
    ("chosen", "rate"), [((0, 0, 0), 0.0), ((0, 1, 2), 1.0), ((0, 0, 1), 2 / 3), ((0, 0, 1, 1), 4 / 6)]
)
def test_rate_is_the_share_of_pairs_that_differ(chosen: tuple[int, ...], rate: float) -> None:
    assert Disagreement.of(votes(*chosen)).rate == pytest.approx(rate)


def test_spread_and_variance_against_numpy() -> None:
    x = draw(5, 20, 3).float().double()
    found = Disagreement.of(list(x))
    assert float(found.spread) == pytest.approx(x.numpy().var(0, ddof=1).sum(), rel=1e-5)
    assert float(found.variance) == pytest.approx(20 * x.numpy().mean(0).var(0).sum(), rel=1e-5)
    assert int(found.masks) == 5


def test_variance_of_parts_is_that_of_the_whole() -> None:
    """Parts whose means lie apart: within-part variance alone would miss nearly all."""
    x = draw(4, 20, 3)
    x[:, 10:] += 100
    merged = Disagreement.of(list(x[:, :10])).merge(Disagreement.of(list(x[:, 10:])))
    assert float(merged.variance) == pytest.approx(20 * x.numpy().mean(0).var(0).sum(), rel=1e-5)


def test_positions_are_rows_of_their_own() -> None:
    x = draw(3, 4, 7, 5)
    assert int(Disagreement.of(list(x)).rows) == 28
