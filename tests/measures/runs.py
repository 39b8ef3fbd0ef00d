"""Short watched runs on a small synthetic task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.diagnosis import Update
from nndiag.findings import Finding, Reading
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.session import Session

Batch = tuple[Tensor, Tensor]


def prototypes(count: int, features: int = 64, classes: int = 10) -> Batch:
    """Noisy prototypes, one a class: [count, features] and labels. Easy to learn, hard to learn by one unit."""
    generator = torch.Generator().manual_seed(7)
    centers = torch.randn(classes, features, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return centers[labels] + 0.7 * torch.randn(count, features, generator=generator), labels


def batches(steps: int, size: int = 64, **kwargs: Any) -> list[Batch]:
    """One batch a step, drawn anew from 1,024 samples."""
    x, y = prototypes(1024, **kwargs)
    generator = torch.Generator().manual_seed(8)
    picks = [torch.randint(len(x), (size,), generator=generator) for _ in range(steps)]
    return [(x[pick], y[pick]) for pick in picks]


def classify(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of a classifier."""
    return F.cross_entropy(model(batch[0]), batch[1])


class Run:
    """What came of a watched run: updates by step, the report, the model."""

    def __init__(self, model: nn.Module, updates: list[Update], report: Report) -> None:
        self.model, self.updates, self.report = model, updates, report

    def reading(self, name: str, layer: str | None, step: int | None = None) -> Reading:
        """One reading, of the newest step unless told otherwise."""
        found = [
            reading
            for update in self.updates
            for reading in update.readings
            if (reading.name, reading.layer) == (name, layer) and step in (None, update.step)
        ]
        return found[-1]

    def findings(self) -> dict[str, Finding]:
        """Every finding by rule, symptoms too."""
        return {finding.rule: finding for top in self.report.findings for finding in top.walk()}

    def alarms(self) -> list[str]:
        """Findings at warning or above, active or not."""
        return [f"{f.rule} {f.layers}" for f in self.findings().values() if f.severity.rank > 0]


def watch(
    model: nn.Module,
    data: list[Any],
    loss_of: Callable[[nn.Module, Any], Tensor] = classify,
    optimizer: torch.optim.Optimizer | None = None,
    visit: Callable[[int], bool] = lambda step: True,
    **options: Any,
) -> Run:
    """Trains on ``data``, one batch a step, with a session that visits the steps asked for.

    Faults of nndiag's are errors here.
    """
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    settings = MonitorOptions.checked(
        **{"every_n_train_steps": 1, "max_overhead": None, "console": False, "strict": True} | options
    )
    session = Session(model, settings, total_steps=len(data))
    updates = []
    for step, batch in enumerate(data):
        session.begin_batch(step)
        session.open_window(glue=False)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        session.before_update()
        optimizer.step()
        labels = batch[1] if isinstance(batch, tuple) else None
        updates.append(session.end_batch(loss, labels))
    report = session.close()
    return Run(model, [update for update in updates if update is not None], report)
