"""Hard programs: training is the same to the bit, and the probe makes of each what it should."""

from __future__ import annotations

import pytest

from .cases import CASES, Case
from .runs import Run, bare, changes, run

WATCHED: dict[Case, Run] = {}


def watched(case: Case) -> Run:
    """The watched run, once a process."""
    if case not in WATCHED:
        bare(case)
        WATCHED[case] = run(case, watched=True)
    return WATCHED[case]


def by_name(case: Case) -> str:
    """Test ids."""
    return case.name.replace(" ", "-")


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_training_is_the_same_to_the_bit(case: Case) -> None:
    assert changes(case, watched(case).outcome) == {}


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_probe_makes_of_it_what_it_should(case: Case) -> None:
    probe = watched(case).probe
    assert probe.refusal is None if case.refused is None else probe.refusal.code == case.refused
    if case.refused is not None:
        return
    assert probe.certified
    assert (None if probe.whole else probe.n) == case.rows
    assert probe.stale == set(case.stale)
    for expected, found in ((case.pinned, probe.pinned), (case.notes, probe.notes)):
        assert all(any(part in each for each in found) for part in expected), found
        assert bool(found) == bool(expected), found
