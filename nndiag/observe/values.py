"""Nested values: mapping over their tensors, and rebuilding them for a replay."""

from __future__ import annotations

import collections
import copy
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Refusal(NamedTuple):
    """Why the probe will not replay a model: a stable code, and a sentence."""

    code: str
    reason: str


class Refused(Exception):
    """Raised inside the probe only; never reaches a run."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.refusal = Refusal(code, reason)


class Slot(NamedTuple):
    """Stands for a tensor in a recorded argument or output."""

    number: int


ATOMS = (
    *(int, float, bool, str, bytes, complex, type(None), type, range, type(Ellipsis)),
    *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, np.generic),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
)
"""Values that a forward pass cannot change."""

_DEPTH = 8


def map_leaves(function: Callable[[Any], Any], value: Any, kind: type = Tensor, depth: int = 0) -> Any:
    """Rebuilds nested containers with ``function`` applied to the leaves of type ``kind``.

    Raises:
        Refused: a container cannot be rebuilt (an iterator would be used up).
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, (*ATOMS, nn.Module, Tensor, Slot)) or depth > _DEPTH:
        return value

    def inner(item: Any) -> Any:
        return map_leaves(function, item, kind, depth + 1)

    if isinstance(value, tuple):
        items = [inner(item) for item in value]
        named = type(value).__module__ == "torch.return_types"
        return type(value)(items) if named else tuple.__new__(type(value), items)
    if isinstance(value, (list, set, frozenset, collections.deque)):
        return type(value)([inner(item) for item in value])
    if isinstance(value, slice):
        return slice(inner(value.start), inner(value.stop), inner(value.step))
    if isinstance(value, np.ndarray):
        return value.copy()
    if hasattr(value, "__next__"):
        raise Refused("iterator-argument", f"a {type(value).__name__} can be read only once")
    return _map_object(inner, value)


def _map_object(inner: Callable[[Any], Any], value: Any) -> Any:
    """Mappings, dataclasses and other plain objects, by a shallow copy whose items are replaced."""
    if not isinstance(value, dict) and not hasattr(value, "__dict__"):
        raise Refused("opaque-argument", f"a {type(value).__name__} cannot be rebuilt")
    rebuilt = copy.copy(value)
    if isinstance(value, dict):
        for key, item in list(dict.items(value)):
            dict.__setitem__(rebuilt, key, inner(item))
    for key, item in list(getattr(value, "__dict__", {}).items()):
        shared = isinstance(rebuilt, dict) and key in rebuilt
        rebuilt.__dict__[key] = dict.get(rebuilt, key) if shared else inner(item)
    return rebuilt


def leaves(value: Any, kind: type = Tensor) -> list[Any]:
    """The leaves of type ``kind``, in a fixed order."""
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_leaves(keep, value, kind)
    return found


def slots(value: Any) -> set[int]:
    """The numbers of all slots in a recorded value."""
    return {slot.number for slot in leaves(value, Slot)}


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, NaN equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided or a.is_nested:
        return a is b
    return bool(((a == b) | ((a != a) & (b != b))).all())
