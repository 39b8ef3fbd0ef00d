"""The canonical view X[N samples, S positions, C units] of a tensor, or why there is none."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nndiag import compat

_PACKED = torch.float4_e2m1fn_x2
"""Two numbers in a byte: a floating dtype that nothing can be computed with."""


class Rows(NamedTuple):
    """Where the samples of a tensor are.

    ``axis`` holds N * ``positions`` entries, sample by sample ("sample") or position by position
    ("position").
    """

    axis: int
    positions: int
    major: Literal["sample", "position"]


class Unreadable(NamedTuple):
    """Why no statistic can be taken of a tensor."""

    reason: str


def unreadable(x: Tensor) -> Unreadable | None:
    """Says why a tensor cannot be read, None when it can."""
    if compat.is_functorch_wrapped(x):
        return Unreadable("inside a functorch transform")
    if type(x) not in (Tensor, nn.Parameter):
        return Unreadable(f"tensor subclass {type(x).__name__}")
    if x.is_meta:
        return Unreadable("meta tensor without data")
    if x.is_nested:
        return Unreadable("nested tensor")
    if x.layout != torch.strided:
        return Unreadable("sparse or opaque layout")
    if x.is_quantized:
        return Unreadable("quantized tensor")
    if x.dtype == _PACKED or not (x.is_floating_point() or x.is_complex()):
        return Unreadable(f"{str(x.dtype).removeprefix('torch.')} values")
    return Unreadable("empty tensor") if x.numel() == 0 else None


def as_reals(x: Tensor) -> Tensor:
    """[..., 2] real and imaginary parts of complex numbers; real ones as they are."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def wide(x: Tensor) -> torch.dtype:
    """Float64, on devices that have it: in float32 squares of 1e-25 vanish, and squares of 1e25 overflow."""
    return torch.float64 if x.device.type != "mps" else torch.float32


def canonical(x: Tensor, *, unit_axis: int, rows: Rows | None) -> Tensor | Unreadable:
    """X[N, S, C] in float32 (float64 stays), without a copy where strides allow.

    Args:
        x: A layer's input or output.
        unit_axis: Axis of units.
        rows: Where the samples are; None when unknown: everything is then one sample, and no statement about
            single samples can be made.
    """
    reason = unreadable(x)
    if reason is not None:
        return reason
    x = x.detach()  # only now: a subclass may run code of its own
    x = x.abs() if x.is_complex() else x
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if x.dim() == 0 or not -x.dim() <= unit_axis < x.dim():
        return x.reshape(1, -1, 1)
    units = unit_axis % x.dim()
    if rows is None or rows.axis >= x.dim() or x.shape[rows.axis] % rows.positions:
        return x.movedim(units, -1).flatten(0, -2).unsqueeze(0) if x.dim() > 1 else x.reshape(1, 1, -1)
    if rows.axis == units:
        return x.reshape(-1, 1, 1) if x.dim() == 1 else x.movedim(units, -1).flatten(0, -2).unsqueeze(0)
    return _split(x.movedim((rows.axis, units), (0, -1)), rows)


def _split(x: Tensor, rows: Rows) -> Tensor:
    """[N * positions, ..., C] -> [N, S, C]."""
    x = x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)
    if rows.positions == 1:
        return x
    if rows.major == "sample":
        split: Tensor = x.unflatten(0, (-1, rows.positions))
    else:
        split = x.unflatten(0, (rows.positions, -1)).transpose(0, 1)
    return split.flatten(1, 2)
