"""``Monitor`` under Fabric and Accelerate: the recipes of the documentation, exact and complete."""

from __future__ import annotations

from typing import Any

import pytest

from .lightning_runs import BATCHES
from .loop_runs import differences, under_accelerate, under_fabric


def check(monitor: Any, steps: int) -> None:
    """Every step was counted, and gradients, updates and the probe's replays were read."""
    report = monitor.report
    assert report.run["last_step"] == steps - 1
    assert report.run["probe"] == "8 samples"
    names = {reading.tag for reading in report.readings}
    assert {"nndiag/gradient_flow/gradient_norm", "nndiag/gradient_flow/update_ratio"} <= names
    assert monitor.guard.causes == {}


def test_fabric() -> None:
    watched, monitor = under_fabric(True)
    bare, _ = under_fabric(False)
    assert differences(watched, bare) == []
    check(monitor, BATCHES)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate(accumulate: int) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install accelerate")
    watched, monitor = under_accelerate(True, accumulate)
    bare, _ = under_accelerate(False, accumulate)
    assert differences(watched, bare) == []
    check(monitor, BATCHES // accumulate)
