"""The command line: ``nndiag demo``, ``check``, ``compare``, ``report``, ``rules``, ``explain``.

Exit status: 0 nothing at or above ``--fail-on``; 1 something is; 2 bad usage or unreadable input, with one
clear line on standard error.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nndiag.findings import Severity
    from nndiag.report import Report

_UsageError: Any = typer.BadParameter.__base__
"""What typer raises on bad usage; it has no public name there."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A check-up for neural networks while they train.",
)


class Format(StrEnum):
    """How a report is printed."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"


class FailOn(StrEnum):
    """The severity from which the exit status is 1."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


Output = Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")]
FailFrom = Annotated[FailOn, typer.Option(help="Severity from which the exit status is 1.")]
Select = Annotated[list[str] | None, typer.Option(help="Rule id or prefix to judge; repeatable.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Rule id or prefix not to judge; repeatable.")]


def _say_version(is_asked: bool) -> None:
    if is_asked:
        import nndiag

        typer.echo(f"nndiag {nndiag.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Say the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Options of no command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where event files and reports go.")] = Path("nndiag-demo"),
) -> None:
    """Train four sick networks and their healthy twin on real digits; print what was found."""
    from rich.console import Console

    from nndiag import demo as demonstration

    demonstration.run(out, Console(highlight=False))


@app.command()
def check(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATHS", help="Checkpoints of one run, or folders of them.")
    ],
    format_: Annotated[Format, typer.Option("--format")] = Format.TEXT,
    output: Output = None,
    fail_on: FailFrom = FailOn.CRITICAL,
    select: Select = None,
    ignore: Ignore = None,
    log_dir: Annotated[Path | None, typer.Option(help="Write event files for TensorBoard here.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PKG.MOD:FACTORY", help="Builds the model; runs your code.")
    ] = None,
    lightning: Annotated[
        str | None,
        typer.Option(
            metavar="PKG.MOD:CLASS", help="Makes it of plain hyperparameters in the file; runs your code."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="PKG.MOD:LOADER", help="Gives batches for it; runs your code.")
    ] = None,
    repair_bn: Annotated[
        Path | None, typer.Option(help="Write a copy with running statistics of the data to this new file.")
    ] = None,
) -> None:
    """Check a checkpoint, or a series of them in the order of their steps; no code in them is run."""
    from nndiag import offline

    if model is not None and lightning is not None:
        raise typer.BadParameter("--model makes the model already", param_hint="--lightning")
    if repair_bn is not None:
        if (model or lightning) is None or data is None or len(paths) != 1:
            raise typer.BadParameter("needs --model, --data and one checkpoint", param_hint="--repair-bn")
        offline.check_free(repair_bn)
    net = None if model is None else offline.model_of(model)
    net = net if lightning is None else offline.lightning_of(lightning, list(map(Path, paths)))
    batches = None if data is None else offline.data_of(data)
    with _progress() as progress:
        result = offline.check(
            paths, net, batches, select=select, ignore=ignore, log_dir=log_dir, progress=progress
        )
    if repair_bn is not None and net is not None and batches is not None:
        offline.repair(offline.Subject(net, batches), Path(paths[0]), repair_bn)
    _show(result, format_, output, result.to_html)
    raise typer.Exit(_exit_code(result, fail_on))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A checkpoint, or the directory of a recorded run.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    format_: Annotated[Format, typer.Option("--format")] = Format.TEXT,
    output: Output = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="Severity of a finding that appeared from which the exit status is 1.")
    ] = FailOn.CRITICAL,
    select: Select = None,
    ignore: Ignore = None,
) -> None:
    """Say what differs between two checkpoints, or between two recorded runs."""
    if format_ not in (Format.TEXT, Format.JSON):
        raise typer.BadParameter("comparisons are printed as text or json", param_hint="--format")
    from nndiag.offline import compare as compare_both
    from nndiag.options import Selection

    result = compare_both(first, second, selection=Selection.checked(select=select, ignore=ignore))
    text = result.to_json() if format_ is Format.JSON else str(result)
    _write(text, output)
    raise typer.Exit(_status((change.severity for change in result.appeared), fail_on))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="The directory of a run that nndiag watched.")],
    format_: Annotated[Format, typer.Option("--format")] = Format.TEXT,
    output: Output = None,
    fail_on: FailFrom = FailOn.CRITICAL,
    select: Select = None,
    ignore: Ignore = None,
) -> None:
    """Rebuild the report of a recorded run with today's rules."""
    from nndiag.options import Selection
    from nndiag.sinks import read_run, recorded_page, rediagnose

    selection = Selection.checked(select=select, ignore=ignore)
    run = read_run(run_dir)
    result = rediagnose(run, selection)
    _show(result, format_, output, lambda: recorded_page(result, run))
    raise typer.Exit(_exit_code(result, fail_on))


