"""``python -m tests.clinic.advice DIR``: follows the advice of each leading finding, and trains again."""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from .case import Case, alone
from .judge import Judgement
from .programs import SICK
from .records import read
from .treatment import TREATMENTS

FILE = "advice.json"

Way = Literal["machine", "twin", "none"]


@dataclass(frozen=True)
class Trial:
    """A program before and after its advice was followed; None stands for a metric that is not finite."""

    case: str
    rule: str
    way: Way
    sick: float | None
    treated: float | None
    twin: float

    @property
    def closed(self) -> float:
        """The share of the gap to the twin that the advice closed; a metric that was not finite counts as 0."""
        before, after = self.sick or 0.0, self.treated or 0.0
        return (after - before) / (self.twin - before)

    @property
    def helped(self) -> bool:
        """Whether at least half the gap is closed."""
        return self.closed >= 0.5


def attempt(root: Path, case: Case) -> Trial | None:
    """Follows the advice on one program; None where nothing was found."""
    sick, twin = read(root, case), read(root, case, twin=True)
    leading = Judgement(case, sick).leading
    if leading is None:
        return None
    if leading.rule in case.twin_follows:
        return Trial(case.name, leading.rule, "twin", _finite(sick.metric), twin.metric, twin.metric)
    with alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        treat = TREATMENTS.get(leading.rule)
        program = treat(case.build(), leading) if treat else None
        if program is None:
            return Trial(case.name, leading.rule, "none", _finite(sick.metric), None, twin.metric)
        program.train()
        treated = program.score()
    return Trial(case.name, leading.rule, "machine", _finite(sick.metric), _finite(treated), twin.metric)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def trials(root: Path) -> list[Trial]:
    """The trials that were kept."""
    return [Trial(**row) for row in json.loads((root / FILE).read_text(encoding="utf-8"))]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic.advice", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the records are")
    root = parser.parse_args(arguments).directory
    console = Console(width=120, highlight=False)
    kept = []
    for case in SICK:
        trial = attempt(root, case)
        if trial is None:
            console.print(f"{case.name}: nothing was found")
            continue
        kept.append(trial)
        word = (
            f"closes {trial.closed:.0%} of the gap"
            if trial.way != "none"
            else "cannot be followed by a machine"
        )
        console.print(f"{case.name}: {trial.rule} ({trial.way}) {word}")
    (root / FILE).write_text(json.dumps([asdict(trial) for trial in kept], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
