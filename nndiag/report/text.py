"""The report on a terminal: rich where colors work, plain text elsewhere, from one description."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from nndiag.findings import Finding, Severity
from nndiag.report.report import Report
from nndiag.report.wording import MARKS, evidence_value, headline, layer_names, plain_text, since, summary

_STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "cyan"}
_WIDTH = 100


def render_rich(report: Report) -> Iterator[RenderableType]:
    """The report as rich renderables."""
    style = "green" if report.status == "ok" else _STYLES[Severity(report.status)]
    title = Text.assemble(("nndiag: ", "bold"), (headline(report.status, report.findings), style))
    yield title
    yield Text(summary(dict(report.run), len(report.layers)), style="dim")
    for finding in report.findings:
        if finding.is_active:
            yield from _finding(finding)
    resolved = [finding for finding in report.findings if not finding.is_active]
    if resolved:
        names = "; ".join(f"{f.rule} {f.name} at {layer_names(f)} ({since(f)})" for f in resolved)
        yield Text(f"\nresolved: {names}", style="dim")
    counts = report.coverage.counts()
    if counts["not observed"]:
        yield Text(f"\n{counts['not observed']} readings could not be taken: see the coverage.", style="dim")


def render_text(report: Report) -> str:
    """The same without colors, at most 100 columns wide."""
    stream = io.StringIO()
    console = Console(file=stream, width=_WIDTH, color_system=None, force_terminal=False, highlight=False)
    for part in render_rich(report):
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def _finding(finding: Finding) -> Iterator[RenderableType]:
    style = _STYLES[finding.severity]
    yield Text.assemble(
        ("\n" + MARKS[finding.severity] + " ", style),
        (f"{finding.severity} ", style),
        (f"{finding.rule} {finding.name}", "bold"),
        f"  {layer_names(finding)}",
        (f"  {since(finding)}", "dim"),
    )
    if finding.severity is Severity.INFO:
        yield _indented(Text(plain_text(finding.message)))
        return
    yield _indented(Text(plain_text(finding.message)))
    yield _indented(Text.assemble(("What to do: ", "bold"), plain_text(finding.recommendation)))
    facts = ", ".join(f"{plain_text(k, 60)} {evidence_value(v)}" for k, v in finding.evidence.items())
    if facts:
        yield _indented(Text(f"Evidence: {facts}", style="dim"))
    for symptom in finding.related:
        yield _indented(Text(f"follows from it: {symptom.rule} {symptom.name} at {layer_names(symptom)}"))


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2))