@app.command()
def rules(format_: Annotated[Format, typer.Option("--format")] = Format.TEXT) -> None:
    """List every rule: id, name, what it says."""
    from nndiag.measures import RULES

    if format_ is Format.JSON:
        rows = [
            {"id": r.id, "name": r.name, "measure": r.measure, "summary": r.summary, "threshold": r.threshold}
            for r in RULES.values()
        ]
        typer.echo(json.dumps(rows, indent=2))
    elif format_ is Format.TEXT:
        width = max(len(rule.name) for rule in RULES.values())
        for rule in RULES.values():
            typer.echo(f"{rule.id}  {rule.name:{width}}  {rule.summary}")
    elif format_ is Format.MARKDOWN:
        typer.echo("| id | name | measure | says |\n|---|---|---|---|")
        for rule in RULES.values():
            typer.echo(f"| {rule.id} | {rule.name} | {rule.measure} | {rule.summary} |")
    else:
        raise typer.BadParameter("rules are printed as text, json or markdown", param_hint="--format")


@app.command()
def explain(rule_id: Annotated[str, typer.Argument(metavar="RULE", help="For example ND301.")]) -> None:
    """Say what a rule means, when it speaks, and what follows from it."""
    from nndiag.errors import ConfigurationError
    from nndiag.measures import MEASURES, RULES

    rule = RULES.get(rule_id.upper())
    if rule is None:
        raise ConfigurationError.unknown("RULE", rule_id, RULES)
    measure = MEASURES[rule.measure]
    typer.echo(f"{rule.id} {rule.name} (measure {rule.measure})\n")
    typer.echo(f"{rule.summary[0].upper()}{rule.summary[1:]}.\n")
    typer.echo(f"Judged on: nndiag/{rule.measure}/{rule.reads}; threshold {rule.threshold:g}.")
    when = (
        "at the first visit that shows it"
        if rule.persistence == "at once"
        else "when two of three visits show it"
    )
    typer.echo(f"Speaks {when}.")
    if rule.explains:
        typer.echo(f"Explains: {', '.join(rule.explains)}.")
    typer.echo(f"\nThe measure: {measure.summary}\nMore: docs/measures/{rule.measure}.md")


def _show(result: Report, format_: Format, output: Path | None, page: Callable[[], str]) -> None:
    if output is None and format_ is Format.TEXT:
        from rich.console import Console

        Console(highlight=False).print(result)
        return
    texts = {
        Format.TEXT: result.__str__,
        Format.JSON: result.to_json,
        Format.HTML: page,
        Format.MARKDOWN: result.to_markdown,
    }
    _write(texts[format_](), output)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")


def _exit_code(result: Report, fail_on: FailOn) -> int:
    from nndiag.findings import worst

    severity = worst(result.findings)
    return _status([] if severity is None else [severity], fail_on)


def _status(severities: Iterable[Severity], fail_on: FailOn) -> int:
    from nndiag.findings import Severity

    if fail_on is FailOn.NEVER:
        return 0
    return int(any(severity.rank >= Severity(fail_on.value).rank for severity in severities))


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int, Path], None]]:
    """A bar on standard error where that is a terminal; standard output is the report's alone."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def tell(done: int, total: int, newest: Path) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def main() -> None:
    """The console script: every expected error is one line and status 2."""
    from nndiag.errors import NNDiagError
    from nndiag.report import plain_text

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the marks of a report are in few encodings
    try:
        sys.exit(app(standalone_mode=False))
    except _UsageError as usage:
        message = usage.format_message()
    except (NNDiagError, OSError) as error:
        message = str(error)
    if message:  # without arguments, help was shown
        typer.echo(f"nndiag: {plain_text(message)}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
