"""The nouns of a diagnosis: severity, reading, coverage, finding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Scalar = float | int | str | bool | None


class Severity(StrEnum):
    """How much a finding matters.

    ``critical``: the network will not train, or its results are wrong. ``warning``: likely harm, with
    measured evidence. ``info``: worth knowing.
    """

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one measure, for one layer (or the run) at one step.

    ``resolution`` is the smallest difference this number can show (same unit as ``value``); ``n`` counts the
    independent samples behind it; ``units`` holds the value of each unit where that is of use; ``detail``
    holds plain facts that a rule or a person needs beside the number.
    """

    measure: str
    name: str
    layer: str | None
    step: int
    value: float
    resolution: float | None = None
    n: int | None = None
    units: tuple[float, ...] | None = None
    detail: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """``nndiag/<measure>/<reading>``."""
        return f"nndiag/{self.measure}/{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types; absent fields are left out, non-finite numbers become strings."""
        record: dict[str, Any] = {"measure": self.measure, "name": self.name, "layer": self.layer}
        record |= {"step": self.step, "value": plain_number(self.value)}
        optional = {"resolution": self.resolution, "n": self.n, "detail": dict(self.detail) or None}
        record |= {key: plain(value) for key, value in optional.items() if value is not None}
        if self.units is not None:
            record["units"] = [plain_number(unit) for unit in self.units]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Reading:
        """The inverse of ``to_dict``."""
        units = record.get("units")
        return cls(
            record["measure"],
            record["name"],
            record["layer"],
            int(record["step"]),
            float(record["value"]),
            number(record.get("resolution")),
            record.get("n"),
            None if units is None else tuple(float(unit) for unit in units),
            numbers(record.get("detail", {})),
        )


CoverageStatus = Literal["measured", "not observed", "not applicable"]


@dataclass(frozen=True, slots=True)
class CoverageEntry:
    """What one measure could see of one layer (``layer=None``: of the run), and why not more."""

    layer: str | None
    measure: str
    status: CoverageStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was measured, what was not observed and why. "Not observed" never means "dead"."""

    entries: tuple[CoverageEntry, ...] = ()
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[CoverageEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def of(self, layer: str | None, measure: str) -> CoverageEntry | None:
        """The entry of one layer and measure, or None when neither is known."""
        return next((e for e in self.entries if e.layer == layer and e.measure == measure), None)

    def counts(self) -> dict[str, int]:
        """Number of entries by status."""
        totals = {"measured": 0, "not observed": 0, "not applicable": 0}
        for entry in self.entries:
            totals[entry.status] += 1
        return totals

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        rows = [
            {"layer": e.layer, "measure": e.measure, "status": e.status, "reason": e.reason}
            for e in self.entries
        ]
        return {"entries": rows, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Coverage:
        """The inverse of ``to_dict``."""
        return cls(tuple(CoverageEntry(**row) for row in record["entries"]), tuple(record["notes"]))


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that speaks for one cause, with all its layers, its evidence and its remedy."""

    rule: str
    name: str
    measure: str
    severity: Severity
    layers: tuple[str, ...]
    first_step: int
    last_clean_step: int | None
    last_step: int
    status: Literal["active", "resolved"]
    value: float | None
    threshold: float | None
    message: str
    recommendation: str
    evidence: Mapping[str, Scalar] = field(default_factory=dict)
    related: tuple[Finding, ...] = ()

    @property
    def layer(self) -> str | None:
        """The first of ``layers``: the worst or the earliest one."""
        return self.layers[0] if self.layers else None

    @property
    def is_active(self) -> bool:
        """Whether the finding still holds at ``last_step``."""
        return self.status == "active"

    def walk(self) -> Iterator[Finding]:
        """This finding and every symptom grouped under it."""
        yield self
        for symptom in self.related:
            yield from symptom.walk()

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        record: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        record["severity"] = str(self.severity)
        record["layers"] = list(self.layers)
        record["value"], record["threshold"] = plain(self.value), plain(self.threshold)
        record["evidence"] = plain(dict(self.evidence))
        record["related"] = [symptom.to_dict() for symptom in self.related]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Finding:
        """The inverse of ``to_dict``."""
        fields = {name: record[name] for name in _PLAIN_FIELDS}
        fields["severity"] = Severity(record["severity"])
        fields["layers"] = tuple(record["layers"])
        fields["value"] = None if record["value"] is None else float(record["value"])
        fields["threshold"] = None if record["threshold"] is None else float(record["threshold"])
        fields["evidence"] = numbers(record["evidence"])
        fields["related"] = tuple(cls.from_dict(symptom) for symptom in record["related"])
        return cls(**fields)


_PLAIN_FIELDS = (
    *("rule", "name", "measure", "first_step", "last_clean_step", "last_step"),
    *("status", "message", "recommendation"),
)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The highest severity among active findings and their symptoms."""
    active = [f.severity for finding in findings for f in finding.walk() if f.is_active]
    return max(active, key=lambda severity: severity.rank, default=None)


def plain_number(value: float) -> float | str:
    """JSON has no NaN or infinity: they become the strings "nan", "inf", "-inf"."""
    return value if math.isfinite(value) else str(float(value))


def number(value: Any) -> Any:
    """The inverse of ``plain_number``; anything but its three strings stays as it is."""
    return float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value


def numbers(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``plain`` on plain facts."""
    return {key: number(value) for key, value in facts.items()}


def plain(value: Any) -> Any:
    """A JSON-safe copy of nested numbers, strings, mappings and sequences."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, int):
        return value
    return plain_number(float(value))
