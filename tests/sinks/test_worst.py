"""One number a reading: that of the worst layer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiag.measures import MEASURES, RULES
from nndiag.sinks.worst import worst_readings
from sinks.runs import reading

SMALLEST = (
    *("initialization/signal_share", "initialization/variance_share", "initialization/mean_square_gradient"),
    *("neuron_symmetry/distinct_share", "neuron_symmetry/effective_width"),
    *("saturation/attention_entropy", "saturation/transmission"),
)
TWO_SIDED = ("ND502",)
"""Masks that never disagree are a note; a chart shows where they disagree most, which is worse."""

RATIOS = ("initialization/gradient_gain", "initialization/gradient_ratio", "initialization/weight_gain")


def worst_of(name: str, *values: float) -> dict[str, float]:
    """The worst of one reading at several layers."""
    measure, _, short = name.partition("/")
    return worst_readings(reading(f"fc{i}", v, measure=measure, name=short) for i, v in enumerate(values))


@pytest.mark.parametrize("name", ["saturation/saturated", "saturation/dead_share", "anything/else"])
def test_the_largest_is_the_worst(name: str) -> None:
    assert worst_of(name, 0.2, 0.9, 0.5) == {name: 0.9}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_is_the_worst(name: str) -> None:
    assert worst_of(name, 0.2, 0.9, 0.5) == {name: 0.2}


@pytest.mark.parametrize("name", RATIOS)
def test_ratios_are_best_at_one(name: str) -> None:
    assert worst_of(name, 1.0, 0.5, 1.9) == {name: 0.5}
    assert worst_of(name, 1.0, 0.6, 1.9) == {name: 1.9}
    assert worst_of(name, 1e30, 0.0, 0.5) == {name: 0.0}
    assert worst_of(name, 1.0, -2.0) == {name: -2.0}


@given(st.lists(st.floats(), max_size=8))
def test_the_largest_finite_value(values: list[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    assert worst_of("saturation/saturated", *values) == (
        {"saturation/saturated": max(finite)} if finite else {}
    )


def test_facts_have_no_worst_side() -> None:
    rows = [
        reading(None, 3.0, measure="run", name="loss"),
        reading(None, 1.0, measure="coverage", name="faults"),
    ]
    assert worst_readings(rows) == {}
    assert worst_readings([]) == {}


def test_order_is_that_of_appearance() -> None:
    rows = [reading(name=name) for name in ("b", "a", "b", "c")]
    assert list(worst_readings(rows)) == ["saturation/b", "saturation/a", "saturation/c"]


def test_sides_are_those_of_the_rules() -> None:
    """A rule that speaks when a reading is low must not be hidden by a chart of the highest."""
    for rule in RULES.values():
        if rule.lower_is_worse and rule.id not in TWO_SIDED:
            assert worst_of(f"{rule.measure}/{rule.reads}", 0.9, 0.2, 0.5) != {}
            assert worst_of(f"{rule.measure}/{rule.reads}", 0.9, 0.2) == {f"{rule.measure}/{rule.reads}": 0.2}


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_says_its_sides(measure: str) -> None:
    for name, side in MEASURES[measure].worst.items():
        expected = {"high": 4.0, "low": 0.5, "far from one": 4.0}[side]
        assert worst_of(f"{measure}/{name}", 1.0, 4.0, 0.5) == {f"{measure}/{name}": expected}
