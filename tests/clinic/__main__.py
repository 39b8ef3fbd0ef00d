"""``python -m tests.clinic``: runs the collection and prints its marks."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nndiag.findings import Finding

from .case import Case
from .judge import Judgement, Totals, judge
from .programs import CASES
from .records import read

STYLES = {"critical": "bold red", "warning": "yellow", "info": "dim"}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="cases whose name contains NAME")
    parser.add_argument("--twins", action="store_true", help="run the twins too, as healthy programs")
    parser.add_argument("--half", choices=("tuning", "check"), help="only this half of the collection")
    parser.add_argument("--bare", action="store_true", help="only prove the programs: nobody watches")
    parser.add_argument(
        "--from", dest="records", type=Path, metavar="DIR", help="judge records, do not train"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the marks to FILE")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if not options.only or any(name in case.name for name in options.only)]
    cases = [case for case in cases if options.half in (None, case.half)]
    if not cases:
        parser.error(f"no case is named like {' or '.join(options.only)}")
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if options.bare:
        console.print(_proofs(cases))
        return
    rows = []
    for case in cases:
        with console.status(case.name):
            rows.append(_judged(case, options.records, twins=options.twins))
    every = [judgement for row in rows for judgement in row]
    console.print(_table(rows), _totals(Totals.of(every)))
    if options.json is not None:
        options.json.write_text(json.dumps(_record(every), indent=2) + "\n", encoding="utf-8")


def _proofs(cases: list[Case]) -> Table:
    """The metrics of the programs themselves, beside what they must be."""
    table = Table("case", "half", "with fault", "without", "proof", title="Programs, not watched")
    for case in cases:
        proof, well = case.proof, case.bare(twin=True)
        sick = case.bare() if case.has_twin else math.nan
        holds = proof.trains_well(well) and (not case.has_twin or proof.shows_symptom(sick))
        shown = f"{sick:.3f} (below {proof.sick})" if case.has_twin else ""
        table.add_row(
            case.name, case.half, shown, f"{well:.3f} (above {proof.twin})", _mark(holds, "holds", "FAILS")
        )
    return table


def _judged(case: Case, records: Path | None, *, twins: bool) -> list[Judgement]:
    """A case, and its twin when asked for."""
    which = (False, True) if twins and case.has_twin else (False,)
    if records is None:
        return [judge(case, twin=twin) for twin in which]
    return [Judgement(case, read(records, case, twin=twin), twin) for twin in which]


def _table(rows: list[list[Judgement]]) -> Table:
    table = Table(title="Clinic", show_lines=True)
    for header in ("case", "truth", "findings, the leading one first", "hit", "layer", "false alarm"):
        table.add_column(header, overflow="fold")
    table.add_column("metric", justify="right")
    table.add_column("s", justify="right")
    for first, *twin in rows:
        case, accused = first.case, [j for j in (first, *twin) if not j.is_sick and j.alarms]
        table.add_row(
            case.name,
            _truth(case),
            _findings(first),
            _hit(first),
            _mark(first.is_localized, "right", "wrong or none") if first.is_sick else "",
            Text("\n").join(_accused(j) for j in accused),
            " / ".join(_metric(j) for j in (first, *twin)),
            f"{sum(j.run.seconds for j in (first, *twin)):.1f}",
        )
    return table


def _truth(case: Case) -> str:
    return case.family or f"healthy (trap: {', '.join(case.traps)})"


def _findings(judgement: Judgement) -> Text:
    parts = [Text(_words(finding), style=STYLES[finding.severity]) for finding in judgement.stated]
    parts += [Text(f"fault of {name}: {why}", "bold red") for name, why in judgement.run.faults.items()]
    return Text("\n").join(parts)


def _words(finding: Finding) -> str:
    layers = ", ".join(finding.layers[:3]) + (", ..." if len(finding.layers) > 3 else "")
    resolved = "" if finding.is_active else " (resolved)"
    return f"{finding.rule} {finding.name} @ {layers or 'the run'}{resolved}"


def _hit(judgement: Judgement) -> Text:
    if not judgement.is_sick:
        return Text("")
    if judgement.is_root:
        return Text("root", "green")
    return _mark(judgement.is_detected, "accepted", "missed")


def _mark(is_good: bool, good: str, bad: str) -> Text:
    return Text(good, "green") if is_good else Text(bad, "red")


def _accused(judgement: Judgement) -> Text:
    rules = ", ".join(f"{f.rule}{'' if f.is_active else ' (resolved)'}" for f in judgement.alarms)
    return Text(f"{'twin: ' if judgement.is_twin else ''}{rules}", "red")


def _metric(judgement: Judgement) -> str:
    return f"{judgement.run.metric:.2f}"


def _totals(totals: Totals) -> Table:
    table = Table("mark", "share", "95% interval", "count", title="Totals")
    for name, share in totals.shares.items():
        low, high = share.wilson()
        table.add_row(name, f"{share.value:.2f}", f"{low:.2f} to {high:.2f}", f"{share.hits} of {share.of}")
    for name, value in (
        ("alarms per sick run, median", totals.alarms_per_sick_run),
        ("alarms per healthy run", totals.alarms_per_healthy_run),
        ("notes per healthy run", totals.notes_per_healthy_run),
    ):
        table.add_row(name, "" if value is None else f"{value:.2f}", "", "")
    return table


def _record(every: list[Judgement]) -> dict[str, Any]:
    return {"runs": [_run(judgement) for judgement in every], "totals": Totals.of(every).to_dict()}


def _run(judgement: Judgement) -> dict[str, Any]:
    case, run = judgement.case, judgement.run
    record: dict[str, Any] = {"case": case.name, "half": case.half, "kind": case.kind}
    record |= {"twin": judgement.is_twin, "family": case.family, "accept": case.accept, "layers": case.layers}
    record |= {"metric": None if math.isnan(run.metric) else run.metric, "seconds": run.seconds}
    record["findings"] = [
        {"rule": f.rule, "severity": str(f.severity), "status": f.status, "layers": f.layers}
        | {"first_step": f.first_step, "last_step": f.last_step}
        for f in judgement.stated
    ]
    if judgement.is_sick:
        record |= {"detected": judgement.is_detected, "root": judgement.is_root}
        record |= {"localized": judgement.is_localized, "led_right": judgement.is_led_right}
    return record | {"faults": dict(run.faults)}


if __name__ == "__main__":
    main()
