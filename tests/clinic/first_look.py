"""``python -m tests.clinic.first_look DIR``: looks at new programs of the check half, and keeps what was seen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .evidence import judgements
from .judge import Judgement, Totals
from .programs import CASES
from .rounds import add, rounds


def is_missed(judgement: Judgement) -> bool:
    """Whether a sick program was missed or misplaced, or a healthy one accused."""
    if not judgement.is_sick:
        return bool(judgement.alarms)
    return not judgement.is_detected or (bool(judgement.case.layers) and not judgement.is_placed)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic.first_look", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the records are")
    root = parser.parse_args(arguments).directory
    seen = {name for each in rounds() for name in each["programs"]}
    new = [case for case in CASES if case.half == "check" and case.name not in seen]
    every = list(judgements(root, new))
    totals = Totals.of(every)
    record = {
        "programs": [case.name for case in new],
        "shares": {name: (share.hits, share.of) for name, share in totals.shares.items()},
        "alarms_per_sick_run": totals.alarms_per_sick_run,
        "missed": sorted({judgement.case.name for judgement in every if is_missed(judgement)}),
    }
    add(record)
    Console(highlight=False).print_json(data=record)


if __name__ == "__main__":
    main()
