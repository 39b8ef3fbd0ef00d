"""A small, even, repeatable sample of a large tensor, without a random number."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def strided_sample(x: Tensor, size: int) -> Tensor:
    """[<= size] entries at a stride that shares no factor with the tensor's width.

    A stride that divides the number of units would read the same units over and over.

    Args:
        x: Any tensor; the last axis is the one that must not be aliased.
        size: Largest number of entries.
    """
    if x.numel() <= size:
        return x.reshape(-1)
    stride = -(-x.numel() // size)
    while math.gcd(stride, x.shape[-1]) > 1:
        stride += 1
    if x.is_contiguous():
        return x.view(-1)[::stride]
    # What is strided would be copied as a whole to be flat.
    return x[torch.unravel_index(torch.arange(0, x.numel(), stride, device=x.device), x.shape)]
