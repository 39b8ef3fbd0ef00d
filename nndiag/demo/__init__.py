"""``nndiag demo``: four sick networks and their healthy twin, trained on handwritten digits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nndiag.demo.patients import PATIENTS, SICK, Patient, Plant
from nndiag.demo.stage import EPOCHS, Images, Outcome, train
from nndiag.findings import Finding, Severity
from nndiag.report.wording import MARKS, coverage_counts, headline, unseen, where

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from nndiag.report import Report

__all__ = ["Outcome", "Patient", "Plant", "found_by", "run"]

_STYLES = {"critical": "bold red", "warning": "bold yellow", "info": "cyan"}


def run(out: Path, console: Console) -> list[Outcome]:
    """Trains the patients, their twin last, and prints what was found.

    Args:
        out: Where event files, records and HTML reports go.
        console: Where progress and findings are printed.

    Raises:
        MissingDependencyError: scikit-learn, which brings the digits, is not installed.
    """
    images = Images.load()
    console.print(f"Four sick networks and their twin learn handwritten digits for {EPOCHS} epochs.")
    outcomes = []
    for patient in PATIENTS:
        with _progress(patient.name, console) as advance:
            outcomes.append(train(patient, images, out, advance))
        _show(outcomes[-1], console)
    _compare(outcomes, console)
    _say_coverage(outcomes, console)
    _point_to(out, console)
    return outcomes


def found_by(report: Report, planted: Plant) -> Finding | None:
    """The active finding of a plant's own rule, at its own layer."""
    every = (finding for top in report.findings for finding in top.walk() if finding.is_active)
    return next((f for f in every if f.rule == planted.rule and planted.layer in (None, *f.layers)), None)


def _show(outcome: Outcome, console: Console) -> None:
    """One line a finding from warning upward, with what follows from it."""
    from rich.table import Table

    console.print(
        f"\n[bold]{outcome.patient.name}[/bold]: {headline(outcome.report)}"
        f" [dim](test accuracy {outcome.accuracy:.1%}, {outcome.seconds:.1f} s)[/dim]"
    )
    table = Table.grid(padding=(0, 2, 0, 0))
    active = [finding for finding in outcome.report.findings if finding.is_active]
    notes = [finding for finding in active if finding.severity is Severity.INFO]
    for finding in active:
        if finding not in notes:
            _add(finding, table)
    if table.row_count:
        console.print(table)
    if notes:
        console.print(
            f"  {MARKS['info']} notes     {', '.join(finding.rule for finding in notes)}", style="dim"
        )


def _add(finding: Finding, table: Table) -> None:
    """A finding, and the names of those that follow from it."""
    from rich.text import Text

    style = _STYLES[finding.severity]
    mark = Text(f"  {MARKS[finding.severity]} {finding.severity}", style)
    table.add_row(mark, f"[dim]{finding.rule}[/dim]", *_told(finding))
    for symptom in list(finding.walk())[1:]:
        if symptom.is_active and symptom.severity is not Severity.INFO:
            table.add_row("[dim]    follows[/dim]", f"[dim]{symptom.rule}[/dim]", *_told(symptom))


def _told(finding: Finding) -> Iterator[RenderableType]:
    """Its name and its place."""
    from rich.text import Text

    yield Text(finding.name)
    yield Text(f"{where(finding, 1)}, since step {finding.first_step}")


def _compare(outcomes: Sequence[Outcome], console: Console) -> None:
    """One line a planted fault: found by which rule, since when; one for the twin."""
    from rich.table import Table

    table = Table(
        title="\nWhat was planted, and what was found", title_justify="left", title_style="bold", box=None
    )
    for column in ("in", "at", "planted", "found"):
        table.add_column(column, header_style="dim", no_wrap=column != "planted")
    for patient, report in ((outcome.patient, outcome.report) for outcome in outcomes):
        for planted in patient.plants:
            found = found_by(report, planted)
            word = (
                f"[green]✓ {found.rule}, step {found.first_step}"
                if found
                else f"[red]✗ not by {planted.rule}"
            )
            table.add_row(patient.name, planted.layer or "the run", planted.what, word)
        if not patient.plants:
            clean = "[green]✓ no warning" if report.status == "ok" else f"[red]✗ {report.status}"
            table.add_row(patient.name, "", "nothing", clean)
    console.print(table)


def _say_coverage(outcomes: Sequence[Outcome], console: Console) -> None:
    """What was not seen: that nothing is said about it means nothing."""
    reports = [outcome.report for outcome in outcomes]
    counts = [count for report in reports for count in coverage_counts(report.coverage).values()]
    measured, blind = (sum(count[status] for count in counts) for status in ("measured", "not observed"))
    console.print(
        f"\n[bold]Coverage[/bold]: {measured} of {measured + blind} pairs of a layer and a measure were observed"
    )
    for outcome in outcomes:
        for group in unseen(outcome.report.coverage):
            words = f"  not {group.measure} of {', '.join(group.layers)} in {outcome.patient.name}"
            console.print(words, style="dim")


def _point_to(out: Path, console: Console) -> None:
    """Where evidence, advice and curves are; a path is never cut or taken for markup."""
    from rich.text import Text

    first = out / SICK[0].name
    console.print("\n[bold]Have a look[/bold]")
    for words, what in (
        ("what to do", f"nndiag report {first}"),
        ("as a page", f"{first / 'nndiag.html'}"),
        ("all curves", f"tensorboard --logdir {out}"),
    ):
        console.print(Text(f"  {words:13}{what}"), soft_wrap=True)


@contextlib.contextmanager
def _progress(name: str, console: Console) -> Iterator[Callable[[], None]]:
    """A bar on a terminal while a network trains; yields what moves it on by one epoch."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("training the {task.description} network"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("epochs"), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(name, total=EPOCHS)
        yield lambda: progress.advance(task)
