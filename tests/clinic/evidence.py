"""``python -m tests.clinic.evidence DIR``: writes docs/evidence.md from the records in DIR."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nndiag.measures import RULES
from nndiag.rules import Rule
from nndiag.sinks import read_run

from .advice import Trial, trials
from .case import Case
from .families import FAMILIES
from .judge import Judgement, Share, Totals
from .programs import CASES, HEALTHY, SICK
from .records import place, read
from .rounds import rounds
from .settings import PUBLISHED, SETTINGS, Setting

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"

INTRODUCTION = """\
# Evidence

How often is a verdict right, and how often is a healthy network accused? This page is written by a command from
the runs of the clinic (`tests/clinic`): small training programs whose truth is known.

```
python -m tests.clinic.records runs --all-settings  # trains every program, keeps the records
python -m tests.clinic.advice runs                  # follows the advice, trains again
python -m tests.clinic.evidence runs                # writes this page
```

{sick} sick programs, each with a twin that lacks only the fault, and {healthy} healthy ones; from {smallest:,} to
{largest:,} parameters, trained for 100 to 400 steps on one CPU thread. **These networks are small**, so the figures
show that a rule is sane, not what it will do on a large network. Intervals are Wilson's, 95%.
"""

HALVES = """
## Two halves

Each program belongs to a half by a hash of its name. Thresholds were chosen on the tuning half only; the check half
is looked at once a round. A program that was missed or accused there moves to the tuning half for good, and a new one
is written in its place before the next look. The first 21 programs, which rules were written with, are in the tuning
half too. Twins count as healthy programs. Programs of the second and third round were all written for the check half
(their names were chosen for their hash, before anything ran), by writers who did not run nndiag on them. So were
those of the fourth, but by somebody who knew the rules: its figures are kinder than those of a stranger's programs.

**Only a first look is out of sample.** What the table of the whole collection says, the rules were changed for: it
shows that nothing is broken, no more.
"""

RULES_INTRODUCTION = """
## Rule by rule

What each rule reads, at the worst layer and visit of a run: the middle of the runs and the worst of them. A rule
looks at more than this one number (sizes of samples, time, other readings), so a healthy run beyond the threshold
need not be accused. *Found*: of the programs whose planted fault this rule is meant to find, those in which it spoke
at warning or above. *Accused*: healthy programs and twins in which it did. Both are in sample.

| rule | reads | limit | healthy: middle, worst | its sick: middle, worst | found | accused |
|---|---|---|---|---|---|---|
"""

SETTINGS_INTRODUCTION = """
## Other seeds, cadences, types, batch sizes

The same programs, run otherwise. *Same leading rule*: of sick programs, against the published run. A program whose
metric no longer proves its fault (or its health) in this setting is left out.

| setting | programs | right family | right layer first | same leading rule | healthy accused |
|---|---|---|---|---|---|
"""

ADVICE_INTRODUCTION = """
## Is the advice any good?

For each sick program, what its leading finding recommends is applied, and the program is trained again. The gap is
that between the sick program and its twin; advice *helped* where it closed at least half of it. Most is done by a
machine that reads the finding (`tests/clinic/treatment.py`); where advice asks for another line of code, *twin*
says that the twin is the program with that line. *none*: advice that names several things to look at.

