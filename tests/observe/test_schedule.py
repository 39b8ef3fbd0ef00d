"""The schedule is a pure function of the step; the budget only thins it."""

from __future__ import annotations

import pytest

from nndiag.observe.schedule import START_UP, Budget, Schedule


def visits(schedule: Schedule, until: int, stride: int = 1) -> list[int]:
    return [step for step in range(until) if schedule.is_visit(step, stride)]


def test_start_up_visits_are_those_of_the_design():
    start = [0, 1, 2, 3, 5, 8, 12, 16, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61]
    assert visits(Schedule(1000), 100) == start == sorted(START_UP)


def test_regular_visits_come_in_bursts_of_two():
    assert visits(Schedule(50), 260)[18:] == [100, 101, 150, 151, 200, 201, 250, 251]


def test_a_short_run_is_looked_at_twenty_times():
    schedule = Schedule(50, total_steps=400)
    assert schedule.cadence == 20
    assert schedule.is_visit(399), "the last step"
    assert not schedule.is_visit(398)


def test_every_step():
    assert visits(Schedule(1), 100) == [*sorted(START_UP), *range(62, 100)]


@pytest.mark.parametrize("stride", [2, 4])
def test_thinning_keeps_start_up_and_last_step(stride):
    kept = visits(Schedule(50, 1000), 1000, stride)
    assert kept[:18] == sorted(START_UP)
    assert kept[-1] == 999
    regular = [step for step in kept[18:-1] if step % (50 * stride) not in (0, 1)]
    assert regular == []


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_budget_doubles_the_stride_only_when_regular_visits_cost_too_much():
    clock = Clock()
    budget = Budget(0.03, clock)
    clock.now = 10.0
    budget.charge(0, 9.0)
    assert budget.stride == 1, "start-up is reported apart"
    assert budget.start_up_s == 9.0
    clock.now = 109.0
    budget.charge(100, 2.0)
    budget.settle()
    assert budget.stride == 1
    assert budget.share == pytest.approx(0.02)
    budget.charge(101, 2.0)
    budget.charge(102, 0.0)
    assert budget.stride == 1, "thinned by visits, not by each time that is booked"
    budget.settle()
    assert budget.stride == 2


def test_no_limit_never_thins():
    clock = Clock()
    budget = Budget(None, clock)
    clock.now = 1.0
    budget.charge(100, 1.0)
    budget.settle()
    assert budget.stride == 1
    assert budget.share == 1.0


def test_share_before_any_time_has_passed():
    assert Budget(0.03, Clock()).share == 0.0


def paced(limit: float) -> tuple[Budget, Clock]:
    """A budget that knows a pace of one second a step, 100 seconds after the start."""
    clock = Clock()
    budget = Budget(limit, clock)
    for _ in range(101):
        budget.begin_step()
        clock.now += 1.0
    clock.now = 100.0
    return budget, clock


def test_visits_are_spread_over_the_steps_to_the_next_burst():
    budget, _ = paced(0.03)
    budget.charge(100, 2.9)
    budget.settle(50)
    assert budget.stride == 1, "2.9 of 150 seconds is less than two thirds of the limit"
    budget.charge(101, 0.2)
    budget.settle(50)
    assert budget.stride == 2


def test_one_burst_doubles_the_stride_once():
    budget, _ = paced(0.03)
    budget.charge(100, 60.0)
    budget.settle(50)
    assert budget.stride == 2


@pytest.mark.parametrize(
    ("every", "stride", "steps"),
    [
        (50, 1, [100, 150, 200]),
        (50, 2, [100, 200]),
        (1, 1, [100, 110, 120]),
        (7, 1, [70, 84, 98, 112]),
        (10, 1, [100, 110, 120]),
    ],
)
def test_units_are_compared_once_a_burst_and_not_too_often(every: int, stride: int, steps: list[int]) -> None:
    schedule = Schedule(every)
    compared = [
        step
        for step in range(70, max(steps) + 5)
        if schedule.is_visit(step, stride) and schedule.is_compared(step, stride)
    ]
    assert [step for step in compared if step >= min(steps)] == steps


def test_units_are_compared_at_each_visit_of_start_up_and_at_the_last_step() -> None:
    schedule = Schedule(50, total_steps=1000)
    assert all(schedule.is_compared(step) for step in (*START_UP, 999))
