"""What the sandbox cannot vouch for is refused: said by its code, training as before, the stream stands in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag import compat

from .cases import Case
from .programs import network, perceptron
from .runs import STEPS, changes, run

DEEP = 6
"""Levels of nesting below which state is not looked for."""


class Opaque:
    """Cannot be taken apart: no items, no attributes, one slot."""

    __slots__ = ("x",)

    def __init__(self, x: Tensor) -> None:
        self.x = x


class Stream:
    """Can be read only once."""

    def __init__(self, *items: Tensor) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[Tensor]:
        return self._items

    def __next__(self) -> Tensor:
        return next(self._items)


def buried() -> Any:
    """A counter too deep to be found."""
    value: Any = itertools.count()
    for _ in range(DEEP):
        value = [value]
    return value


def dig(value: Any) -> int:
    """Its next number."""
    while isinstance(value, list):
        value = value[0]
    return next(value)


def dense(forward: Any, **parts: Any) -> Any:
    """A module that holds a perceptron."""
    return lambda: network(
        forward, net=perceptron(), **{key: part() if callable(part) else part for key, part in parts.items()}
    )


def renaming(m: Any, x: Tensor) -> Tensor:
    m.seen[f"call {dig(m.numbers)}"] = 1
    return m.net(x)


def failing(m: Any, x: Tensor) -> Tensor:
    if not m.training:
        raise RuntimeError("no evaluation here")
    return m.net(x)


def exhausting(m: Any, x: Tensor) -> Tensor:
    if not m.training:
        raise torch.OutOfMemoryError
    return m.net(x)


def late(m: Any, x: Tensor) -> Tensor:
    """Begins to write something new once it was trained for a while."""
    if m.training:
        m.steps += 1
    elif m.steps > 1:
        m.best = m.steps
    return m.net(x)


def auxiliary(m: Any, x: Tensor) -> dict[str, Tensor]:
    out = m.net(x)
    return {"out": out, "more": out * 2} if m.training else {"out": out}


SENT = [0]


def gathering(m: Any, x: Tensor) -> Tensor:
    SENT[0] += 1
    return m.net(x)


REFUSALS = (
    Case(
        "nothing is called",
        lambda: network(weight=nn.Parameter(torch.randn(4, 16))),
        lambda m, x, y: F.cross_entropy(F.linear(x, m.weight), y),
        refused="no-call",
    ),
    Case(
        "iterator in",
        dense(lambda m, xs: sum(map(m.net, xs))),
        lambda m, x, y: F.cross_entropy(m(Stream(x, x + 1)), y),
        refused="iterator-argument",
    ),
    Case(
        "opaque in",
        dense(lambda m, held: m.net(held.x)),
        lambda m, x, y: F.cross_entropy(m(Opaque(x)), y),
        refused="opaque-argument",
    ),
    Case(
        "iterator out",
        dense(lambda m, x: Stream(m.net(x))),
        lambda m, x, y: F.cross_entropy(next(m(x)), y),
        refused="iterator-output",
    ),
    Case(
        "opaque out",
        dense(lambda m, x: Opaque(m.net(x))),
        lambda m, x, y: F.cross_entropy(m(x).x, y),
        refused="opaque-output",
    ),
    Case(
        "iterator held",
        dense(lambda m, x: m.net(x) * (1 + 0.01 * next(m.numbers)), numbers=itertools.count),
        refused="unrestorable-state",
    ),
    Case(
        "another change each time", dense(renaming, seen=dict, numbers=buried), refused="unrestorable-state"
    ),
    Case("evaluation fails", dense(failing), refused="replay-raised"),
    Case("no memory", dense(exhausting), refused="too-large"),
    Case("talks to other processes", dense(gathering), refused="collective-in-forward"),
    Case(
        "an output less in evaluation",
        lambda: network(body=network(auxiliary, net=perceptron()), head=nn.Linear(4, 4)),
        lambda m, x, y: F.cross_entropy(m.head(m.body(x)["more"]), y),
        refused="unlinked-value",
    ),
    Case("a change that comes late", dense(late, steps=0, best=0), refused="late-change"),
)


@pytest.fixture(autouse=True)
def collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts what a forward pass sends."""
    monkeypatch.setattr(compat, "collective_sequence_number", lambda: SENT[0])


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name.replace(" ", "-"))
def test_refusal_is_said_and_changes_nothing(case: Case) -> None:
    watched = run(case, watched=True)
    if "another" not in case.name:  # its state is out of reach: only what it trains is the same
        assert changes(case, watched.outcome) == {}
    assert watched.session is not None
    report = watched.session.report()
    (finding,) = [finding for finding in report.findings if finding.rule == "ND903"]
    assert finding.severity == "info"
    assert f"({case.refused})" in finding.message
    assert report.run["probe"] == f"refused: {case.refused}"
    assert watched.observers.stream.stands_in_for_probe
    assert not watched.probe.certified
    assert watched.probe.n == 0


@pytest.mark.parametrize("case", [c for c in REFUSALS if c.refused != "no-call"], ids=lambda c: c.name)
def test_stream_stands_in(case: Case) -> None:
    """Activations and outputs are still measured, in training steps."""
    watched = run(case, watched=True)
    assert watched.session is not None
    assert watched.session.latest is not None
    snapshot = watched.session.latest.snapshot
    assert snapshot is not None
    seen = {(key.tap, key.observer) for key in snapshot.statistics if key.layer.endswith("net.0")}
    assert ("output", "stream") in seen
    assert ("output", "probe") not in seen


def test_what_cannot_be_repeated_is_refused() -> None:
    """State out of reach is not put back: the comparison of two replays notices."""
    case = Case("hidden", dense(lambda m, x: m.net(x) * (1 + dig(m.numbers)), numbers=buried))
    assert run(case, watched=True).probe.refusal[0] == "not-repeatable"


def test_probe_switched_off() -> None:
    case = Case("off", perceptron)
    watched = run(case, watched=True, probe=False)
    assert changes(case, watched.outcome) == {}
    assert watched.session is not None
    assert watched.session.report().run["probe"] == "off"
    assert watched.observers.stream.stands_in_for_probe


def test_transient_refusals_are_tried_again() -> None:
    """The first step hands over an iterator, the later ones do not."""
    steps: list[int] = []

    def step(m: Any, x: Tensor, y: Tensor) -> Tensor:
        steps.append(1)
        return F.cross_entropy(m([x] if len(steps) % STEPS != 1 else iter([x])), y)

    case = Case("transient", dense(lambda m, xs: sum(map(m.net, xs))), step)
    watched = run(case, watched=True)
    assert watched.probe.certified
    assert watched.probe.n == 16
