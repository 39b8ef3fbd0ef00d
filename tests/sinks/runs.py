"""A short monitored run with two faults, and updates made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import nndiag
from nndiag.diagnosis import Update
from nndiag.findings import Coverage, CoverageEntry, Finding, Reading, Severity

STEPS = 14
VISITS = [0, 1, 2, 3, 5, 8, 12]


def sick_network() -> nn.Sequential:
    """Weights 30 times too large before a tanh; a layer of twin units."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))
    with torch.no_grad():
        model[0].weight.mul_(30)
        model[2].weight[32:] = model[2].weight[:32]
        model[2].bias[32:] = model[2].bias[:32]
        model[4].weight[:, 32:] = model[4].weight[:, :32]
    return model


def watched(directory: Path | None, steps: int = STEPS, **options: Any) -> nndiag.Monitor:
    """Trains the sick network; returns the closed monitor."""
    model = sick_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    fixed: dict[str, Any] = {
        "every_n_train_steps": 50,
        "max_overhead": None,
        "console": False,
        "strict": True,
    }
    with nndiag.Monitor(model, optimizer=optimizer, log_dir=directory, **(fixed | options)) as monitor:
        for _ in range(steps):
            x = torch.randn(64, 8, generator=generator)
            loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss)
    return monitor


def reading(layer: str | None = "fc1", value: float = 0.5, **changes: Any) -> Reading:
    """The share of saturated entries of one layer."""
    fields: dict[str, Any] = {"measure": "saturation", "name": "saturated", "step": 0}
    return Reading(layer=layer, value=value, **(fields | changes))


def finding(layers: tuple[str, ...] = ("fc1",), **changes: Any) -> Finding:
    """An active warning."""
    fields: dict[str, Any] = {
        "rule": "ND201",
        "name": "saturated-activation",
        "measure": "saturation",
        "layers": layers,
        "severity": Severity.WARNING,
        "status": "active",
        "first_step": 0,
        "last_clean_step": None,
        "last_step": 0,
        "value": 0.8,
        "threshold": 0.7,
        "message": "Seen.",
        "recommendation": "Do.",
    }
    return Finding(**(fields | changes))


def update(step: int, **changes: Any) -> Update:
    """One visit with one reading and nothing found."""
    fields: dict[str, Any] = {
        "layers": {},
        "readings": (reading(step=step),),
        "findings": (),
        "changed": False,
        "coverage": Coverage((CoverageEntry("fc1", "saturation", "measured"),)),
    }
    return Update(step, **(fields | changes))
