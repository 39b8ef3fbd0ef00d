"""Which units of a layer point one way: w and 2 w compute the same up to a factor where a ReLU follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nndiag.statistics import RowSignature
from nndiag.statistics.signature import LOOSE

FEWEST_DIMS = 8
"""Numbers that make up a unit from which chance brings no two of them as near as copies are."""

_BLOCK = 1 << 21
_SKETCH = 32


def scaled_copies(rows: Tensor, signature: RowSignature) -> int:
    """Units that are a positive multiple of another one, and not equal to one; rows next to zero have no direction.

    Args:
        rows: [n, d] real numbers, one row a unit.
        signature: Theirs.
    """
    if rows.shape[1] < FEWEST_DIMS:
        return 0
    norms = signature.norms
    where = ((norms > LOOSE * norms.median()) & norms.isfinite()).nonzero().flatten()
    if len(where) < 2:
        return 0
    pointing = RowSignature.of(_sketch(rows, where)).loose
    return len(signature.loose[where].unique()) - len(pointing.unique())


def _sketch(rows: Tensor, where: Tensor) -> Tensor:
    """[m, k] what is left of the directions of some rows: distances stay about what they are, those of 0 exactly."""
    width = rows.shape[1]
    axes = torch.eye(width) if width <= _SKETCH else _random_axes(width)
    found = torch.empty(len(where), axes.shape[1])
    size = max(1, _BLOCK // width)
    for part, places in zip(found.split(size), where.split(size), strict=True):
        block = rows[places].float()
        block = block / block.abs().amax(1, keepdim=True)  # squares of 1e-25 vanish
        part.copy_(block / torch.linalg.vector_norm(block, dim=1, keepdim=True) @ axes)
    return found


def _random_axes(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(width, _SKETCH, generator=generator) / math.sqrt(_SKETCH)
