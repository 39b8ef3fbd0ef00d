"""What differs between two checkpoints or two recorded runs, and how it is said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nndiag.findings import Scalar, Severity, plain
from nndiag.report import plain_text
from nndiag.report.inert import plain_name

SCHEMA_VERSION = 1

Status = Literal["added", "removed", "reshaped", "changed", "reordered", "same", "not compared"]

_MOST_SHOWN = 40


@dataclass(frozen=True, slots=True)
class LayerChange:
    """How one layer of the second differs from that of the first.

    Attributes:
        layer: Its name.
        status: "reordered": the same units in another order, as far as their norms tell.
        change: At least this is |dW| / |W|, whatever the order of units; None where nothing could be compared.
        compared: What was compared: "norms of units", "norms of parameters", or "" for nothing.
        detail: Shapes, where these differ.
    """

    layer: str
    status: Status
    change: float | None = None
    compared: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FindingChange:
    """A finding that holds of one of the two only.

    Attributes:
        rule: Id of the rule.
        name: Name of the rule.
        severity: Of the finding where it holds.
        layers: The layers it holds of there, and not in the other; empty: the run.
    """

    rule: str
    name: str
    severity: Severity
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What differs between two checkpoints or two recorded runs.

    Attributes:
        first: Name of the first.
        second: Name of the second.
        layers: Every layer of either, in the order of the first.
        appeared: Findings of the second that the first does not have.
        resolved: Findings of the first that the second does not have.
        facts: Step and source of each.
        notes: What a reader should know.
    """

    first: str
    second: str
    layers: tuple[LayerChange, ...] = ()
    appeared: tuple[FindingChange, ...] = ()
    resolved: tuple[FindingChange, ...] = ()
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain types, with ``schema_version``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "first": self.first,
            "second": self.second,
            "layers": [
                {name: plain(getattr(change, name)) for name in LayerChange.__slots__}
                for change in self.layers
            ],
            "appeared": [_row(change) for change in self.appeared],
            "resolved": [_row(change) for change in self.resolved],
            "facts": plain(dict(self.facts)),
            "notes": list(self.notes),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The comparison as JSON; also written to ``path`` when given."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _row(change: FindingChange) -> dict[str, Any]:
    return {
        "rule": change.rule,
        "name": change.name,
        "severity": str(change.severity),
        "layers": list(change.layers),
    }


def _lines(found: Comparison) -> Iterator[str]:
    """Structure first, then findings, then layers, the most changed first."""
    yield f"nndiag: {plain_text(found.first, 500)} -> {plain_text(found.second, 500)}"
    for status in ("added", "removed", "reshaped"):
        for change in (each for each in found.layers if each.status == status):
            detail = f" ({plain_text(change.detail, 300)})" if change.detail else ""
            yield f"  {status}: {plain_name(change.layer)}{detail}"
    for word, changes in (("appeared", found.appeared), ("resolved", found.resolved)):
        for finding in changes:
            where = ", ".join(plain_name(layer) for layer in finding.layers[:8]) or "the run"
            yield f"  {word}: {finding.severity} {finding.name} {finding.rule} at {where}"
    if not found.appeared and not found.resolved:
        yield "  findings: the same"
    yield from _moved(found)
    for note in found.notes:
        yield f"  note: {plain_text(note, 300)}"


def _moved(found: Comparison) -> Iterator[str]:
    moved = [each for each in found.layers if each.status in ("changed", "reordered")]
    moved.sort(key=lambda each: -(each.change or 0.0))
    if moved:
        yield "  relative change, at least:"
    for change in moved[:_MOST_SHOWN]:
        order = ", units in another order" if change.status == "reordered" else ""
        yield f"    {change.change or 0.0:8.2g}  {plain_name(change.layer)} (by {change.compared}{order})"
    if len(moved) > _MOST_SHOWN:
        yield f"    and {len(moved) - _MOST_SHOWN} more layers"
    same = sum(each.status == "same" for each in found.layers)
    if same:
        yield f"  {same} layer{'s' * (same > 1)} the same"
