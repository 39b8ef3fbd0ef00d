"""The gate: what can be found is found, in the right place, and nobody healthy is accused.

Program by program for the public sample. The whole collection is judged by its marks, and only when slow tests are
asked for: docs/evidence.md says which programs are missed.
"""

from __future__ import annotations

import pytest

from .case import Case
from .judge import Judgement, Totals, judge
from .programs import CASES, HEALTHY, SICK
from .rounds import public

PUBLIC_SICK = tuple(case for case in SICK if case.name in public())
PUBLIC_HEALTHY = tuple(case for case in HEALTHY if case.name in public())


def by_name(case: Case) -> str:
    """Test ids."""
    return case.name.replace(" ", "-")


def told(judgement: Judgement) -> str:
    """What was said, for the message of a failure."""
    words = [f"{f.rule} {f.severity} {f.status} {f.layers}" for f in judgement.stated]
    return "; ".join(words) or "nothing"


@pytest.mark.parametrize("case", PUBLIC_SICK, ids=by_name)
def test_fault_is_found_first_and_in_its_place(case: Case) -> None:
    judgement = judge(case)
    assert judgement.run.faults == {}
    assert judgement.is_led_right, f"{case.family} at {case.layers or 'the run'}, but: {told(judgement)}"


@pytest.mark.parametrize("case", PUBLIC_SICK, ids=by_name)
def test_twin_is_not_accused(case: Case) -> None:
    judgement = judge(case, twin=True)
    assert judgement.run.faults == {}
    assert judgement.alarms == (), told(judgement)


@pytest.mark.parametrize("case", PUBLIC_HEALTHY, ids=by_name)
def test_healthy_program_is_not_accused(case: Case) -> None:
    judgement = judge(case)
    assert judgement.run.faults == {}
    assert judgement.alarms == (), told(judgement)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_marks_of_the_whole_collection_do_not_fall() -> None:
    every = [
        judge(case, twin=twin) for case in CASES for twin in ((False, True) if case.has_twin else (False,))
    ]
    assert [judgement.case.name for judgement in every if judgement.run.faults] == []
    shares = Totals.of(every).shares
    assert shares["right family"].value >= 0.9
    assert shares["healthy accused"].hits == 0
