"""A run with nndiag leaves the same numbers behind as a run without it: 0 differing values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import nndiag
from nndiag.observe import schedule

from .families import COMPILED, FAMILIES, STATEFUL, Family
from .outcome import differing
from .training import bare, fit, loop
from .watched import changes, watched

EVERY_STEP, SOME_STEPS = "every step", "some steps"


@pytest.fixture(params=[EVERY_STEP, SOME_STEPS])
def cadence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Visits at each step (a start-up of one), or start-up visits and then each third step."""
    if request.param == EVERY_STEP:
        monkeypatch.setattr(schedule, "START_UP", frozenset({0}))
        return {"every_n_train_steps": 1}
    return {"every_n_train_steps": 3}


def by_name(family: Family) -> str:
    """Test ids."""
    return family.name.replace(" ", "-")


@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_run_with_nndiag_differs_in_no_value(family: Family, cadence: dict[str, Any]) -> None:
    run, monitor = watched(family, **cadence)
    assert changes(family, run) == {}
    assert monitor.report.coverage.entries
    assert monitor.guard.faults == {}


@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_bare_run_repeats_itself(family: Family) -> None:
    again = fit(family) if family.loop == "lightning" else loop(family)
    assert differing(bare(family).values, again.values) == {}


@pytest.mark.parametrize("family", FAMILIES, ids=by_name)
def test_bare_run_trains(family: Family) -> None:
    values = bare(family).values
    losses = [value for path, value in values.items() if path.startswith("losses/")]
    assert len(losses) >= 8
    assert all(torch.isfinite(loss).all() for loss in losses if loss is not None)
    assert len({float(loss) for loss in losses}) > 4
    assert values.get("trainer/step", 8) >= 6


def test_probe_switched_off_is_exact_too() -> None:
    run, monitor = watched(STATEFUL, every_n_train_steps=1, probe=False)
    assert changes(STATEFUL, run) == {}
    assert isinstance(monitor.report, nndiag.Report)


def test_compiled_region_gets_no_new_graph() -> None:
    run, _ = watched(COMPILED, every_n_train_steps=1)
    assert run.values["graphs"] == bare(COMPILED).values["graphs"] > 0


def test_a_single_bit_is_noticed() -> None:
    values = bare(STATEFUL).values
    path = next(path for path, value in values.items() if isinstance(value, torch.Tensor) and value.ndim == 2)
    changed = values[path].clone()
    changed[0, 0] = torch.nextafter(changed[0, 0], torch.tensor(torch.inf))
    assert differing(values, {**values, path: changed}) == {path: 1}


def test_missing_and_additional_values_are_noticed() -> None:
    values = bare(STATEFUL).values
    lacking = {path: value for path, value in values.items() if path != "directory"}
    assert differing(values, lacking) == {"directory": 1}
    assert differing(values, {**values, "more": 1}) == {"more": 1}
