"""What was built from a file is of the types it declares, or it is refused.

A file can hold anything that JSON can say: a step in words, a list for a name. Rules and the faces of a report
rely on types; a value of another one would fail there, far from the file that it came from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nndiag.findings import Scalar, numbers

T = TypeVar("T")


def checked(built: T) -> T:
    """The same dataclass, if every field, also of those inside it, is of its declared type.

    Raises:
        TypeError: naming the field.
    """
    kind: Any = type(built)
    for name, fits in _fields(kind).items():
        value = getattr(built, name)
        if not fits(value):
            raise TypeError(f"{name} of a {kind.__name__} cannot be {repr(value)[:100]}")
    return built


def facts(record: Mapping[str, Any]) -> dict[str, Scalar]:
    """Facts as ``plain`` wrote them.

    Raises:
        TypeError: one of them is not plain.
    """
    if not _check(Mapping[str, Scalar])(record):
        raise TypeError("facts must be numbers and strings by name")
    return numbers(record)


@functools.cache
def _fields(kind: Any) -> dict[str, Callable[[Any], bool]]:
    hints = get_type_hints(kind)
    return {field.name: _check(hints[field.name]) for field in fields(kind)}


@functools.cache
def _check(hint: Any) -> Callable[[Any], bool]:
    """Says of a value whether it fits a type hint."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: value in inner
    if origin in (Union, UnionType):
        options = [_check(each) for each in inner]
        return lambda value: any(fits(value) for fits in options)
    if origin is tuple and inner[-1] is Ellipsis:
        every = _check(inner[0])
        return lambda value: isinstance(value, tuple) and all(map(every, value))
    if origin is tuple:
        each = [_check(part) for part in inner]
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(each)
            and all(fits(v) for fits, v in zip(each, value, strict=True))
        )
    if origin is Mapping:
        key, item = map(_check, inner)
        return lambda value: (
            isinstance(value, Mapping) and all(map(key, value)) and all(map(item, value.values()))
        )
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: isinstance(value, hint) and checked(value) is value
    kinds = (int, float) if hint is float else hint
    return lambda value: isinstance(value, kinds)
