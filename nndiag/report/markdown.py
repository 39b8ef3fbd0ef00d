"""The report as markdown, for GitHub, notebooks and TensorBoard's Text tab."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nndiag.findings import Finding
from nndiag.report.inert import plain_name, plain_text, spans
from nndiag.report.report import Report
from nndiag.report.wording import (
    MARKS,
    advice,
    coverage_counts,
    evidence,
    headline,
    places,
    since,
    summary,
    symptoms,
    unseen,
)

_SPECIAL = re.compile(r"[\\`*\[\]<|~&@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=:)//|(?i:(?<=www)\.)")
"""What could open code, emphasis, links, tables, entities or mathematics, or be taken for an address."""

_CODE_NAME = re.compile(r"[A-Za-z0-9_.:/#-]{1,120}")


def render_markdown(report: Report) -> str:
    """An overview; a heading and a table of evidence for each finding; what is resolved, and was not seen."""
    active = [finding for finding in report.findings if finding.is_active]
    lines = [f"# nndiag: {headline(report)}", "", _escape(summary(report)), ""]
    lines += _overview(active)
    for finding in active:
        lines += _finding(finding)
    lines += _resolved(report)
    lines += _coverage(report)
    return "\n".join(lines).rstrip() + "\n"


def _overview(active: list[Finding]) -> Iterator[str]:
    """All of them at a glance: TensorBoard shows a text through a small window."""
    if len(active) < 2:
        return
    yield from ("| severity | finding | where | since step |", "|---|---|---|---|")
    for finding in active:
        name, rule = _title(finding)
        mark = f"{MARKS[finding.severity]} {finding.severity}"
        yield f"| {mark} | {name} ({rule}) | {_where(finding)} | {finding.first_step:,} |"
    yield ""


def _finding(finding: Finding) -> Iterator[str]:
    change, check = advice(finding)
    name, rule = _title(finding)
    yield from (f"## {MARKS[finding.severity]} {finding.severity}: {name} ({rule})", "")
    yield from (f"**Where:** {_where(finding)}", "")
    yield from (f"**When:** {since(finding)}", "")
    yield from (f"**What:** {_prose(finding.message)}", "")
    yield from (f"**What to do:** {_prose(change)}", "")
    if check:
        yield from (f"**How to see that it worked:** {_prose(check)}", "")
    yield from _table("evidence", evidence(finding))
    for depth, symptom in symptoms(finding):
        yield f"{'  ' * depth}- follows from it: {_line(symptom)}"
    if finding.related:
        yield ""


def _table(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if not rows:
        return
    yield from (f"| {title} | value |", "|---|---|")
    for key, value in rows:
        yield f"| {_escape(key)} | {_escape(value)} |"
    yield ""


def _resolved(report: Report) -> Iterator[str]:
    resolved = [finding for finding in report.findings if not finding.is_active]
    if resolved:
        yield from ("## Resolved", "")
        yield from (f"- {_line(finding)}" for finding in resolved)
        yield ""


def _coverage(report: Report) -> Iterator[str]:
    yield from ("## Coverage", "")
    yield from ("| measure | measured | not observed | not applicable |", "|---|---|---|---|")
    for measure, counts in coverage_counts(report.coverage).items():
        yield f"| {_name(measure)} | {' | '.join(str(count) for count in counts.values())} |"
    yield from ("", "Not observed never means dead: nothing is concluded about these layers.", "")
    groups = unseen(report.coverage)
    for group in groups[:20]:
        names = ", ".join(_name(layer) for layer in group.layers[:5])
        more = f" and {len(group.layers) - 5} more" if len(group.layers) > 5 else ""
        yield f"- {_name(group.measure)} of {names}{more}: {_escape(group.reason)}"
    if len(groups) > 20:
        yield f"- and {len(groups) - 20} more reasons"
    for note in report.coverage.notes[:20]:
        yield f"- note: {_prose(note)}"


def _line(finding: Finding) -> str:
    mark = f"{MARKS[finding.severity]} {finding.severity}" if finding.is_active else MARKS["resolved"]
    name, rule = _title(finding)
    return f"{mark} {name} ({rule}) at {_where(finding)}, {since(finding)}"


def _title(finding: Finding) -> tuple[str, str]:
    """Its name and its rule."""
    return _escape(plain_text(finding.name, 60)), _escape(plain_text(finding.rule, 60))


def _where(finding: Finding) -> str:
    return ", ".join(_name(place) for place in places(finding))


def _name(name: str) -> str:
    """An ordinary name as code; any other as escaped text, because code cannot be escaped."""
    return f"`{name}`" if _CODE_NAME.fullmatch(name) else _escape(plain_name(name))


def _prose(text: str) -> str:
    return "".join(f"`{part}`" if is_code else _escape(part) for part, is_code in spans(text))


def _escape(text: str) -> str:
    """Character references mean the same in every dialect of markdown; backslashes do not."""
    return _SPECIAL.sub(lambda found: "".join(f"&#{ord(char)};" for char in found.group()), text)
