"""RowSignature: which units of a layer are equal, without keeping a single weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nndiag.functional import equal_rows
from nndiag.statistics.base import Statistic
from nndiag.statistics.sizes import is_moderate, is_on_host, row_norms

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

_SHIFTS = 64
"""Neighbors along one axis that are compared before a search tree is built."""


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
        loose = rows.classes(LOOSE * scale)
        is_distinct = int(loose.max()) + 1 == len(loose)  # then no two are equal by a stricter measure
        exact = loose if is_distinct else rows.classes(EXACT * scale)
        joint = gradient_norms = torch.empty(0)
        if gradients is not None:
            gradient_norms = _row_norms(gradients)
            joint = exact if is_distinct else _joint(exact, _scaled(_readable(gradients))[0])
        alike, compared = (
            (torch.tensor(torch.nan), 0)
            if directions is None
            else _most_alike(_scaled(_readable(directions))[0])
        )
        return cls(
            norms=rows.norms.double() * rows.unit,
            exact=exact,
            loose=loose,
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


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """Some rows. PyTorch 2.9 cannot index numbers of eight bits, only their bytes."""
    if rows.element_size() == 1 and rows.is_floating_point():
        return rows.view(torch.uint8)[places].view(rows.dtype)
    return rows[places]


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
        signs = peaks.new_empty(len(peaks), 1)
        is_plain = is_on_host(source)  # of a device it would have to be waited for
        for top, sign, block in zip(*(_blocks(t, source) for t in (peaks, signs, source)), strict=True):
            largest, leading, is_finite = _extremes(block)
            top.copy_(largest)
            sign.copy_(leading)
            is_plain = is_plain and is_finite
        unit = _unit(peaks)
        is_plain = is_plain and is_moderate(peaks.max()) and is_moderate(unit)
        scale = torch.ones_like(unit) if is_plain else unit
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(source.shape[1], _DIRECTIONS, generator=generator, dtype=peaks.dtype)
        directions = (directions / directions.norm(dim=0)).to(source.device)
        # Filled in place: small results that stay between large ones that go would tear up the heap.
        norms, projections = torch.empty_like(peaks), peaks.new_empty(len(peaks), _DIRECTIONS)
        for norm, projection, block in zip(
            *(_blocks(t, source) for t in (norms, projections, source)), strict=True
        ):
            rows = block.to(peaks.dtype) if is_plain else _readable(block) / unit
            norm.copy_(row_norms(rows))
            projection.copy_(rows @ directions)
        rest = unit / scale
        return cls(source, unit.double(), norms / rest, signs, (projections / rest).double().cpu())

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
        if not len(where):
            return labels
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
            rows = _readable(_at(self.source, places)) / self.unit.to(self.norms.dtype)
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


def _row_norms(rows: Tensor) -> Tensor:
    """[n] norms in float64; without a copy where no square leaves float32."""
    rows = rows.detach()
    if is_on_host(rows) and rows.dtype == torch.float32 and rows.numel():
        norms = row_norms(rows)
        if is_moderate(norms.max()):
            return norms.double()
    scaled, unit = _scaled(_readable(rows))
    return row_norms(scaled).double() * unit


def _extremes(block: Tensor) -> tuple[Tensor, Tensor, bool]:
    """[n] largest |entry| of each row, [n, 1] the sign that it has, and whether all entries are finite."""
    rows = block.detach().to(_dtype(block))
    if not is_on_host(rows):
        rows = _readable(rows)
        return rows.abs().amax(1), _leading_sign(rows), False
    top, bottom = rows.amax(1), rows.amin(1)
    is_finite = bool((top - bottom).isfinite().all())
    if not is_finite:
        rows = _readable(rows)
        top, bottom = rows.amax(1), rows.amin(1)
    signs = torch.where(-bottom > top, -1.0, 1.0).to(rows.dtype).unsqueeze(1)
    tied = ((top == -bottom) & (top > 0)).nonzero().flatten()
    if len(tied):  # the first of the largest decides
        signs[tied] = _leading_sign(rows[tied])
    return torch.maximum(top, -bottom), signs, is_finite


def _leading_sign(rows: Tensor) -> Tensor:
    """[n, 1] sign of each row's largest entry; +1 for a row of zeros."""
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)


def _near(points: Tensor, reach: float) -> Tensor:
    """Places of the points [n, k] with a neighbor within ``reach`` along each axis.

    In order of the first axis each point is compared with the next, the one behind it, and so on, until none is
    within reach there. Where that does not end soon a search tree looks at all axes together, unless the layer is one
    of copies, where no search is needed.
    """
    if len(points) < 2:
        return torch.empty(0, dtype=torch.int64)
    order = points[:, 0].argsort()
    table = points[order].T.contiguous().numpy()
    first, second, limit = table[0], table[1], 1.01 * reach + 1e-300
    if first[-1] - first[0] <= reach:
        return torch.arange(len(points))
    is_near = np.zeros(len(first), dtype=bool)
    for shift in range(1, min(_SHIFTS, len(first))):
        close = first[shift:] - first[:-shift] <= limit
        if not close.any():
            break
        pairs = (close & (np.abs(second[shift:] - second[:-shift]) <= limit)).nonzero()[0]
        pairs = pairs[(np.abs(table[:, pairs + shift] - table[:, pairs]) <= limit).all(axis=0)]
        is_near[pairs] = is_near[pairs + shift] = True
    else:
        if len(first) > _SHIFTS:
            is_near = _near_of_many(np.ascontiguousarray(table.T), limit)
    return order[torch.from_numpy(is_near)].sort().values


def _near_of_many(rows: NDArray[np.float64], limit: float) -> NDArray[np.bool_]:
    """[n] whether a row [n, k] has another within ``limit`` along each axis."""
    from scipy.spatial import cKDTree

    distances = cKDTree(rows).query(rows, k=2, p=np.inf, distance_upper_bound=limit)[0]
    return np.asarray(np.isfinite(distances[:, 1]))


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
