"""What a rule may ask of a run: has it learned, does it learn now, did it begin far off."""

from __future__ import annotations

import math

import pytest

from nndiag.findings import Reading
from nndiag.rules import History, View


def view(losses: list[float], classes: float | None = None) -> View:
    """A run with one visit a loss."""
    history = History()
    for step, loss in enumerate(losses):
        readings = [Reading("run", "loss", None, step, loss)]
        if classes is not None:
            readings.append(Reading("run", "classes_seen", None, step, classes))
        history.add(step, {}, readings)
    return View(history, "any", None, 0.0)


@pytest.mark.parametrize(
    ("losses", "fell"),
    [
        ([2.0, 1.0, 1.0, 1.0], 0.5),
        ([2.0, 1.9, 1.8, 0.1], 0.1),  # the middle one of the three newest
        ([2.0, 1.9, 1.8, 0.1, 0.2], 0.9),
        ([-1.0, -2.0, -2.0, -2.0], 1.0),
        ([0.0, 1.0], None),
        ([math.nan, 1.0], None),
    ],
)
def test_how_far_the_loss_has_fallen(losses: list[float], fell: float | None) -> None:
    assert view(losses).loss_fell() == (None if fell is None else pytest.approx(fell))


@pytest.mark.parametrize(
    ("losses", "improves"),
    [
        ([2.3, 2.3, 2.3, 1.9, 1.9, 1.9], True),
        ([2.3, 2.3, 2.3, 2.2, 2.2, 2.2], False),
        ([2.3, 2.3, 2.3, 2.3, 2.3, 0.1], False),
        ([2.3, 0.1, 0.1], False),
        ([1.0, 1.0, 1.0, 3.0, 3.0, 3.0], False),
    ],
)
def test_whether_the_loss_falls_at_present(losses: list[float], improves: bool) -> None:
    assert view(losses).is_improving() is improves


@pytest.mark.parametrize(
    ("losses", "classes", "is_far"),
    [
        ([50.0, 9.0, 9.0, 9.0], 10.0, True),
        ([50.0, 9.0, 1.0, 1.0], 10.0, False),
        ([2.4, 2.4, 2.4], 10.0, False),
        ([50.0, 9.0, 9.0], None, False),
    ],
)
def test_far_above_chance(losses: list[float], classes: float | None, is_far: bool) -> None:
    """Of ten classes, guessing costs 2.3."""
    assert view(losses, classes).is_far_above_chance() is is_far


@pytest.mark.parametrize(
    ("losses", "classes", "learned", "before"),
    [
        ([2.3, 2.2, 2.2], 10.0, False, False),
        ([2.3, 1.7, 1.7, 1.7], 10.0, True, False),
        ([0.1, 0.1, 0.1], 10.0, True, True),
        ([0.1, 0.1, 5.0, 0.1], 10.0, True, True),
        ([0.5, 0.5, 0.5], 2.0, False, False),
    ],
)
def test_what_has_learned(losses: list[float], classes: float, learned: bool, before: bool) -> None:
    seen = view(losses, classes)
    assert (seen.has_learned(), seen.had_learned()) == (learned, before)
