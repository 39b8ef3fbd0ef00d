"""The marks of all tools, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..case import Case
from ..judge import Share
from ..programs import CASES
from .results import Results, runs_of
from .statement import Statement
from .wording import FAMILIES_OF


@dataclass(frozen=True)
class Verdict:
    """What a tool said about one run, against the truth."""

    case: Case
    is_twin: bool
    tool: str
    said: tuple[Statement, ...]

    @property
    def is_sick(self) -> bool:
        """Whether there is a fault to find."""
        return self.case.has_twin and not self.is_twin

    @property
    def alarms(self) -> tuple[Statement, ...]:
        """Statements at warning or above."""
        return tuple(each for each in self.said if each.is_alarm)

    @property
    def accepted(self) -> tuple[Statement, ...]:
        """Alarms that could mean something true about the run."""
        families_of = FAMILIES_OF[self.tool]
        return tuple(each for each in self.alarms if families_of(each) & set(self.case.accept))

    @property
    def is_localized(self) -> bool:
        """Whether an accepted alarm names a right layer; a fault of the run has none to miss."""
        if not self.case.layers:
            return bool(self.accepted)
        return any(self._is_right(layer) for each in self.accepted for layer in each.layers)

    def _is_right(self, name: str) -> bool:
        """A parameter counts for its module, a functional call for the module it is in."""
        return bool({name, name.rpartition(".")[0], name.partition(":")[0]} & set(self.case.layers))


@dataclass(frozen=True)
class Row:
    """The marks of one tool; ``failed`` runs, in which it broke off, are left out of the shares."""

    tool: str
    shares: dict[str, Share]
    per_healthy_run: float
    failed: int

    @classmethod
    def of(cls, tool: str, verdicts: Iterable[Verdict], failed: int = 0) -> Row:
        """Counts; twins are among the healthy."""
        every = list(verdicts)
        sick = [v for v in every if v.is_sick]
        well = [v for v in every if not v.is_sick]
        shares = {
            "any alarm on sick": Share(sum(bool(v.alarms) for v in sick), len(sick)),
            "right family": Share(sum(bool(v.accepted) for v in sick), len(sick)),
            "right layer": Share(sum(v.is_localized for v in sick), len(sick)),
            "healthy accused": Share(sum(bool(v.alarms) for v in well), len(well)),
        }
        per_run = sum(len(v.alarms) for v in well) / len(well) if well else math.nan
        return cls(tool, shares, per_run, failed)


MARKS = ("any alarm on sick", "right family", "right layer", "healthy accused")


def verdicts(results: Results, tool: str, cases: Sequence[Case]) -> tuple[list[Verdict], int]:
    """The verdicts of a tool on these cases, and in how many runs it failed."""
    named = {case.name: case for case in cases}
    records = [(run, results.get(tool, run)) for run in runs_of(cases)]
    judged = [
        Verdict(named[name], twin, tool, tuple(map(Statement.from_dict, record["said"])))
        for (name, twin), record in records
        if record is not None and "said" in record
    ]
    return judged, sum(record is not None and "error" in record for _, record in records)


SPARED = {"SageMaker Debugger rules": "LossNotDecreasing"}
"""Tools that get a second row without one rule: this one alone accuses nearly everybody, as the losses of two
mini-batches differ by more than its 5%.
"""


def rows(results: Results, cases: Sequence[Case]) -> list[Row]:
    """One row a tool that has results, in the order of the tools; two for one that is spared a rule."""
    shown = []
    for tool in (tool for tool in FAMILIES_OF if tool in results.runs):
        judged, failed = verdicts(results, tool, cases)
        shown.append(Row.of(tool, judged, failed))
        if tool in SPARED:
            spared = [without(verdict, SPARED[tool]) for verdict in judged]
            shown.append(Row.of(f"{tool}, without {SPARED[tool]}", spared, failed))
    return shown


def without(verdict: Verdict, rule: str) -> Verdict:
    """The same run, had the tool not got this rule."""
    return replace(verdict, said=tuple(each for each in verdict.said if not each.kind.startswith(rule)))


INTRODUCTION = """
## Side by side with other tools

The same programs under other tools, each attached as its documentation shows, at its default thresholds. An alarm is
what the tool itself calls a warning or worse; what it repeats at every step counts once a layer. A statement gets
every family that its words could mean (`tests/clinic/rivals/wording.py`). Twins count as healthy programs.

SageMaker Debugger is a service: its published rules were written anew from their documentation. They read every
step; with the default interval of 500 they see the first one only. LossNotDecreasing compares the losses of two
mini-batches, which in nearly every run differ by more than its 5%, so the rules are shown without it as well.
torch-audit looks every 10 steps (default 1,000) and is spared its rules on hardware; traintools probes plasticity
every 50 (default 200).

nndiag's rules were written with the programs of the tuning half and the other tools were not: compare on the check
half.
"""


def table(results: Results, cases: Sequence[Case] = CASES) -> str:
    """The section of the page of evidence; a half without results is left out."""
    text = INTRODUCTION
    ran = {name for records in results.runs.values() for name in records}
    for half in ("tuning", "check"):
        chosen = [case for case in cases if case.half == half and case.name in ran]
        if chosen:
            text += f"\n**The {half} half**\n\n{_lines(rows(results, chosen))}"
    return text


def _lines(marks: Iterable[Row]) -> str:
    text = f"| tool | {' | '.join(MARKS)} | alarms a healthy run | broke off |\n|{'---|' * 7}\n"
    for row in marks:
        cells = [share_in_words(row.shares[mark]) for mark in MARKS]
        text += f"| {row.tool} | {' | '.join(cells)} | {row.per_healthy_run:.1f} | {row.failed or ''} |\n"
    return text


def share_in_words(share: Share) -> str:
    """The count and its interval."""
    low, high = share.wilson()
    return f"{share.hits} of {share.of} ({low:.2f} to {high:.2f})"
