"""Which of several processes this is, and one report out of what each of them found."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nndiag.findings import Coverage, Finding
from nndiag.report import Report

_OTHERS = re.compile(r"nndiag\.rank([1-9]\d{0,5})\.jsonl")


def own_rank() -> tuple[int, int]:
    """The rank of this process, and how many there are; (0, 1) where it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    if rank.isdecimal() and size.isdecimal() and int(rank) < int(size):
        return int(rank), int(size)  # a launcher has spoken, the process group comes later
    return 0, 1


def record_name(rank: int) -> str:
    """The file that a rank records to: no two of them share one."""
    return f"nndiag.rank{rank}.jsonl" if rank else "nndiag.jsonl"


def other_records(directory: Path) -> dict[int, Path]:
    """The records of ranks above 0 in a run directory."""
    found = ((_OTHERS.fullmatch(path.name), path) for path in directory.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def unite(reports: Mapping[int, Report], unread: Mapping[int, str]) -> Report:
    """The first report with the findings of all; its readings and coverage stay.

    Args:
        reports: By rank, as a rule that of rank 0 first.
        unread: Why the record of a rank could not be read.
    """
    first = next(iter(reports.values()))
    if len(reports) == 1 and not unread:
        return first
    names = ", ".join(map(str, reports))
    notes = [f"findings are of ranks {names}, each by its own readings; the readings shown are of rank 0"]
    notes += [f"the record of rank {rank} is left out: {reason}" for rank, reason in unread.items()]
    findings = unite_findings({rank: report.findings for rank, report in reports.items()})
    coverage = Coverage(first.coverage.entries, (*first.coverage.notes, *notes))
    return replace(first, findings=findings, coverage=coverage, run={**first.run, "ranks": names})


def unite_findings(ranks: Mapping[int, Sequence[Finding]]) -> tuple[Finding, ...]:
    """The findings of all ranks, one a rule.

    Each rank judges its own readings: they are not added up. The evidence of a finding names the ranks that
    found it; where they differ in how grave it is, the gravest is shown.
    """
    if len(ranks) == 1:
        return tuple(*ranks.values())
    found: dict[str, dict[int, Finding]] = {}
    for rank, findings in ranks.items():
        for finding in _all(findings):
            found.setdefault(finding.rule, {})[rank] = finding
    stated: set[str] = set()
    tops = [_united(top, found, stated) for findings in ranks.values() for top in findings]
    united = (top for top in tops if top is not None)
    return tuple(sorted(united, key=lambda f: (not f.is_active, -f.severity.rank)))


def _all(findings: Iterable[Finding]) -> Iterable[Finding]:
    for finding in findings:
        yield from finding.walk()


def _united(finding: Finding, found: Mapping[str, Mapping[int, Finding]], stated: set[str]) -> Finding | None:
    """What all ranks say by one rule, with its symptoms; None when it stands elsewhere already."""
    if finding.rule in stated:
        return None
    stated.add(finding.rule)
    by_rank = found[finding.rule]
    gravest = max(by_rank.values(), key=lambda each: (each.is_active, each.severity.rank))
    related = [_united(symptom, found, stated) for each in by_rank.values() for symptom in each.related]
    return replace(
        gravest,
        layers=tuple(dict.fromkeys(layer for each in (gravest, *by_rank.values()) for layer in each.layers)),
        first_step=min(each.first_step for each in by_rank.values()),
        last_step=max(each.last_step for each in by_rank.values()),
        evidence={**gravest.evidence, "ranks": ", ".join(map(str, sorted(by_rank)))},
        related=tuple(symptom for symptom in related if symptom is not None),
    )
