"""Slope: how much gradient an activation lets through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.functional import TailEdges
from nndiag.statistics.base import Statistic
from nndiag.statistics.sample import strided_sample

_SAMPLE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Slope(Statistic):
    """Sums over a sample of an activation's inputs.

    Attributes:
        count: [] finite entries sampled.
        squares: [] sum of f'(x)^2 / sup f'^2.
        extent: [] sum of |2 (f - f_min) / (f_max - f_min) - 1|, 0 for unbounded f.
    """

    name: ClassVar[str] = "slope"
    count: Tensor
    squares: Tensor
    extent: Tensor

    @classmethod
    def of(cls, x: Tensor, edges: TailEdges) -> Self:
        """Differentiates f at up to 4,096 evenly spread entries.

        Args:
            x: [N, S, C] inputs of the activation.
            edges: The activation.
        """
        sample = strided_sample(x, _SAMPLE)
        finite = sample.isfinite()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = torch.where(finite, sample, 0).detach().requires_grad_()
            y = edges.function(leaf.clone())
            # The second term gives functions that autograd cannot follow, such as steps, a slope of 0.
            (slope,) = torch.autograd.grad(y.sum() + 0 * leaf.sum(), leaf)
        squares = torch.where(finite, (slope / edges.max_slope).square(), 0)
        span = edges.maximum - edges.minimum
        extent = (
            (2 * (y.detach() - edges.minimum) / span - 1).abs()
            if math.isfinite(span) and span
            else 0 * squares
        )
        return cls(finite.sum(), squares.double().sum(), torch.where(finite, extent, 0).double().sum())

    def merge(self, other: Self) -> Self:
        """Sums add."""
        self._check(other)
        return type(self)(self.count + other.count, self.squares + other.squares, self.extent + other.extent)

    @property
    def n(self) -> int:
        """Entries sampled."""
        return int(self.count)

    @property
    def transmission(self) -> float:
        """T = E[f'^2] / sup f'^2."""
        return float(self.squares) / max(1, self.n)

    @property
    def phi(self) -> float:
        """E|2 (f - f_min) / (f_max - f_min) - 1|: 0 mid-range, 1 at the ends.

        The bin-free limit of the measure of Rakitianskaia, Engelbrecht 2015.
        """
        return float(self.extent) / max(1, self.n)
