"""WeightLaw: what a weight matrix says about the law it was drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sample import strided_sample

_SAMPLE = 20_000
_CUT_STD = 0.87962566
"""Standard deviation of a unit normal cut at two standard deviations."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightLaw(Statistic):
    """Scale of all entries, and Kolmogorov-Smirnov distances of a standardized sample to three families.

    Attributes:
        entries: [] N.
        sampled: [] entries behind the distances.
        std: [] root mean square of all entries.
        spread: [] largest minus smallest entry of the sample.
        uniform: [] distance to the uniform law of unit variance.
        normal: [] distance to the standard normal law.
        truncated: [] distance to the normal law cut at two standard deviations, of unit variance.
        skew: [] norm of the off-diagonal over that of the diagonal of the smaller Gram matrix; 0: orthogonal.
    """

    name: ClassVar[str] = "law"
    entries: Tensor
    sampled: Tensor
    std: Tensor
    spread: Tensor
    uniform: Tensor
    normal: Tensor
    truncated: Tensor
    skew: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        """Reads one weight matrix.

        Args:
            weight: [units, ...].
        """
        w = weight.detach()
        w = w if w.dtype == torch.float64 else w.float()
        std = w.double().square().mean().sqrt()
        sample = strided_sample(w, _SAMPLE).double()
        spread = sample.max() - sample.min()
        x = (sample / std.clamp(min=1e-300)).sort().values
        uniform = (x / (2 * math.sqrt(3)) + 0.5).clamp(0, 1)
        normal = torch.special.ndtr(x)
        low = torch.special.ndtr(torch.tensor(-2.0, dtype=torch.float64, device=w.device))
        cut = ((torch.special.ndtr(x * _CUT_STD) - low) / (1 - 2 * low)).clamp(0, 1)
        count = torch.tensor(w.numel(), dtype=torch.int64, device=w.device)
        sampled = torch.tensor(len(x), dtype=torch.int64, device=w.device)
        return cls(
            entries=count,
            sampled=sampled,
            std=std,
            spread=spread,
            uniform=_distance(uniform),
            normal=_distance(normal),
            truncated=_distance(cut),
            skew=_skew(w.flatten(1) / std.clamp(min=1e-30)),
        )

    def merge(self, other: Self) -> Self:
        """A weight is not a sample: the newer reading stands."""
        self._check_kind(other)
        return other

    @property
    def is_constant(self) -> bool:
        """Whether all entries are equal, up to rounding."""
        return math.isfinite(float(self.std)) and float(self.spread) <= 1e-6 * float(self.std)

    def is_within(self, bound: float) -> bool:
        """Whether the entries fill [-bound, bound] as uniform ones do, and none lies outside.

        Whoever learned has left it somewhere: of 1,000 weights, ten lie within a hundredth of its ends.
        """
        n = max(1, int(self.sampled))
        law = float(self.uniform) < 2 / math.sqrt(n) and math.isclose(
            float(self.std), bound / math.sqrt(3), rel_tol=4 / math.sqrt(n)
        )
        return law and float(self.spread) <= 2 * bound * (1 + 1e-6)

    @property
    def is_orthogonal(self) -> bool:
        """Whether rows (or columns) are orthogonal, as Saxe et al. 2014 initialize them."""
        return float(self.skew) < 1e-4 and not self.is_constant


def _distance(cdf: Tensor) -> Tensor:
    """Sup |F_n - F| at a sorted sample."""
    n = len(cdf)
    steps = torch.arange(n + 1, dtype=torch.float64, device=cdf.device) / n
    return torch.maximum((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())


def _skew(matrix: Tensor) -> Tensor:
    """Capped at 512 rows: an orthogonal matrix is recognized by any of them."""
    rows = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)[:512]
    if rows.shape[0] < 2:
        return torch.ones((), dtype=torch.float64, device=matrix.device)
    gram = rows @ rows.T
    diagonal = torch.linalg.vector_norm(gram.diagonal())
    off = torch.linalg.vector_norm(
        gram.fill_diagonal_(0)
    )  # a difference of squares would be lost in rounding
    skew: Tensor = off / diagonal.clamp(min=1e-30)
    return skew.double()
