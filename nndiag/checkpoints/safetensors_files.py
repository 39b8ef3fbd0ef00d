"""Files of safetensors: a JSON header, then nothing but numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from nndiag.checkpoints.files import PlainFile, Stretch
from nndiag.checkpoints.tensors import DTYPES, Stored, checked_shape, contiguous, strided, unread
from nndiag.errors import CheckpointError

LONGEST_HEADER = 100_000_000
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors(file: PlainFile) -> dict[str, Stored]:
    """The tensors of a file, in the order of their names: the format keeps no other.

    Raises:
        CheckpointError: its header is damaged, or does not fit the bytes behind it.
    """
    header, begin = _header(file)
    tensors, spans = {}, []
    for name, record in header.items():
        if name == "__metadata__":
            continue
        start, stop = _span(record)
        spans.append((start, stop))
        tensors[name] = _tensor(file, record, begin + start, stop - start)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise CheckpointError(
                "is a damaged safetensors file: its tensors overlap, or leave bytes between them"
            )
        end = stop
    if begin + end != file.size:
        problem = "is cut off" if begin + end > file.size else "is a damaged safetensors file"
        raise CheckpointError(f"{problem}: its length does not fit its header")
    return {name: tensors[name] for name in sorted(tensors, key=natural)}


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which numbers in names count as numbers."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return tuple((0, int(part), "") if part[0].isdecimal() else (1, 0, part) for part in parts)


def _header(file: PlainFile) -> tuple[dict[str, Any], int]:
    if file.size < 8:
        raise CheckpointError("is cut off: it is too short for a safetensors file")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > LONGEST_HEADER:
        raise CheckpointError("is a damaged safetensors file: its header is absurdly long")
    if 8 + length > file.size:
        raise CheckpointError("is cut off: its header reaches beyond its end")
    return _json(bytes(file.read(8, length)), "its header"), 8 + length


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"is damaged: {what} is not JSON") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"is damaged: {what} is not a JSON object")
    return found


def read_json(file: PlainFile, what: str) -> dict[str, Any]:
    """A JSON object that stands beside a checkpoint.

    Args:
        file: The file.
        what: What it is, for the error.

    Raises:
        CheckpointError: it is none, or absurdly long.
    """
    if file.size > LONGEST_HEADER:
        raise CheckpointError(f"is damaged: {what} is absurdly long")
    return _json(bytes(file.read(0, file.size)), what)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CheckpointError("is damaged: two of its entries have one name")
    return found


def _span(record: Any) -> tuple[int, int]:
    offsets: Any = record.get("data_offsets") if isinstance(record, Mapping) else None
    if isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets):
        start, stop = offsets
        if 0 <= start <= stop:
            return start, stop
    raise CheckpointError("is a damaged safetensors file: a tensor is at an impossible place")


def _tensor(file: PlainFile, record: Mapping[str, Any], start: int, size: int) -> Stored:
    kind, shape = record.get("dtype"), checked_shape(record.get("shape"))
    if not isinstance(kind, str):
        raise CheckpointError("is a damaged safetensors file: a tensor has no number format")
    dtype = DTYPES.get(_NAMES.get(kind, ""))
    if dtype is None:
        if kind in _BITS and math.prod(shape) * _BITS[kind] != size * 8:
            raise CheckpointError("is a damaged safetensors file: a tensor's shape does not fit its bytes")
        name = kind[:40]
        return unread(name, f"numbers of a format that PyTorch cannot compute with ({name})", shape)
    if math.prod(shape) * dtype.itemsize != size:
        raise CheckpointError("is a damaged safetensors file: a tensor's shape does not fit its bytes")
    if start + size > file.size:
        raise CheckpointError("is cut off: a tensor reaches beyond its end")
    return strided(Stretch(file, start, size), dtype, 0, shape, contiguous(shape), (str(file.path), start))
