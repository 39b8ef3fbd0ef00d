"""Trains an architecture three steps, bare or watched, and collects everything that it leaves behind."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from families.outcome import Surroundings, differing, flatten, hook_counts, model_state, random_streams

import nndiag

from .models import Architecture, prepare

STEPS = 3


@dataclass(frozen=True)
class Run:
    """What a training left behind; a bare one has no monitor."""

    values: Mapping[str, Any]
    monitor: nndiag.Monitor | None


def trained(architecture: Architecture, *, watched: bool) -> Run:
    """Three steps from fresh seeds; every step is visited."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        prepare()
        model = _made(architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = Surroundings.of(model)
    settings: dict[str, Any] = {"every_n_train_steps": 1, "max_overhead": None, "console": False}
    monitor = nndiag.Monitor(model, optimizer=optimizer, strict=True, **settings) if watched else None
    losses = []
    with monitor or contextlib.nullcontext():
        for _ in range(STEPS):
            batch = architecture.batch()
            loss = architecture.loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach().clone())
            if monitor is not None:
                monitor.step(loss, labels=batch["labels"])
    values = flatten(losses, "losses") | random_streams() | hook_counts(model, [optimizer])
    values |= model_state(model) | flatten(optimizer.state_dict(), "optimizer") | before.changes(model)
    return Run(values, monitor)


def _made(architecture: Architecture) -> torch.nn.Module:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    return architecture.make().train()


def compared(architecture: Architecture) -> tuple[dict[str, int], nndiag.Monitor]:
    """What differs between a bare and a watched training, by path; and the monitor."""
    trained(architecture, watched=False)  # what is cached or said once a process belongs to no run
    bare, watched = (trained(architecture, watched=flag) for flag in (False, True))
    assert watched.monitor is not None
    return differing(dict(bare.values), dict(watched.values)), watched.monitor
