"""A reading: what is taken of one kind of layer, when, for which need, by which observers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nndiag.layers import Role
from nndiag.measures import Need

Observer = Literal["probe", "stream"]
Variant = Literal["", "batch"]
"""How a replay differs from evaluation: not at all, or by normalization with the batch's own statistics."""


@dataclass(frozen=True)
class Reader:
    """One row of the table.

    Attributes:
        need: What a measure must ask for to have it taken.
        roles: Of which layers.
        when: Before the call (its input may be overwritten by it), or after.
        read: Takes the ``TapReader``, the call, the layer, and the output (None before the call).
        observers: Who may take it: some things are too dear, or not allowed, in a training step.
        variants: In which replays.
        runs_model: Whether it runs code of the model's, which a replay must then see.
    """

    need: Need
    roles: frozenset[Role]
    when: Literal["before", "after"]
    read: Callable[..., None]
    observers: frozenset[Observer] = frozenset(("probe",))
    variants: frozenset[Variant] = frozenset(("",))
    runs_model: bool = False

    def applies(self, role: Role, when: str, observer: str, variant: str) -> bool:
        """Whether this row is due."""
        return (
            self.when == when
            and role in self.roles
            and observer in self.observers
            and variant in self.variants
        )
