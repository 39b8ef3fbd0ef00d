"""Norms of large tensors: no copies, and the operations that are fast on a processor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nndiag.statistics.view import wide

SMALLEST, LARGEST = 1e-10, 1e15
"""Between these sizes sums of squares in float32 neither vanish nor overflow."""


def is_on_host(x: Tensor) -> bool:
    """Whether a number of this tensor can be looked at without waiting for a device."""
    return x.device.type == "cpu"


def peak(x: Tensor) -> Tensor:
    """[] largest |entry|, NaN where there is one: a twentieth of the time of an infinity norm, and no copy."""
    return torch.maximum(x.amax(), -x.amin())


def exponents(peaks: Tensor) -> Tensor:
    """Powers of two of sizes, none below the smallest normal number's: what would undo more is not finite itself."""
    return torch.frexp(peaks).exponent.clamp(min=math.frexp(torch.finfo(peaks.dtype).tiny)[1])


def is_moderate(size: Tensor) -> bool:
    """Whether squares of numbers up to this size can be summed in float32; asked on the host only."""
    return SMALLEST < float(size) < LARGEST  # False for NaN


def norm(x: Tensor) -> Tensor:
    """[] Euclidean norm in float64: row by row in float32, then of the rows, where the result shows that it fits."""
    rows = x.reshape(len(x), -1) if x.dim() > 1 else x.reshape(1, -1)
    if is_on_host(x) and x.dtype == torch.float32 and x.numel():
        norms = row_norms(rows).double()
        if is_moderate(norms.max()):
            total: Tensor = torch.linalg.vector_norm(norms)
            return total
    exact: Tensor = torch.linalg.vector_norm(rows, dtype=wide(x))
    return exact


def row_norms(rows: Tensor) -> Tensor:
    """[n] Euclidean norms of moderate rows [n, d]."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms
