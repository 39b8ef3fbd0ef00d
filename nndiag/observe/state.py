"""What a forward pass may change besides its output: taken before a replay, put back after it.

Attributes and slots of modules and of the objects they hold, containers, buffers, which gradient a parameter
has, generators, closure cells, class attributes and module globals that the model's own code names. A subclass of
a container may compute what it returns, and putting that back would destroy it: what it holds is read and
written past it, by the builtin type's methods, and only where it changed.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
import random
import types
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nndiag.observe.values import ATOMS, Refused, map_leaves, same

_LIBRARIES = frozenset(
    "nndiag torch lightning pytorch_lightning lightning_fabric torchmetrics builtins abc typing collections".split()
)
_NOT_OURS = _LIBRARIES | {"logging", "threading", "_thread"}
_DICTS = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)
_BOXES = (list, set, collections.deque, bytearray, np.ndarray)
_BUILTINS = (collections.OrderedDict, dict, list, set, collections.deque, bytearray)
_NAMED = (int, float, list, dict, set, Tensor)
_SKIPPED = frozenset({"_trainer", "_fabric", "trainer"})
_PLAIN = frozenset({bool, int, float, str, type(None)})
_TABLES = frozenset({"_parameters", "_buffers"})
_DEPTH = 4
_DECORATED = contextlib.ContextDecorator()(len).__code__
"""Code of every function that a context manager decorates."""


@dataclass
class Pin:
    """A piece of state that replays change, held at its value of certification during every replay."""

    kind: Literal["item", "box", "tensor", "cell", "attribute"]
    owner: Any
    key: Any
    value: Any
    path: str


class State:
    """A snapshot of everything that can be put back.

    Args:
        root: The model.
        parameters: Whether parameter values are copied too.
    """

    def __init__(self, root: nn.Module, parameters: bool) -> None:
        self.iterators: list[str] = []
        self._parameters = parameters
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any], str]] = []
        self._boxes: list[tuple[Any, Any, str]] = []
        self._tensors: list[tuple[Tensor, Tensor | None, int, Tensor, str]] = []
        self._generators: list[tuple[Callable[[Any], Any], Any]] = []
        self._cells: list[tuple[Any, Any, str]] = []
        self._attributes: list[tuple[Any, str, Any, str]] = []
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []
        self._written: set[int] = set()
        modules = list(root.modules())
        self._seen = {id(module) for module in modules}
        for name, module in root.named_modules():
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
                self._walk(getattr(hook, "__self__", None), f"{name}.<hook>", 2)
                self._seen.add(id(hook))
                self._function(hook, f"a hook of {name}" if name else "a hook")
            self._object(module, name, 0)
        for kind in {kind for module in modules for kind in type(module).__mro__}:
            if kind.__module__.partition(".")[0] not in _LIBRARIES:
                self._class(kind)

    def note_writes(self, storages: Collection[int]) -> None:
        """Compares tensors in memory that was written, before a write barrier takes the writes back."""
        for number, (tensor, old, *_) in enumerate(self._tensors):
            is_written = old is not None and tensor.untyped_storage()._cdata in storages
            if is_written and old is not None and not same(tensor.detach(), old):
                self._written.add(number)

    def restore(self) -> tuple[list[str], list[Pin]]:
        """Puts everything back.

        Returns:
            What had changed, and the pins that would hold it.
        """
        pins: list[Pin] = []
        self._restore_dicts(pins)
        self._restore_boxes(pins)
        changed = self._restore_tensors(pins)
        for parameter, gradient in self._gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        for setter, value in self._generators:
            setter(value)
        for cell, value, path in self._cells:
            if cell.cell_contents is not value:
                pins.append(Pin("cell", cell, None, value, path))
                cell.cell_contents = value
        for owner, key, value, path in self._attributes:
            if _get(owner, key) is not value:
                pins.append(Pin("attribute", owner, key, value, path))
                _put(owner, key, value)
        for pin in pins:  # copied only now: before, a nested container still held what the replay put there
            pin.value = _copied(pin.value)
        return [*changed, *(pin.path for pin in pins)], pins

    def _restore_dicts(self, pins: list[Pin]) -> None:
        for held, old, path in self._dicts:
            if not old and not dict.__len__(held):
                continue
            now = _items(held)
            has_same_keys = _identical(now, old)
            if has_same_keys and _identical(now.values(), old.values()):
                continue
            kind = _builtin(held)
            for key in {**now, **old}:
                is_same = key in now and key in old and now[key] is old[key]
                if key == "training" or is_same:
                    continue
                pins.append(Pin("item", held, key, old.get(key, _ABSENT), _inside(path, key)))
            if not has_same_keys:
                kind.clear(held)
                now = {}
            for key, value in old.items():
                if key not in now or now[key] is not value:
                    kind.__setitem__(held, key, value)

    def _restore_boxes(self, pins: list[Pin]) -> None:
        for box, old, path in self._boxes:
            if not _equal_boxes(box, old):
                pins.append(Pin("box", box, None, old, path))
                _fill(box, old)

    def _restore_tensors(self, pins: list[Pin]) -> list[str]:
        rebound = []
        for number, (tensor, old, pointer, alias, path) in enumerate(self._tensors):
            if tensor.data_ptr() != pointer or tensor.shape != alias.shape:
                rebound.append(f"{path} was given other memory")
                tensor.data = alias
            if old is None:
                continue
            is_other = not same(tensor.detach(), old)
            if is_other:
                tensor.data.copy_(old)  # through .data: no version counter moves
            if (is_other or number in self._written) and not isinstance(tensor, nn.Parameter):
                pins.append(Pin("tensor", tensor, None, old, path))  # parameters follow the training
        return rebound

    def _object(self, owner: Any, path: str, depth: int) -> None:
        attributes = owner.__dict__
        self._dicts.append((attributes, _items(attributes), path))
        self._seen.add(id(attributes))
        for key, value in list(dict.items(attributes)):
            if key in _TABLES and isinstance(owner, nn.Module) and isinstance(value, dict):
                self._walk_items(value, path, depth + 1)
            elif key not in _SKIPPED:
                self._walk(value, _inside(path, key), depth + 1)

    def _walk_items(self, table: dict[str, Any], path: str, depth: int) -> None:
        """Parameters and buffers, as if they were the attributes that they are to the user."""
        self._seen.add(id(table))
        self._dicts.append((table, _items(table), path))
        for key, value in list(table.items()):
            self._walk(value, _inside(path, key), depth + 1)

    def _walk(self, value: Any, path: str, depth: int) -> None:
        kind = type(value)
        if (
            kind in _PLAIN or kind in weakref.ProxyTypes
        ):  # a proxy may be dead, and what it stands for is another's
            return
        if kind is types.FunctionType and id(value) not in self._seen and _is_users(value):
            self._seen.add(id(value))
            self._function(value, path)
        if kind is types.MethodType:
            value = value.__self__
            kind = type(value)
        if id(value) in self._seen or depth > _DEPTH or isinstance(value, ATOMS):
            return
        self._seen.add(id(value))
        is_users = _is_users(kind)
        if isinstance(value, Tensor):
            self._tensor(value, path)
        elif kind in _BOXES or (is_users and isinstance(value, _BOXES)):
            self._box(value, path, depth)
        elif kind in _DICTS or (is_users and isinstance(value, dict)):
            items = _items(value)
            self._dicts.append((value, items, path))
            for key, item in items.items():
                self._walk(item, f"{path}[{key}]", depth + 1)
        elif isinstance(value, tuple):
            for item in value:
                self._walk(item, f"{path}[]", depth + 1)
        elif isinstance(value, functools.partial):
            for item in (value.func, *value.args, *value.keywords.values()):
                self._walk(item, path, depth + 1)
        elif not self._generator(value) and hasattr(value, "__next__"):
            self.iterators.append(path)
        if is_users and not isinstance(value, nn.Module):
            self._slots(value, path, depth)
            if hasattr(value, "__dict__"):
                self._object(value, path, depth)

    def _box(self, box: Any, path: str, depth: int) -> None:
        held = _content(box)
        self._boxes.append((box, held, path))
        for item in held[:4096] if isinstance(held, list) else ():
            self._walk(item, f"{path}[]", depth + 1)

    def _slots(self, owner: Any, path: str, depth: int) -> None:
        """Attributes of an object that are not in its ``__dict__``."""
        for kind in type(owner).__mro__:
            for key, member in vars(kind).items() if "__slots__" in vars(kind) else ():
                if isinstance(member, types.MemberDescriptorType) and hasattr(owner, key):
                    value = getattr(owner, key)
                    self._attributes.append((owner, key, value, f"{path}.{key}"))
                    self._walk(value, f"{path}.{key}", depth + 1)

    def _tensor(self, tensor: Tensor, path: str) -> None:
        unborn = isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer))
        if unborn or tensor.is_meta or tensor.is_nested or tensor.layout != torch.strided:
            return
        if isinstance(tensor, nn.Parameter):
            self._gradients.append((tensor, tensor.grad))
        copied = self._parameters or not isinstance(tensor, nn.Parameter)
        value = tensor.detach().clone() if copied else None
        self._tensors.append((tensor, value, tensor.data_ptr(), tensor.detach(), path))

    def _generator(self, value: Any) -> bool:
        """Random number generators are kept by their state."""
        if isinstance(value, (torch.Generator, np.random.RandomState)):
            self._generators.append((value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._generators.append((value.setstate, value.getstate()))
        elif isinstance(value, np.random.Generator):
            bits = value.bit_generator

            def set_state(state: Any) -> None:
                bits.state = state

            self._generators.append((set_state, bits.state))
        else:
            return False
        return True

    def _function(self, function: Any, path: str) -> None:
        """Closure cells, default arguments, and the globals that the code names."""
        for cell in getattr(function, "__closure__", None) or ():
            try:
                value = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._cells.append((cell, value, f"a closure of {path}"))
            for part in _made_of(value) if getattr(function, "__code__", None) is _DECORATED else (value,):
                self._walk(part, f"a closure of {path}", 3)
        named = getattr(function, "__kwdefaults__", None) or {}
        for value in (*(getattr(function, "__defaults__", None) or ()), *named.values()):
            self._walk(value, f"a default of {path}", 3)
        for name in getattr(getattr(function, "__code__", None), "co_names", ()):
            value = function.__globals__.get(name)
            if type(value) in _NAMED and not name.startswith("__"):
                self._attributes.append((function.__globals__, name, value, f"global {name}"))
                self._walk(value, f"global {name}", 3)

    def _class(self, kind: type) -> None:
        for key, value in list(vars(kind).items()):
            if callable(getattr(value, "__code__", None)) or hasattr(value, "__code__"):
                self._function(value, kind.__name__)
            elif not key.startswith("__") and type(value) in _NAMED:
                self._attributes.append((kind, key, value, f"{kind.__name__}.{key}"))
                self._walk(value, f"{kind.__name__}.{key}", 3)


_ABSENT = object()


def _is_users(kind: Any) -> bool:
    """Whether a class or function is of no library that is known to keep no state of a model's."""
    return str(kind.__module__).partition(".")[0] not in _NOT_OURS


