"""RowSignature: which units of a layer are equal, without keeping a single weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.functional import equal_rows
from nndiag.statistics.base import Statistic

EXACT = 1e-6
"""Relative distance of clones at the first backward passes."""

LOOSE = 2e-3
"""Relative distance of clones later: summation order parts them by about 5e-4."""

JOINT = 1e-5
"""Relative distance of equal gradients."""

MAX_COSINE_UNITS = 1024
_DIRECTIONS = 6

_BLOCK = 1 << 21
"""Entries that are worked on at a time: what is computed on the way is never as large as a large layer."""

_GATHERED = 1 << 22
"""Entries of near units that are compared as they are; of more, sketches are."""

_SKETCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class RowSignature(Statistic):
    """Classes of equal units of one symmetry domain.

    Attributes:
        norms: [n] Euclidean norms of the units' parameters.
        exact: [n] classes at ``EXACT`` times the median norm.
        loose: [n] classes at ``LOOSE`` times the median norm.
        signed: [n] classes at ``LOOSE``, up to a common sign.
        joint: [n] classes of equal parameters and gradients; empty without gradients.
        gradient_norms: [n] norms of the units' gradients; empty without gradients.
        cosine: [] largest |cosine| between two units, NaN when not asked for.
        compared: [] units among which the largest cosine was sought.
        dims: [] numbers that make up a unit.
        directed: [] numbers that make up its direction.
    """

    name: ClassVar[str] = "signature"
    norms: Tensor
    exact: Tensor
    loose: Tensor
    signed: Tensor
    joint: Tensor
    gradient_norms: Tensor
    cosine: Tensor
    compared: Tensor
    dims: Tensor
    directed: Tensor

    @classmethod
    def of(cls, units: Tensor, gradients: Tensor | None = None, *, directions: Tensor | None = None) -> Self:
        """Reads the unit matrix of one domain.

        Args:
            units: [n, d] parameters, one row a unit.
            gradients: [n, d] their gradients; None: there are none.
            directions: [n, e] their incoming weights, to look for the most alike pair: O(n^2 e) for at most
                1,024 units; None: do not look.
        """
        rows = _Rows.of(units)
        scale = rows.norms.median()
        exact = rows.classes(EXACT * scale)
        joint = gradient_norms = torch.empty(0)
        if gradients is not None:
            slopes, slope = _scaled(_readable(gradients))
            joint = _joint(exact, slopes)
            gradient_norms = slopes.norm(dim=1).double() * slope
        alike, compared = (
            (torch.tensor(torch.nan), 0)
            if directions is None
            else _most_alike(_scaled(_readable(directions))[0])
        )
        return cls(
            norms=rows.norms.double() * rows.unit,
            exact=exact,
            loose=rows.classes(LOOSE * scale),
            signed=rows.classes(LOOSE * scale, rows.signs),
            joint=joint.long(),
            gradient_norms=gradient_norms.double(),
            cosine=alike.double(),
            compared=torch.tensor(compared),
            dims=torch.tensor(units.shape[1]),
            directed=torch.tensor(0 if directions is None else directions.shape[1]),
        )

    def merge(self, other: Self) -> Self:
        """Parameters are not a sample: the newer reading stands."""
        self._check(other, "norms")
        return other

    @property
    def units(self) -> int:
        """N."""
        return len(self.norms)

    @property
    def has_gradients(self) -> bool:
        """Whether gradients were there."""
        return len(self.gradient_norms) > 0


def _readable(rows: Tensor) -> Tensor:
    """Float rows without NaN: a diverged layer must not hide its duplicates behind NaN != NaN."""
    return rows.detach().to(_dtype(rows)).nan_to_num(nan=0.0, posinf=1e30, neginf=-1e30)


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in units of their median peak, and this unit."""
    unit = _unit(rows.abs().amax(1))
    return rows / unit, unit.double()


def _unit(peaks: Tensor) -> Tensor:
    """The median peak: squares of 1e-25 vanish in float32, of 1e25 overflow.

    The largest peak stands in where most rows are zero.
    """
    middle = peaks.median()
    unit = torch.where(middle > 0, middle, peaks.max())
    return torch.where(unit > 0, unit, 1.0)


