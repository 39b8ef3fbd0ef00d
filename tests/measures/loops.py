"""Watched loops in which the optimizer is known to the session, as ``nndiag.Monitor`` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nndiag.options import MonitorOptions
from nndiag.session import Session

from .runs import Run, classify

Loss = Callable[[nn.Module, Any], Tensor]


def session(model: nn.Module, steps: int, **options: Any) -> Session:
    """A session whose faults are errors; visits are the start-up steps, then every twentieth."""
    settings = {"every_n_train_steps": 20, "max_overhead": None, "console": False, "strict": True}
    return Session(model, MonitorOptions.checked(**settings | options), total_steps=steps)


def train(
    model: nn.Module,
    data: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    loss_of: Loss = classify,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    **options: Any,
) -> Run:
    """One batch a step; labels are told where a batch has class labels."""
    watcher, updates = session(model, len(data), **options), []
    for step, batch in enumerate(data):
        watcher.begin_batch(step)
        watcher.open_window(glue=False)
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        watcher.before_update(optimizer=optimizer)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        y = batch[1]
        updates.append(watcher.end_batch(loss, None if y.is_floating_point() else y))
    return Run(model, [update for update in updates if update is not None], watcher.close())


def warnings_of(run: Run) -> list[str]:
    """Top findings at warning or above that are active: what a reader of the report meets first."""
    return [f.rule for f in run.report.findings if f.severity.rank > 0 and f.is_active]


def related(run: Run, rule: str) -> set[str]:
    """The rules of all symptoms under a top finding."""
    top = next(f for f in run.report.findings if f.rule == rule)
    return {f.rule for f in top.walk()} - {rule}
