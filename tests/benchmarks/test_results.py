"""Ratios, what a burst costs spread out, and what is said of a control that is too wide."""

from __future__ import annotations

from typing import Any

import pytest

from .meter import Meter
from .results import amortized, bare_step, in_situ, ratio, table


def row(arm: str, cpus: list[float], inside: float = 0.0) -> dict[str, Any]:
    turns = [{"steps": 2, "cpu": c, "wall": c, "inside_cpu": inside, "inside_wall": inside} for c in cpus]
    known = {"workload": "toy", "loop": "plain", "peak_mib": 100.0, "bytes": 0, "loss": 1.0}
    return {"arm": arm, "turns": turns, **known}


def test_a_ratio_is_taken_within_rounds() -> None:
    middle, low, high = ratio([row("slow", [2.0, 20.0, 4.0])], [row("bare", [1.0, 10.0, 2.0])], "cpu")
    assert (middle, low, high) == (2.0, 2.0, 2.0)


def test_time_inside_is_set_against_the_rest_of_the_same_turn() -> None:
    assert in_situ([row("a", [1.5, 15.0], inside=0.5)]) == pytest.approx(1 + (0.5 + 0.5 / 14.5) / 2)
    assert bare_step([row("a", [2.0, 4.0, 6.0])]) == 2.0


@pytest.mark.parametrize(("burst", "stride"), [(0.9, 1), (1.1, 2), (5.0, 8)])
def test_a_dear_burst_is_taken_less_often(burst: float, stride: int) -> None:
    assert amortized(burst, 1.0) == (stride, pytest.approx(1 + burst / (50 * stride)))


@pytest.mark.parametrize(("second", "said"), [(1.0, "The control is within"), (1.2, "No verdict")])
def test_nothing_is_concluded_when_bare_differs_from_bare(second: float, said: str) -> None:
    arms = {"bare": [row("bare", [1.0] * 4)], "bare again": [row("bare again", [second] * 4)]}
    assert said in table("toy", "plain", arms, 10)


def test_an_arm_that_did_not_run_says_why() -> None:
    arms = {"bare": [row("bare", [1.0])], "wandb": [row("wandb", []) | {"error": "No module named 'wandb'"}]}
    assert "| wandb | not run: No module named 'wandb' |" in table("toy", "plain", arms, 10)


def test_nested_calls_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.process_time", lambda: now[0])
    meter = Meter()

    def inner() -> None:
        now[0] += 1

    timed_inner = meter.timed(inner)

    def outer() -> None:
        timed_inner()
        now[0] += 2

    meter.timed(outer)()
    assert meter.cpu == 3
