"""``python -m tests.clinic.rivals --out FILE``: runs other tools on the programs, and prints their marks."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..case import Case
from ..programs import CASES
from ..rounds import moved
from .environments import VERSIONS, install, interpreter
from .marks import MARKS, Row, rows, share_in_words, table
from .results import Results, gather, runs_of
from .wording import FAMILIES_OF


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=170)
    cases = _chosen(options)
    results = Results.load(options.out)
    for tool in options.tool or FAMILIES_OF:
        python = _interpreter(tool, options, console)
        if python is not None:
            _gather(results, tool, python, cases, console)
    console.print(_shown(rows(results, cases)))
    if options.markdown is not None:
        options.markdown.write_text(table(results, cases), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.clinic.rivals", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="results; kept and resumed")
    parser.add_argument("--envs", type=Path, metavar="DIR", help="environments of the tools")
    parser.add_argument(
        "--install", action="store_true", help="make the environments that are missing in DIR"
    )
    parser.add_argument("--tool", action="append", choices=list(FAMILIES_OF), help="repeatable")
    parser.add_argument("--only", action="append", metavar="NAME", help="cases whose name contains NAME")
    parser.add_argument("--half", choices=("tuning", "check"), help="only this half of the collection")
    parser.add_argument("--looked-at", action="store_true", help="only programs that were looked at before")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the section for docs/evidence.md"
    )
    return parser


def _chosen(options: argparse.Namespace) -> list[Case]:
    cases = [case for case in CASES if options.half in (None, case.half)]
    cases = [case for case in cases if not options.looked_at or case.name in moved()]
    return [case for case in cases if not options.only or any(name in case.name for name in options.only)]


def _interpreter(tool: str, options: argparse.Namespace, console: Console) -> Path | None:
    """The Python of a tool, made if asked for; says why where there is none."""
    python = interpreter(tool, options.envs)
    why = "no environment (--envs DIR --install makes one)"
    if python is None and options.envs is not None and options.install:
        why = install(tool, options.envs)
        python = interpreter(tool, options.envs)
    if python is None:
        console.print(f"{tool} {VERSIONS[tool]} is left out: {why}")
    return python


def _gather(results: Results, tool: str, python: Path, cases: Sequence[Case], console: Console) -> None:
    try:
        for name, twin in gather(results, tool, python, runs_of(cases)):
            record = results.get(tool, (name, twin)) or {}
            console.print(f"{tool}: {name}{', twin' if twin else ''}  {record.get('error', '')}")
    except subprocess.CalledProcessError as error:
        console.print(f"{tool} broke off: {error}")


def _shown(marks: Sequence[Row]) -> Table:
    shown = Table("tool", *MARKS, "alarms a healthy run", "broke off")
    for row in marks:
        cells = (share_in_words(row.shares[mark]) for mark in MARKS)
        shown.add_row(row.tool, *cells, f"{row.per_healthy_run:.2f}", str(row.failed or ""))
    return shown


if __name__ == "__main__":
    main()
