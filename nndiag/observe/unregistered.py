"""Parameters in plain lists, tuples and dicts of a module: autograd finds them, and no optimizer ever hears of them.

``parameters()`` lists what modules have registered; a plain list registers nothing. A network that is kept there on
purpose (a frozen teacher, an average of weights) gets no gradients, or is stepped by someone else.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_OWN = frozenset(("_parameters", "_buffers", "_modules"))
_COMPARED = 64
"""Entries that are compared where the version says that nobody has written."""


class Unregistered:
    """What a model holds without having registered it, and how it was when it first got a gradient."""

    def __init__(self, root: nn.Module) -> None:
        known = {id(parameter) for parameter in root.parameters()}
        self._held: dict[str, weakref.ref[nn.Parameter]] = {}
        for name, parameter in _held(root):
            if id(parameter) not in known:
                known.add(id(parameter))  # two attributes may hold it
                self._held[name] = weakref.ref(parameter)
        self._first: dict[str, tuple[int, Tensor]] = {}

    @property
    def had_gradients(self) -> bool:
        """Whether any of them ever got one."""
        return bool(self._first)

    def still(self) -> dict[str, int]:
        """Those that get gradients and have never been changed: their names, and how many numbers each has."""
        found = {}
        for name, reference in list(self._held.items()):
            parameter = reference()
            if parameter is None or parameter.grad is None:
                continue
            start = parameter.detach().flatten()[:_COMPARED]
            version, before = self._first.setdefault(name, (parameter._version, start.clone()))
            if version != parameter._version or not torch.equal(before, start):
                del self._held[name]  # somebody steps it
                continue
            found[name] = parameter.numel()
        return found


def _held(root: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trainable parameters in containers that are attributes: ``blocks.0.heads[1].weight``."""
    for prefix, module in root.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _OWN:
                continue
            path = f"{prefix}.{attribute}" if prefix else attribute
            for place, item in _items(value):
                name = f"{path}[{place!r}]"
                if isinstance(item, nn.Module):
                    inner = ((f"{name}.{own}", parameter) for own, parameter in item.named_parameters())
                    yield from ((own, parameter) for own, parameter in inner if parameter.requires_grad)
                elif isinstance(item, nn.Parameter) and item.requires_grad:
                    yield name, item


def _items(value: Any) -> Iterable[tuple[object, object]]:
    """Of plain containers only: to walk through another kind may run code of the user's."""
    kind = type(value)
    if kind in (list, tuple):
        return enumerate(value)
    items: Iterable[tuple[object, object]] = value.items() if kind in (dict, OrderedDict) else ()
    return items
