"""Faults stop at the guard; everything else passes."""

from __future__ import annotations

import logging

import pytest

from nndiag.guard import LIMIT, Guard, guarded


class Watched:
    """Something with one entry, that always fails."""

    def __init__(self, strict: bool = False, error: BaseException | None = None) -> None:
        self.guard = Guard(strict)
        self.error = error or RuntimeError("boom")
        self.calls = self.released = 0

    def release(self) -> None:
        self.released += 1

    @guarded("the entry")
    def entry(self, *args: object, **kwargs: object) -> None:
        self.calls += 1
        raise self.error


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError(), KeyError("k"), Unprintable()])
def test_a_fault_is_swallowed_counted_and_said_once(error, caplog):
    watched = Watched(error=error)
    with caplog.at_level(logging.WARNING, logger="nndiag"):
        for _ in range(LIMIT + 5):
            assert watched.entry(1, two=2) is None
    assert watched.calls == LIMIT, "the feature is off after LIMIT faults"
    assert watched.guard.faults == {"the entry": LIMIT}
    assert len(caplog.records) == 1
    assert watched.guard.causes["the entry"]


def test_a_feature_that_is_off_lets_go_of_the_run():
    watched = Watched()
    for _ in range(LIMIT - 1):
        watched.entry()
    assert watched.released == 0
    watched.entry()
    assert watched.released == 1


def test_other_features_go_on():
    guard = Guard()
    for _ in range(LIMIT):
        guard.call("a", lambda: 1 / 0)
    assert guard.call("a", lambda: 1) is None
    assert guard.call("b", lambda: 1) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_interrupts_pass(error):
    with pytest.raises(type(error)):
        Watched(error=error).entry()


def test_strict_raises():
    with pytest.raises(RuntimeError, match="boom"):
        Watched(strict=True).entry()


def test_cleaning_up_runs_even_when_the_feature_is_off():
    guard, done = Guard(), []
    for _ in range(LIMIT):
        guard.call("a", lambda: 1 / 0)
    guard.clean_up("a", lambda: done.append(1))
    guard.clean_up("a", lambda: 1 / 0)
    assert done == [1]
    assert guard.faults["a"] == LIMIT + 1


def test_entries_keep_their_name_and_say_their_feature():
    assert Watched.entry.__name__ == "entry"
    assert Watched.entry.guarded_feature == "the entry"
