"""Tensors of a file that are not read yet: where they lie, what they are, and whether that can be true."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nndiag.checkpoints.files import Region
from nndiag.errors import CheckpointError

_MOST_AXES = 64
_LARGEST = 1 << 62

DTYPES: dict[str, torch.dtype] = {
    str(found).removeprefix("torch."): found
    for found in vars(torch).values()
    if isinstance(found, torch.dtype)
}
"""Every number format that this PyTorch knows, by name."""

STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
}
"""Classes of storages with numbers that are read, by name; they are never imported."""

QUANTIZED = ("QInt8Storage", "QInt32Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file.

    Attributes:
        shape: Its shape, checked against the bytes that are there.
        kind: Its number format by name, as far as known.
        load: Reads it into memory of its own; None where there is no reading it.
        identity: Equal where two names mean one tensor; None: unknown.
        problem: Why it cannot be read.
    """

    shape: tuple[int, ...]
    kind: str
    load: Callable[[], Tensor] | None = None
    identity: Hashable = None
    problem: str | None = None

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """Whether it can be a parameter, read or not."""
        dtype = DTYPES.get(self.kind)
        return self.problem is not None or dtype is None or dtype.is_floating_point or dtype.is_complex

    def read(self) -> Tensor:
        """The tensor."""
        if self.load is None:
            raise CheckpointError(f"holds a tensor that cannot be read: {self.problem}")
        return self.load()


def unread(kind: str, problem: str, shape: Any = ()) -> Stored:
    """A tensor that cannot be read, and why."""
    try:
        return Stored(checked_shape(shape), kind, problem=problem)
    except CheckpointError:
        return Stored((), kind, problem=problem)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """A shape whose number of entries a machine can count.

    Raises:
        CheckpointError: it is none.
    """
    sizes = _numbers(shape)
    if math.prod(max(1, n) for n in sizes) >= _LARGEST:
        raise CheckpointError("holds a tensor of an impossible shape")
    return sizes


def _numbers(shape: Any) -> tuple[int, ...]:
    found = shape if isinstance(shape, (tuple, list)) and len(shape) <= _MOST_AXES else (None,)
    if not all(type(n) is int and 0 <= n < _LARGEST for n in found):
        raise CheckpointError("holds a tensor of an impossible shape")
    return tuple(int(n) for n in found if n is not None)


def strided(
    region: Region, dtype: torch.dtype, offset: Any, shape: Any, strides: Any, identity: Hashable
) -> Stored:
    """A tensor laid over bytes.

    Args:
        region: The bytes.
        dtype: Number format.
        offset: First entry, in entries.
        shape: Its shape.
        strides: Distance of neighbors along each axis, in entries.
        identity: What names the bytes.

    Raises:
        CheckpointError: it would reach beyond them.
    """
    sizes, steps = checked_shape(shape), _numbers(strides)
    if len(sizes) != len(steps) or type(offset) is not int or not 0 <= offset < _LARGEST:
        raise CheckpointError("holds a tensor whose strides do not fit its shape")
    kind, numel, width = str(dtype).removeprefix("torch."), math.prod(sizes), dtype.itemsize
    if numel == 0:
        return Stored(sizes, kind, lambda: torch.empty(sizes, dtype=dtype))
    reach = sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) + 1
    if (offset + reach) * width > region.size:
        raise CheckpointError("holds a tensor that reaches beyond its own bytes")
    if numel > reach:
        return Stored(sizes, kind, problem="an expanded tensor: several of its entries share one place")

    def load() -> Tensor:
        flat = torch.frombuffer(region.read(offset * width, reach * width), dtype=dtype)
        return flat.as_strided(sizes, steps)

    return Stored(sizes, kind, load, (identity, offset, sizes, steps))


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor whose last axis is the innermost."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(1, size)
    return tuple(reversed(steps))
