"""The tape: the top-level module calls of one training step, and the operations between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nndiag.observe.values import Slot, map_leaves, slots


class Context(NamedTuple):
    """What surrounded an operation: it is replayed under the same."""

    device: str
    autocast: bool
    autocast_dtype: torch.dtype
    default_dtype: torch.dtype


@dataclass
class Operation:
    """A module call, or an operation of the user's step between two of them."""

    kind: Literal["call", "glue"]
    name: str
    target: Callable[..., Any]
    inputs: Any
    outputs: Any
    writes: set[int]
    context: Context


@dataclass
class Leaf:
    """A tensor that the replay starts from: data of the step.

    ``is_stale``: it came from the model by a road the recorder did not see; downstream of it the replay sees
    the value of the recorded step.
    """

    value: Tensor
    version: int | None
    requires_grad: bool
    is_stale: bool


class StridedView(NamedTuple):
    """A view of another slot's tensor."""

    base: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass
class Tape:
    """A recorded step.

    ``live`` slots are parameters and buffers, looked up by owner and key at each replay; ``leaves`` are data
    of the step; ``views`` are views of other slots; everything else is computed anew.
    """

    root: nn.Module
    operations: list[Operation] = field(default_factory=list)
    leaves: dict[int, Leaf] = field(default_factory=dict)
    live: dict[int, tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    views: dict[int, StridedView] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    @property
    def calls(self) -> list[str]:
        """Names of the modules called, in order."""
        return [operation.name for operation in self.operations if operation.kind == "call"]

    @property
    def stale_calls(self) -> list[str]:
        """Names of the calls whose input is frozen at the recorded step."""
        stale = {number for number, leaf in self.leaves.items() if leaf.is_stale}
        return [o.name for o in self.operations if o.kind == "call" and self._roots(o.inputs) & stale]

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for two recordings of the same program."""
        return tuple((o.name, tuple(sorted(slots(o.inputs)))) for o in self.operations), tuple(
            sorted(self.leaves)
        )

    def nbytes(self) -> int:
        """Memory of all leaves."""
        return sum(leaf.value.numel() * leaf.value.element_size() for leaf in self.leaves.values())

    def cut(self) -> None:
        """Keeps the calls and what they need, going backwards from the last."""
        needed: set[int] = set()
        kept = []
        for operation in reversed(self.operations):
            is_wanted = operation.kind == "call" and not isinstance(operation.target, nn.modules.loss._Loss)
            if is_wanted or (slots(operation.outputs) | operation.writes) & needed:
                kept.append(operation)
                needed |= self._with_bases(slots(operation.inputs))
        self.operations = kept[::-1]
        self.leaves = {number: leaf for number, leaf in self.leaves.items() if number in needed}
        self._renumber()

    def _renumber(self) -> None:
        """Numbers slots as they appear: what was cut away must not tell two recordings of one program apart."""
        numbers: dict[int, int] = {}

        def renumbered(slot: Slot) -> Slot:
            for number in (slot.number, *self._with_bases({slot.number})):
                numbers.setdefault(number, len(numbers))
            return Slot(numbers[slot.number])

        for operation in self.operations:
            operation.inputs = map_leaves(renumbered, operation.inputs, Slot)
            operation.outputs = map_leaves(renumbered, operation.outputs, Slot)
            operation.writes = {numbers[number] for number in operation.writes if number in numbers}
        self.leaves = {numbers[number]: leaf for number, leaf in self.leaves.items()}
        self.live = {numbers[n]: place for n, place in self.live.items() if n in numbers}
        self.views = {
            numbers[n]: view._replace(base=numbers[view.base])
            for n, view in self.views.items()
            if n in numbers
        }

    def _with_bases(self, numbers: set[int]) -> set[int]:
        found = set(numbers)
        for number in numbers:
            base = number
            while base in self.views:
                base = self.views[base].base
                found.add(base)
        return found

    def _roots(self, value: Any) -> set[int]:
        return self._with_bases(slots(value))
