"""The gate: what can be found is found, in the right place, and nobody healthy is accused."""

from __future__ import annotations

import pytest

from nndiag.measures import RULES

from .case import Case
from .judge import Judgement, judge
from .programs import HEALTHY, SICK


def by_name(case: Case) -> str:
    """Test ids."""
    return case.name.replace(" ", "-")


def told(judgement: Judgement) -> str:
    """What was said, for the message of a failure."""
    words = [f"{f.rule} {f.severity} {f.status} {f.layers}" for f in judgement.stated]
    return "; ".join(words) or "nothing"


@pytest.mark.parametrize("case", SICK, ids=by_name)
def test_fault_is_found_first_and_in_its_place(case: Case) -> None:
    if case.rule not in RULES:
        pytest.skip(f"{case.rule} does not exist yet")
    judgement = judge(case)
    assert judgement.run.faults == {}
    assert judgement.is_led_right, f"{case.family} at {case.layers or 'the run'}, but: {told(judgement)}"


@pytest.mark.parametrize("case", SICK, ids=by_name)
def test_twin_is_not_accused(case: Case) -> None:
    judgement = judge(case, twin=True)
    assert judgement.run.faults == {}
    assert judgement.alarms == (), told(judgement)


@pytest.mark.parametrize("case", HEALTHY, ids=by_name)
def test_healthy_program_is_not_accused(case: Case) -> None:
    judgement = judge(case)
    assert judgement.run.faults == {}
    assert judgement.alarms == (), told(judgement)
