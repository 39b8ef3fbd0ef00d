"""The programs are what they say: twins train well, the sick show their symptom, and all repeat exactly."""

from __future__ import annotations

import pytest

from .case import Case
from .families import FAMILIES
from .programs import CASES, HEALTHY, SICK
from .test_gate import by_name

QUICK = ("const MLP", "tiny tanh", "dead bias", "log(softmax)", "LoRA", "border pixels")
"""Proved in every run of the tests; all the others when slow tests are asked for."""


def proofs(cases: tuple[Case, ...]) -> list[object]:
    """One parameter a case; slow unless quick."""
    return [
        pytest.param(case, id=by_name(case), marks=[] if case.name in QUICK else pytest.mark.slow)
        for case in cases
    ]


@pytest.mark.parametrize("case", proofs(SICK))
def test_symptom_is_of_the_fault_alone(case: Case) -> None:
    assert case.proof.shows_symptom(case.run().metric)
    assert case.proof.trains_well(case.run(twin=True).metric)


@pytest.mark.parametrize("case", proofs(HEALTHY))
def test_healthy_program_trains_well(case: Case) -> None:
    assert case.proof.trains_well(case.run().metric)


@pytest.mark.parametrize("case", proofs(CASES))
def test_program_is_the_same_at_each_call(case: Case) -> None:
    losses = []
    for _ in range(2):
        program = case.build()
        program.batches = program.batches[:5]
        losses.append(program.train())
    assert losses[0] == pytest.approx(losses[1], rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("case", SICK, ids=by_name)
def test_twin_has_the_same_modules_and_number_of_steps(case: Case) -> None:
    sick, twin = case.build(), case.build(twin=True)
    assert list(dict(sick.model.named_modules())) == list(dict(twin.model.named_modules()))
    assert len(sick.batches) == len(twin.batches)


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_truth_names_what_exists(case: Case) -> None:
    assert set(case.layers) <= set(dict(case.build().model.named_modules()))
    assert {*case.accept, *case.traps} <= set(FAMILIES)
    if case.kind == "sick":
        assert case.accept[0] == case.family
        assert case.rule in FAMILIES[case.accept[0]]


def test_names_are_unique_and_both_halves_hold_sick_and_healthy() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {(case.half, case.kind) for case in CASES} == {
        (half, kind) for half in ("tuning", "check") for kind in ("sick", "healthy")
    }
