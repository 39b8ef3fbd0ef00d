"""First looks at the check half, one a round; a program that was missed moves to the tuning half."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("rounds.json")


@functools.cache
def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return kept


def rounds() -> tuple[dict[str, Any], ...]:
    """What was seen at each first look: marks, and the programs missed or accused."""
    return tuple(_kept()["rounds"])


def public() -> frozenset[str]:
    """The first programs, which rules were written with: they guard against what is broken."""
    return frozenset(_kept()["looked_at"])


@functools.cache
def moved() -> frozenset[str]:
    """Programs that are in the tuning half whatever their hash: looked at before, or missed at a first look."""
    return public() | {name for each in rounds() for name in each["missed"]}


def add(record: dict[str, Any]) -> None:
    """Keeps a first look; its programs count as looked at from then on, in later processes."""
    kept = _kept() | {"rounds": [*rounds(), record]}
    FILE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
