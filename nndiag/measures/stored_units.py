"""What checkpoints say of units that are multiples of each other: w and 2 w, which a ReLU makes one."""

from __future__ import annotations

from nndiag.snapshot import Snapshot

_SCALED = "multiples of other units: "


def scaled_fact(layer: str) -> str:
    """The name of the fact that counts them."""
    return f"{_SCALED}{layer}"


def scaled_copies(now: Snapshot, layer: str) -> int:
    """Units that are a positive multiple of another one, and not equal to one."""
    found = now.facts.get(scaled_fact(layer), 0)
    return found if isinstance(found, int) else 0
