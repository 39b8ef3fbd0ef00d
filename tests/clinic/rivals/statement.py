"""What a tool says about a run, whatever the tool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Statement:
    """One finding of a tool, in its own words.

    Attributes:
        kind: The tool's name for what it found: a rule, a detector, a title.
        text: Its sentence.
        level: Its severity, on nndiag's scale.
        layers: The modules or parameters it names.
    """

    kind: str
    text: str
    level: Level = "warning"
    layers: tuple[str, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether a reader is told that something is wrong."""
        return self.level != "info"

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Statement:
        """From plain types."""
        return cls(record["kind"], record["text"], record["level"], tuple(record["layers"]))


def once(statements: Iterable[Statement]) -> list[Statement]:
    """The first statement of each kind about each place: what is said at every step counts once."""
    first: dict[tuple[str, tuple[str, ...]], Statement] = {}
    for statement in statements:
        first.setdefault((statement.kind, statement.layers), statement)
    return list(first.values())
