"""The report as markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nndiag.findings import Finding, Severity
from nndiag.report.report import Report
from nndiag.report.wording import MARKS, evidence_value, headline, layer_names, plain_text, since, summary


def render_markdown(report: Report) -> str:
    """Headings, one section a finding, tables of evidence; names of layers as inert code."""
    lines = [f"# nndiag: {headline(report.status, report.findings)}", ""]
    lines += [_escape(summary(dict(report.run), len(report.layers))), ""]
    for finding in report.findings:
        if finding.is_active:
            lines += _finding(finding)
    resolved = [finding for finding in report.findings if not finding.is_active]
    if resolved:
        lines += ["## Resolved", ""]
        lines += [f"- {f.rule} {f.name}, {_code(layer_names(f))}: {since(f)}" for f in resolved]
        lines.append("")
    lines += list(_coverage(report))
    return "\n".join(lines).rstrip() + "\n"


def _finding(finding: Finding) -> Iterator[str]:
    mark = MARKS[finding.severity]
    yield f"## {mark} {finding.severity}: {finding.rule} {finding.name}"
    yield ""
    yield f"**Where:** {_code(layer_names(finding))}, {since(finding)}"
    yield ""
    yield _escape(plain_text(finding.message))
    yield ""
    yield f"**What to do:** {_escape(plain_text(finding.recommendation))}"
    yield ""
    if finding.evidence and finding.severity is not Severity.INFO:
        yield "| evidence | value |"
        yield "|---|---|"
        for key, value in finding.evidence.items():
            yield f"| {_escape(plain_text(key, 60))} | {_escape(evidence_value(value))} |"
        yield ""
    for symptom in finding.related:
        yield f"- follows from it: {symptom.rule} {symptom.name} at {_code(layer_names(symptom))}"
    if finding.related:
        yield ""


def _coverage(report: Report) -> Iterator[str]:
    counts = report.coverage.counts()
    yield "## Coverage"
    yield ""
    yield (
        f"{counts['measured']} measured, {counts['not observed']} not observed,"
        f" {counts['not applicable']} not applicable (layers times measures)."
    )
    yield ""
    unseen = [entry for entry in report.coverage if entry.status == "not observed"]
    for entry in unseen[:20]:
        where = _code(plain_text(entry.layer or "the run", 200))
        yield f"- {where}, {entry.measure}: {_escape(plain_text(entry.reason))}"
    if len(unseen) > 20:
        yield f"- and {len(unseen) - 20} more"
    for note in report.coverage.notes[:20]:
        yield f"- {_escape(plain_text(note, 300))}"


def _code(text: str) -> str:
    """Inline code that cannot be closed from within."""
    return "`" + text.replace("`", "'").replace("|", "¦") + "`"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
