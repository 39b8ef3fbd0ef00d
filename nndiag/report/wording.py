"""The words of a report, shared by all its faces: terminal, markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from nndiag.findings import Coverage, Finding, Scalar, Severity
from nndiag.report.inert import plain_name, plain_text

if TYPE_CHECKING:
    from nndiag.report.report import Report

MARKS: Mapping[str, str] = {"critical": "■", "warning": "▲", "info": "●", "resolved": "✓", "ok": "✓"}
"""A shape for each word: color alone says nothing to many readers."""

_CHECK = "It worked when "
"""With these words rules begin the sentence that says how to see that their advice worked."""


def headline(report: Report) -> str:
    """How many findings of each severity are active; symptoms count with their cause."""
    active = [finding.severity for finding in report.findings if finding.is_active]
    notes = active.count(Severity.INFO)
    parts = [f"{active.count(Severity.CRITICAL)} critical"] if Severity.CRITICAL in active else []
    if warnings := active.count(Severity.WARNING):
        parts.append(f"{warnings} warning{'s' * (warnings > 1)}")
    if not parts:
        parts.append("no warnings" if report.readings else "nothing was measured")
    if notes:
        parts.append(f"{notes} note{'s' * (notes > 1)}")
    return ", ".join(parts)


def summary(report: Report) -> str:
    """What the headline rests on: layers, visits, steps, the probe, the share of time."""
    run, layers = report.run, len(report.layers)
    parts = [f"{layers} layer{'s' * (layers != 1)}"] if layers else []
    if isinstance(run.get("visits"), int):
        parts.append(f"{run['visits']} visit{'s' * (run['visits'] != 1)}")
    last = run.get("last_step")
    if isinstance(last, int) and last >= 0:
        parts.append(f"last step {last:,}")
    if run.get("probe"):
        parts.append(f"probe {plain_text(run['probe'], 80)}")
    if isinstance(run.get("overhead"), float):
        seconds = run.get("overhead_seconds")
        spent = f"{_duration(seconds)} or " if isinstance(seconds, float) else ""
        parts.append(f"{spent}{run['overhead']:.1%} of the time")
    if run.get("is_complete") is False:
        parts.append("the record stops before the run ended")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"


def places(finding: Finding, most: int = 4) -> list[str]:
    """The first layers of a finding, and how many more there are."""
    names = [plain_name(name) for name in finding.layers[:most]] or [plain_name(None)]
    rest = len(finding.layers) - most
    return [*names, f"{rest} more"] if rest > 0 else names


def where(finding: Finding, most: int = 4) -> str:
    """The layers of a finding in a few words."""
    *others, last = places(finding, most)
    return f"{', '.join(others)} and {last}" if others else last


def since(finding: Finding) -> str:
    """When it began, as exactly as the visits can tell, and until when it was seen."""
    clean = finding.last_clean_step
    seen = "never seen clean" if clean is None else f"clean at step {clean:,}"
    if not finding.is_active:
        return f"from step {finding.first_step:,} to {finding.last_step:,} ({seen} before), resolved"
    last = f", last seen at step {finding.last_step:,}" if finding.last_step > finding.first_step else ""
    return f"since step {finding.first_step:,} ({seen}){last}"


def number(value: Scalar) -> str:
    """A value with as many digits as a person reads."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return plain_text("unknown" if value is None else value, 300)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def evidence(finding: Finding) -> list[tuple[str, str]]:
    """The value that was judged, its threshold, and the facts beside it."""
    rows: list[tuple[str, Scalar]] = []
    if finding.value is not None:
        rows.append(("value judged", float(finding.value)))
    if finding.value is not None and finding.threshold is not None:
        rows.append(("threshold", float(finding.threshold)))
    rows += [(key.replace("_", " "), value) for key, value in finding.evidence.items() if value is not None]
    return [(plain_text(key, 60), number(value)) for key, value in rows]


def symptoms(finding: Finding, depth: int = 0) -> Iterator[tuple[int, Finding]]:
    """What follows from a finding, and from that in turn; how far below the first it stands."""
    for symptom in finding.related:
        yield depth, symptom
        yield from symptoms(symptom, depth + 1)


def advice(finding: Finding) -> tuple[str, str]:
    """What to do, and how to see that it worked ("" where the rule does not say)."""
    change, _, check = finding.recommendation.partition(_CHECK)
    return change.strip(), check[:1].upper() + check[1:]


class Unseen(NamedTuple):
    """Layers that a measure could not see, for one reason."""

    measure: str
    reason: str
    layers: tuple[str, ...]


def unseen(coverage: Coverage) -> list[Unseen]:
    """What was not observed, by measure and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in coverage:
        if entry.status == "not observed":
            groups.setdefault((entry.measure, entry.reason), []).append(plain_name(entry.layer))
    return [
        Unseen(plain_text(measure), plain_text(reason or "no reason known", 300), tuple(layers))
        for (measure, reason), layers in groups.items()
    ]


def coverage_counts(coverage: Coverage) -> dict[str, dict[str, int]]:
    """Layers by measure and status."""
    tables: dict[str, dict[str, int]] = {}
    for entry in coverage:
        counts = {"measured": 0, "not observed": 0, "not applicable": 0}
        tables.setdefault(plain_text(entry.measure), counts)[entry.status] += 1
    return tables