def _made_of(manager: Any) -> Collection[Any]:
    """A manager made of a generator is made anew at each call of what it decorates: its own one is never read."""
    parts = getattr(manager, "__dict__", {})
    return [part for key, part in parts.items() if key != "gen"] if "gen" in parts else (manager,)


def _inside(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _builtin(container: Any) -> Any:
    """The builtin type whose methods read and write what a container holds."""
    return next(kind for kind in _BUILTINS if isinstance(container, kind))


def _items(held: Any) -> dict[Any, Any]:
    """What a dictionary holds, in its own order, past any method of a subclass."""
    if type(held) is dict:
        return held.copy()
    if not dict.__len__(held):  # the many hook tables of every module
        return {}
    return {key: dict.__getitem__(held, key) for key in _builtin(held).__iter__(held)}


def _identical(now: Collection[Any], old: Collection[Any]) -> bool:
    """Whether two collections give the same objects in the same order; they need not be comparable."""
    return len(now) == len(old) and all(map(operator.is_, now, old))


def _content(box: Any) -> Any:
    """A copy of what a box holds; a list for sequences of objects."""
    if isinstance(box, np.ndarray):
        return box.copy()
    if isinstance(box, (list, collections.deque)):
        return list(_builtin(box).__iter__(box))
    return _builtin(box).copy(box)


def install(pins: list[Pin]) -> None:
    """Sets pinned state to its value at certification, so that two visits differ by the weights only."""
    for pin in pins:
        value = _copied(pin.value)
        if pin.kind == "item" and value is _ABSENT:
            if dict.__contains__(pin.owner, pin.key):
                _builtin(pin.owner).__delitem__(pin.owner, pin.key)
        elif pin.kind == "item":
            _builtin(pin.owner).__setitem__(pin.owner, pin.key, value)
        elif pin.kind == "box":
            _fill(pin.owner, value)
        elif pin.kind == "cell":
            pin.owner.cell_contents = value
        elif pin.kind == "attribute":
            _put(pin.owner, pin.key, value)
        elif pin.owner.shape == pin.value.shape:
            pin.owner.data.copy_(pin.value)


def _copied(value: Any) -> Any:
    if value is _ABSENT:
        return value
    try:
        return map_leaves(lambda tensor: tensor.detach().clone(), value)
    except Refused:
        return value


def _equal_boxes(box: Any, old: Any) -> bool:
    if isinstance(box, np.ndarray):
        return bool(box.shape == old.shape and box.tobytes() == old.tobytes())
    now = _content(box)
    if len(now) != len(old):
        return False
    if isinstance(box, (set, bytearray)):
        return bool(now == old)
    return _identical(now, old)


def _fill(box: Any, old: Any) -> None:
    if isinstance(box, np.ndarray):
        box[...] = old
        return
    kind = _builtin(box)
    kind.clear(box)
    if kind is set:
        kind.update(box, old)
    else:
        kind.extend(box, old)


def _get(owner: Any, key: str) -> Any:
    if isinstance(owner, Mapping):
        return owner.get(key)
    return vars(owner).get(key) if isinstance(owner, type) else getattr(owner, key, _ABSENT)


def _put(owner: Any, key: str, value: Any) -> None:
    if isinstance(owner, dict):
        owner[key] = value
    else:
        setattr(owner, key, value)
