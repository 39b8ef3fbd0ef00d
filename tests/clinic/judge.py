"""From runs to marks: was the fault found, was it the root, was it the right place, who was accused wrongly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nndiag.findings import Finding

from .case import Case, Run
from .families import families_of


@dataclass(frozen=True)
class Judgement:
    """The marks of one run. A twin is judged as a healthy program."""

    case: Case
    run: Run
    is_twin: bool = False

    @property
    def is_sick(self) -> bool:
        """Whether there is a fault to find."""
        return self.case.kind == "sick" and not self.is_twin

    @property
    def stated(self) -> tuple[Finding, ...]:
        """Every finding, the leading one first, symptoms behind their causes."""
        return tuple(finding for top in self.run.report.findings for finding in top.walk())

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Findings at warning or above, active or resolved."""
        return tuple(finding for finding in self.stated if finding.severity.rank > 0)

    @property
    def leading(self) -> Finding | None:
        """What a reader sees first, if it is an alarm."""
        return next((top for top in self.run.report.findings if top.severity.rank > 0), None)

    @property
    def accepted(self) -> tuple[Finding, ...]:
        """Alarms that state something true about a sick run."""
        return tuple(f for f in self.alarms if families_of(f.rule) & set(self.case.accept))

    @property
    def is_detected(self) -> bool:
        """Whether any accepted family was named."""
        return bool(self.accepted)

    @property
    def is_root(self) -> bool:
        """Whether the leading finding names the root fault."""
        return self.leading is not None and self.case.family in families_of(self.leading.rule)

    @property
    def is_localized(self) -> bool:
        """Whether an accepted finding names a right layer; a fault of the run has none to miss."""
        return any(not self.case.layers or any(map(self.is_right, f.layers)) for f in self.accepted)

    @property
    def is_led_right(self) -> bool:
        """Whether the leading finding names the root fault and, first of its layers, a right one."""
        if self.leading is None or not self.is_root:
            return False
        return not self.case.layers or (self.leading.layer is not None and self.is_right(self.leading.layer))

    @property
    def is_placed(self) -> bool:
        """Whether the first layer of the leading finding is a right one."""
        return self.leading is not None and self.is_right(self.leading.layer or "")

    @property
    def named(self) -> tuple[str, ...]:
        """The layers that alarms name, where the fault is in layers."""
        layers = (layer for finding in self.alarms for layer in finding.layers)
        return tuple(dict.fromkeys(layers)) if self.case.layers else ()

    def is_right(self, layer: str) -> bool:
        """Whether a layer is one of the truth; a functional call counts for the module it is in."""
        return bool({layer, layer.partition(":")[0]} & set(self.case.layers))


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.hits / self.of if self.of else math.nan

    def wilson(self, z: float = 1.959964) -> tuple[float, float]:
        """The 95% interval of Wilson 1927: of use for few cases, and at 0 and 1."""
        if not self.of:
            return 0.0, 1.0
        p, n = self.value, self.of
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, center - half), min(1.0, center + half)


@dataclass(frozen=True)
class Totals:
    """The marks of a collection."""

    shares: dict[str, Share]
    alarms_per_sick_run: float | None
    alarms_per_healthy_run: float | None
    notes_per_healthy_run: float | None

    @classmethod
    def of(cls, judgements: Iterable[Judgement]) -> Totals:
        """Counts; twins are among the healthy."""
        every = list(judgements)
        sick = [j for j in every if j.is_sick]
        well = [j for j in every if not j.is_sick]
        local = [j for j in sick if j.case.layers]
        layers = [j.is_right(layer) for j in sick for layer in j.named]
        shares = {
            "any alarm on sick": Share(sum(bool(j.alarms) for j in sick), len(sick)),
            "right family": Share(sum(j.is_detected for j in sick), len(sick)),
            "root cause": Share(sum(j.is_root for j in sick), len(sick)),
            "right layer": Share(sum(j.is_localized for j in sick), len(sick)),
            "right layer first": Share(sum(j.is_placed for j in local), len(local)),
            "layers named that are right": Share(sum(layers), len(layers)),
            "healthy accused": Share(sum(bool(j.alarms) for j in well), len(well)),
        }
        notes = [len(j.stated) - len(j.alarms) for j in well]
        alarms = statistics.median(len(j.alarms) for j in sick) if sick else None
        return cls(shares, alarms, _mean([len(j.alarms) for j in well]), _mean(notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        rows = {
            name: {"hits": share.hits, "of": share.of, "interval": share.wilson()}
            for name, share in self.shares.items()
        }
        per_run = {"alarms": self.alarms_per_healthy_run, "notes": self.notes_per_healthy_run}
        return {"shares": rows, "alarms_per_sick_run": self.alarms_per_sick_run, "per_healthy_run": per_run}


def _mean(counts: Sequence[int]) -> float | None:
    return sum(counts) / len(counts) if counts else None


def judge(case: Case, *, twin: bool = False) -> Judgement:
    """Runs a case, or its twin, and judges it."""
    return Judgement(case, case.run(twin=twin), twin)
