"""A run with nndiag leaves the same numbers behind as a run without it: 0 differing values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import nndiag
from nndiag.observe import schedule

from .families import FAMILIES, INDUCTOR, STATEFUL, Family
from .outcome import differing
from .training import bare, fit, loop
from .watched import changes, number, watched

ON, EVERY_STEP, EVERY_TENTH = "on", "every step", "every 10 steps"


@pytest.fixture
def cadence(arm: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Visits as they come without any option; or at each step; or, after the first, at each tenth."""
    if arm == ON:
        return {}
    monkeypatch.setattr(schedule, "START_UP", frozenset({0}))
    return {"every_n_train_steps": 1 if arm == EVERY_STEP else 10}


def by_name(family: Family) -> str:
    """Test ids."""
    return family.name.replace(" ", "-")


SLOW_TO_COMPILE = pytest.param(INDUCTOR, marks=pytest.mark.slow)


@pytest.mark.parametrize("arm", [ON, EVERY_STEP, pytest.param(EVERY_TENTH, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", [*FAMILIES, SLOW_TO_COMPILE], ids=by_name)
def test_run_with_nndiag_differs_in_no_value(
    family: Family, arm: str, cadence: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    run, monitor = watched(family, **cadence)
    found = changes(family, run)
    record_property("exact", (family.name, arm, number(found)))
    assert found == {}
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


COMPILED_FAMILIES = [family for family in FAMILIES if family.is_compiled]


@pytest.mark.parametrize("family", COMPILED_FAMILIES, ids=by_name)
def test_compiled_region_gets_no_new_graph(family: Family) -> None:
    run, _ = watched(family, every_n_train_steps=1)
    assert run.values["graphs"] == bare(family).values["graphs"] > 0


def test_there_are_families_enough() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) >= 34


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