| program | rule | followed by | metric before | after | twin | gap closed |
|---|---|---|---|---|---|---|
"""


def judgements(
    root: Path, cases: Iterable[Case], setting: Setting = PUBLISHED, *, proved: bool = False
) -> Iterator[Judgement]:
    """Every run of these cases that can be read; with ``proved``, those only whose metric proves the truth."""
    for case in cases:
        for twin in (False, True) if case.has_twin else (False,):
            try:
                judgement = Judgement(case, read(root, case, setting, twin=twin), twin)
            except FileNotFoundError:
                continue
            metric = judgement.run.metric
            holds = case.proof.shows_symptom if judgement.is_sick else case.proof.trains_well
            if not proved or holds(metric):
                yield judgement


def shares(title: str, totals: Totals) -> str:
    """One line a mark."""
    lines = [f"\n**{title}**\n\n| mark | share | 95% interval | count |\n|---|---|---|---|\n"]
    for name, share in totals.shares.items():
        low, high = share.wilson()
        lines.append(
            f"| {name} | {share.value:.2f} | {low:.2f} to {high:.2f} | {share.hits} of {share.of} |\n"
        )
    lines.append(f"| findings per sick run (warning or above), median | {totals.alarms_per_sick_run} | | |\n")
    lines.append(f"| notes per healthy run | {totals.notes_per_healthy_run or 0:.2f} | | |\n")
    return "".join(lines)


def halves(root: Path) -> str:
    """The first looks, then the marks of the whole collection."""
    return (
        HALVES + first_looks() + shares("The whole collection, in sample", Totals.of(judgements(root, CASES)))
    )


def first_looks() -> str:
    """What was seen at each first look at the check half."""
    text = "\n**First looks at the check half**\n\n| round | right family | right layer first | accused | missed |\n"
    text += "|---|---|---|---|---|\n"
    for number, each in enumerate(rounds(), 1):
        cells = [_share(Share(*each["shares"][name])) for name in _OF_A_ROUND]
        text += f"| {number} | {' | '.join(cells)} | {', '.join(each['missed']) or 'none'} |\n"
    return text


_OF_A_ROUND = ("right family", "right layer first", "healthy accused")


def _share(share: Share) -> str:
    low, high = share.wilson()
    return f"{share.hits} of {share.of} ({low:.2f} to {high:.2f})"


def by_rule(root: Path) -> str:
    """The table of all rules that judge health."""
    every = list(judgements(root, CASES))
    values = {id(judgement): extremes(root, judgement) for judgement in every}
    lines = []
    for rule in RULES.values():
        own = [j for j in every if j.is_sick and j.case.rule == rule.id]
        well = [j for j in every if not j.is_sick]
        accused = Share(sum(_speaks(rule, j) for j in well), len(well))
        numbers = [
            _middle_and_worst(rule, [values[id(j)].get(rule.id) for j in group]) for group in (well, own)
        ]
        cells = (
            rule.id,
            f"`{rule.reads}`",
            f"{rule.threshold:g}",
            *numbers,
            _found(rule, own),
            _share(accused),
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return RULES_INTRODUCTION + "".join(lines)


def _speaks(rule: Rule, judgement: Judgement) -> bool:
    return any(finding.rule == rule.id for finding in judgement.alarms)


def _found(rule: Rule, group: list[Judgement]) -> str:
    return _share(Share(sum(_speaks(rule, j) for j in group), len(group))) if group else ""


def _middle_and_worst(rule: Rule, values: list[float | None]) -> str:
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    if not known:
        return ""
    return f"{statistics.median(known):.3g}, {known[0] if rule.lower_is_worse else known[-1]:.3g}"


def extremes(root: Path, judgement: Judgement) -> dict[str, float]:
    """The worst value, over layers and visits of a run, of what each rule reads."""
    record = read_run(place(root, judgement.case, PUBLISHED, twin=judgement.is_twin))
    found: dict[tuple[str, str], list[float]] = {}
    for visit in record.visits:
        for reading in visit.readings:
            found.setdefault((reading.measure, reading.name), []).append(reading.value)
    return {
        rule.id: (min if rule.lower_is_worse else max)(found[rule.measure, rule.reads])
        for rule in RULES.values()
        if (rule.measure, rule.reads) in found
    }


def by_setting(root: Path) -> str:
    """One line a setting."""
    leads = {j.case.name: j.leading.rule for j in judgements(root, SICK) if j.is_sick and j.leading}
    lines = []
    for setting in SETTINGS:
        every = list(judgements(root, CASES, setting, proved=True))
        if not every:
            continue
        totals, sick = Totals.of(every), [j for j in every if j.is_sick]
        same = sum(j.leading is not None and j.leading.rule == leads.get(j.case.name) for j in sick)
        cells = [_share(totals.shares[name]) for name in _OF_A_ROUND]
        cells.insert(2, _share(Share(same, len(sick))))
        lines.append(f"| {setting.name} | {len(every)} | {' | '.join(cells)} |\n")
    return SETTINGS_INTRODUCTION + "".join(lines)


def by_advice(kept: Sequence[Trial]) -> str:
    """One line a program, and how often advice helped."""
    lines = []
    for trial in kept:
        closed = f"{trial.closed:.0%}" if trial.way != "none" else ""
        after = "" if trial.way == "none" else _metric(trial.treated)
        cells = (trial.case, trial.rule, trial.way, _metric(trial.sick), after, _metric(trial.twin), closed)
        lines.append(f"| {' | '.join(cells)} |\n")
    tried = [trial for trial in kept if trial.way != "none"]
    helped = Share(sum(trial.helped for trial in tried), len(tried))
    machine = [trial for trial in tried if trial.way == "machine"]
    alone = Share(sum(trial.helped for trial in machine), len(machine))
    middle = statistics.median(trial.closed for trial in tried)
    return (
        ADVICE_INTRODUCTION
        + "".join(lines)
        + (
            f"\nAdvice helped in {_share(helped)} of the programs where it was followed, in {_share(alone)} of those"
            f" where a machine followed it; it closed {middle:.0%} of the gap in the middle one.\n"
        )
    )


def _metric(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2f}"


def page(root: Path) -> str:
    """The whole page."""
    sizes = [sum(p.numel() for p in case.build().model.parameters()) for case in CASES]
    counts = {"sick": len(SICK), "healthy": len(HEALTHY), "smallest": min(sizes), "largest": max(sizes)}
    kept = trials(root)
    parts = (halves(root), by_rule(root), by_setting(root), by_advice(kept), families())
    return INTRODUCTION.format(**counts) + "".join(parts)


def families() -> str:
    """How many programs there are of each family."""
    text = "\n## Programs by family\n\n| family | rules | programs |\n|---|---|---|\n"
    for family, rules in FAMILIES.items():
        names = [case.name for case in SICK if case.family == family]
        text += f"| {family} | {', '.join(rules)} | {len(names)}: {', '.join(names)} |\n"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.clinic.evidence", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the records are")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    options.output.write_text(page(options.directory), encoding="utf-8")


if __name__ == "__main__":
    main()