def _blocks(rows: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Rows, as many at a time as make up a block of another tensor with as many rows."""
    blocks: tuple[Tensor, ...] = rows.detach().split(max(1, _BLOCK // max(1, like.shape[1])))
    return blocks


def _dtype(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class _Rows:
    """A matrix of units in units of its median peak, read block by block; no scaled copy of it is made.

    Attributes:
        source: [n, d] as it came.
        unit: [] the median peak.
        norms: [n] norms of the scaled rows.
        signs: [n, 1] sign of each row's largest entry; +1 for a row of zeros.
        projections: [n, k] on a few fixed directions.
    """

    source: Tensor
    unit: Tensor
    norms: Tensor
    signs: Tensor
    projections: Tensor

    @classmethod
    def of(cls, source: Tensor) -> Self:
        """Two passes: one for the unit, one for what is compared."""
        peaks = source.new_empty(len(source), dtype=_dtype(source))
        for part, block in zip(_blocks(peaks, source), _blocks(source, source), strict=True):
            part.copy_(_readable(block).abs().amax(1))
        unit = _unit(peaks)
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(source.shape[1], _DIRECTIONS, generator=generator, dtype=peaks.dtype)
        directions = (directions / directions.norm(dim=0)).to(source.device)
        # Filled in place: small results that stay between large ones that go would tear up the heap.
        norms, signs = torch.empty_like(peaks), peaks.new_empty(len(peaks), 1)
        projections = peaks.new_empty(len(peaks), _DIRECTIONS)
        places = (_blocks(each, source) for each in (source, norms, signs, projections))
        for block, norm, sign, projection in zip(*places, strict=True):
            rows = _readable(block) / unit
            norm.copy_(rows.norm(dim=1))
            sign.copy_(_leading_sign(rows))
            projection.copy_(rows @ directions)
        return cls(source, unit.double(), norms, signs, projections.double().cpu())

    def classes(self, tolerance: Tensor, signs: Tensor | None = None) -> Tensor:
        """[n] class labels of equal rows; only rows with a near neighbor leave the device.

        Equal rows have equal projections. Where no two projections are within the tolerance, all rows are distinct
        and nothing else is computed.

        Args:
            tolerance: Largest distance of equal rows.
            signs: [n, 1] what rows are multiplied by first; None: nothing.
        """
        points = self.projections if signs is None else self.projections * signs.double().cpu()
        limit = max(float(tolerance), 0.0)
        # Rounding of the projection itself must not part equal rows.
        where = _near(points, limit + 1e-5 * float(points.abs().max()))
        labels = torch.arange(len(points))
        if len(where):
            at = where.to(self.source.device)
            found = torch.from_numpy(equal_rows(self._chosen(at, signs).double().cpu().numpy(), limit))
            labels[where] = len(points) + found
        inverse: Tensor = torch.unique(labels, return_inverse=True)[1]
        return inverse

    def _chosen(self, where: Tensor, signs: Tensor | None) -> Tensor:
        """[m, d] rows at some places; where they are many numbers, [m, k] sketches with about their distances."""
        width, sketch = self.source.shape[1], None
        if len(where) * width > _GATHERED and width > _SKETCH:
            generator = torch.Generator().manual_seed(1)
            draws = torch.randn(width, _SKETCH, generator=generator, dtype=self.norms.dtype)
            sketch = (draws / math.sqrt(_SKETCH)).to(self.source.device)
        chosen = self.norms.new_empty(len(where), width if sketch is None else _SKETCH)
        size = max(1, _BLOCK // max(1, width))
        for part, places in zip(chosen.split(size), where.split(size), strict=True):
            rows = _readable(self.source[places]) / self.unit.to(self.norms.dtype)
            rows = rows if signs is None else rows * signs[places]
            part.copy_(rows if sketch is None else rows @ sketch)
        return chosen


def _joint(exact: Tensor, gradients: Tensor) -> Tensor:
    """[n] classes of equal parameters and gradients; only gradients of units with a twin are compared."""
    count = len(exact)
    where = (torch.bincount(exact)[exact] > 1).nonzero().flatten()
    labels = exact.clone()
    if len(where):
        tolerance = JOINT * gradients.norm(dim=1).max()
        twins = _Rows.of(gradients[where.to(gradients.device)])
        labels[where] = count * (1 + exact[where]) + twins.classes(tolerance / twins.unit)
    inverse: Tensor = torch.unique(labels, return_inverse=True)[1]
    return inverse


def _leading_sign(rows: Tensor) -> Tensor:
    """[n, 1] sign of each row's largest entry; +1 for a row of zeros."""
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)


def _near(points: Tensor, reach: float) -> Tensor:
    """Places of the points [n, k] with a neighbor within ``reach`` along each axis.

    Along one axis that is soon said. In a wide layer all points have some neighbor there; a search tree then looks at
    all axes together, unless the layer is one of copies, where no search is needed.
    """
    order = points[:, 0].argsort()
    close = points[order, 0].diff() <= reach
    suspects = torch.zeros(len(points), dtype=torch.bool)
    suspects[order[:-1][close]] = True
    suspects[order[1:][close]] = True
    where = suspects.nonzero().flatten()
    spread = float(points[:, 0].max() - points[:, 0].min()) if len(points) else 0.0
    if len(where) < 2 or spread <= reach:
        return where
    from scipy.spatial import cKDTree

    chosen = points[where].numpy()
    distances = cKDTree(chosen).query(chosen, k=2, p=torch.inf, distance_upper_bound=1.01 * reach + 1e-300)[0]
    return where[torch.from_numpy(distances[:, 1]).isfinite()]


def _most_alike(rows: Tensor) -> tuple[Tensor, int]:
    """The largest |cosine| between two units of a fixed, even subset; rows of zeros have no direction."""
    directed = rows[rows.norm(dim=1) > 0]
    stride = -(-len(directed) // MAX_COSINE_UNITS) if len(directed) else 1
    chosen = directed[::stride]
    if len(chosen) < 2:
        return torch.tensor(torch.nan), len(chosen)
    unit = chosen / chosen.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).abs().fill_diagonal_(0)
    return cosines.max().cpu(), len(chosen)
