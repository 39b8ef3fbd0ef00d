"""What is known of a dropout layer: how it is set, whether it draws, and the spectrum of what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nndiag.statistics.base import Statistic
from nndiag.statistics.sizes import exponents

MAX_UNITS = 2048
MAX_ROWS = 512


@dataclass(frozen=True, slots=True, eq=False)
class DropoutUse(Statistic):
    """Calls of one dropout layer.

    Attributes:
        calls: [] calls seen.
        active: [] calls that drew a mask.
        p: [] sum over calls of the probability of being dropped.
        fused: [] calls that drew inside a kernel, where neither mask nor input can be seen.
    """

    name: ClassVar[str] = "dropout_use"
    calls: Tensor
    active: Tensor
    p: Tensor
    fused: Tensor

    @classmethod
    def of(cls, p: float, *, active: bool, fused: bool = False) -> Self:
        """One call.

        Args:
            p: Probability of being dropped.
            active: Whether a mask was drawn.
            fused: Whether that happened inside a kernel.
        """
        return cls(
            calls=torch.tensor(1),
            active=torch.tensor(int(active and p > 0)),
            p=torch.tensor(p, dtype=torch.float64),
            fused=torch.tensor(int(fused)),
        )

    def merge(self, other: Self) -> Self:
        """Counts add."""
        self._check(other)
        mine, theirs = self.to_tensors(), other.to_tensors()
        return type(self)(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def rate(self) -> float:
        """Mean probability of being dropped."""
        return float(self.p) / max(1, int(self.calls))


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum(Statistic):
    """The Gram matrix of a layer's units, centered, and scaled by their uncentered second moments.

    Its eigenvalues are those of D^-1/2 Cov(a) D^-1/2 with D = E[a^2]; the smaller of the two Gram matrices, over
    rows or over units, has them all.

    Attributes:
        gram: [m, m] with m the smaller of rows and units.
        rows: [] rows behind it, one position a sample.
        samples: [] independent samples; 1 where they could not be told apart.
        positions: [] positions of a sample.
        units: [] units of the layer.
        alive: [] units that are not zero in every row.
        compared: [] units in the matrix, at most ``MAX_UNITS``.
    """

    name: ClassVar[str] = "spectrum"
    gram: Tensor
    rows: Tensor
    samples: Tensor
    positions: Tensor
    units: Tensor
    alive: Tensor
    compared: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Takes one position a sample, so that rows are independent.

        Args:
            x: [N, S, C].
        """
        samples, positions, units = x.shape
        if samples > 1:
            row = torch.arange(samples, device=x.device)
            rows = x[row, (row * _coprime(positions)) % positions]
        else:
            rows = x[0, :: -(-positions // MAX_ROWS)]
        rows = rows[:MAX_ROWS].nan_to_num(0.0, 0.0, 0.0)
        stride = -(-units // MAX_UNITS)
        chosen = rows[:, ::stride]
        if chosen.numel():  # in units of a power of two: squares of 1e-25 vanish in float32, of 1e25 overflow
            chosen = torch.ldexp(chosen, -exponents(chosen.abs().amax(0)))
        square = chosen.square().mean(0)
        alive = (rows != 0).any(0).sum()
        deviation = chosen - chosen.mean(0)
        deviation = deviation - deviation.mean(0)
        scaled = deviation * torch.where(square > 0, square, 1).rsqrt() / len(chosen) ** 0.5
        return cls(
            gram=scaled @ scaled.T if scaled.shape[0] <= scaled.shape[1] else scaled.T @ scaled,
            rows=torch.tensor(len(rows)),
            samples=torch.tensor(samples),
            positions=torch.tensor(positions),
            units=torch.tensor(units),
            alive=alive,
            compared=torch.tensor(chosen.shape[1]),
        )

    def merge(self, other: Self) -> Self:
        """A spectrum is one of its rows: the newer one stands."""
        self._check_kind(other)
        return other

    @property
    def eigenvalues(self) -> NDArray[np.float64]:
        """[m] descending."""
        gram = self.gram.double().cpu().numpy()
        return np.clip(np.linalg.eigvalsh(gram)[::-1], 0.0, None) if gram.size else np.zeros(0)


def _coprime(positions: int) -> int:
    """A stride that visits all positions in turn."""
    golden = max(1, round(positions * 0.618))
    while np.gcd(golden, positions) > 1:
        golden += 1
    return golden
