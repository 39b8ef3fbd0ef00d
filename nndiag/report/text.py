"""The report on a terminal: with colors where they work, as plain text elsewhere, from one description."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nndiag.findings import Finding, Severity
from nndiag.report.inert import plain_text
from nndiag.report.report import Report
from nndiag.report.wording import MARKS, advice, evidence, headline, since, summary, symptoms, unseen, where

WIDTH = 100
"""Longer lines are hard to read."""

_STYLES = {"critical": "bold red", "warning": "bold yellow", "info": "cyan", "ok": "bold green"}


def render_rich(report: Report) -> RenderableType:
    """The whole report as one rich renderable."""
    active = [finding for finding in report.findings if finding.is_active]
    parts = [_title(report), *(_finding(finding) for finding in active)]
    return Constrain(Group(*parts, *_resolved(report), *_blind(report)), WIDTH)


def render_brief(report: Report) -> RenderableType:
    """What is worth saying unasked at the end of a run: one line, or the findings from warning upward."""
    active = [finding for finding in report.findings if finding.is_active]
    notes = [finding for finding in active if finding.severity is Severity.INFO]
    if report.status == "ok":
        return Constrain(Group(Text.assemble(_title(report), ". ", _named(notes))), WIDTH)
    grave = [_finding(finding) for finding in active if finding not in notes]
    last = [Text.assemble("\n", ("Notes: ", "dim"), _named(notes))] if notes else []
    return Constrain(Group(_title(report), *grave, *last), WIDTH)


def render_text(report: Report) -> str:
    """The whole report without colors, at most 100 columns wide."""
    stream = io.StringIO()
    console = Console(file=stream, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    console.print(render_rich(report))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def _title(report: Report) -> Text:
    style, facts = _STYLES[report.status], summary(report)
    return Text.assemble(
        ("nndiag: ", "bold"), (headline(report), style), (f" ({facts})" if facts else "", "dim")
    )


def _named(notes: list[Finding]) -> Text:
    """Notes by name: their words are in the report."""
    words = (f"{plain_text(f.rule, 20)} {plain_text(f.name, 60)} at {where(f, 2)}" for f in notes)
    return Text("; ".join(words), style="dim")


def _finding(finding: Finding) -> RenderableType:
    style = _STYLES[finding.severity]
    title = Text.assemble(
        (f"\n{MARKS[finding.severity]} {finding.severity}  ", style),
        (plain_text(finding.name, 60), "bold"),
        (f"  {plain_text(finding.rule, 20)}", "dim"),
    )
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, words in _rows(finding):
        table.add_row(label, words)
    return Group(title, Padding(table, (0, 0, 0, 2)))


def _rows(finding: Finding) -> Iterator[tuple[str, Text]]:
    yield "where", Text(where(finding), style="bold")
    yield "when", Text(since(finding))
    yield "what", Text(plain_text(finding.message))
    change, check = advice(finding)
    yield "do", Text(plain_text(change))
    if check:
        yield "check", Text(plain_text(check))
    facts = ", ".join(f"{key} {value}" for key, value in evidence(finding))
    if facts and finding.severity is not Severity.INFO:
        yield "evidence", Text(facts, style="dim")
    for depth, symptom in symptoms(finding):
        yield "follows", Text.assemble("  " * min(depth, 8), *_symptom(symptom))


def _symptom(symptom: Finding) -> Iterator[str]:
    mark = f"{MARKS[symptom.severity]} {symptom.severity} " if symptom.is_active else MARKS["resolved"]
    yield f"{mark} {plain_text(symptom.name, 60)}"
    yield f"  {plain_text(symptom.rule, 20)}  at {where(symptom)}, {since(symptom)}"


def _resolved(report: Report) -> Iterator[RenderableType]:
    for finding in report.findings:
        if not finding.is_active:
            words = f"{plain_text(finding.name, 60)}  {plain_text(finding.rule, 20)}"
            place = f"at {where(finding)}, {since(finding)}"
            yield Text(f"\n{MARKS['resolved']} resolved  {words}  {place}", style="dim")


def _blind(report: Report) -> Iterator[RenderableType]:
    """What could not be seen, said plainly; nothing is concluded from it."""
    groups = unseen(report.coverage)
    if not groups and not report.coverage.notes:
        return
    yield Text("\nNot observed (nothing is concluded about these):", style="dim")
    for group in groups[:12]:
        names = ", ".join(group.layers[:3]) + (f", {len(group.layers) - 3} more" * (len(group.layers) > 3))
        yield Padding(Text(f"{group.measure}: {names}: {group.reason}", style="dim"), (0, 0, 0, 2))
    if len(groups) > 12:
        yield Text(f"  and {len(groups) - 12} more reasons", style="dim")
    for note in report.coverage.notes[:12]:
        yield Padding(Text(plain_text(note, 300), style="dim"), (0, 0, 0, 2))
