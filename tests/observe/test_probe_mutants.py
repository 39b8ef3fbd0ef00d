"""The cases themselves, tested: each safeguard of the probe that is taken away shows in one of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from nndiag.observe import certificate, probe, recorder, sandbox, state
from nndiag.observe.barrier import WriteBarrier
from nndiag.observe.certificate import Certificate
from nndiag.observe.recorder import Ledger
from nndiag.observe.state import Pin, State
from nndiag.observe.tape import Tape
from nndiag.observe.values import Slot
from nndiag.session import Session
from nndiag.statistics import Rows

from .cases import BY_NAME, Case
from .runs import STEPS, batches, changes, run, session_for

Patch = pytest.MonkeyPatch


def is_exact(case: Case) -> bool:
    """Whether training is the same to the bit."""
    return changes(case, run(case, watched=True).outcome) == {}


def is_as_stated(case: Case) -> bool:
    """Whether the probe makes of it what the table says."""
    found = run(case, watched=True).probe
    rows = None if found.whole else found.n
    return (found.refusal is None, rows, set(found.stale)) == (
        case.refused is None,
        case.rows,
        set(case.stale),
    )


def is_repeatable(case: Case) -> bool:
    """Whether visits at equal weights see equal outputs, once the samples are complete."""
    torch.manual_seed(0)
    model = case.build()
    session = session_for(model)
    seen: list[list[Tensor]] = []
    for step, (x, y) in enumerate(batches(case)):
        session.begin_batch(step)
        session.open_window(glue=case.glue)
        loss = case.step(model, x, y)
        session.close_window()
        session.before_update(gradients=False)
        session.end_batch(loss)
        probe_ = session.observers.probe
        assert probe_ is not None
        if probe_.is_complete:
            seen.append([tensor for call in probe_.replay() for tensor in call])
    session.close()
    return len(seen) >= STEPS - 2 and all(map(torch.equal, seen[0], seen[-1])) and bool(seen[0])


def sees_parameters_before_update(case: Case) -> bool:
    """Whether each visit's outputs are those of the parameters that the step trained with."""
    torch.manual_seed(0)
    model = case.build()
    optimizer = case.optimize(model.parameters())
    session = session_for(model)
    agreed: list[bool] = []
    heard: list[Tensor] = []
    replay = session.observers.replay

    def listened(step: int, *, goes_on: bool) -> None:
        replay(step, goes_on=goes_on)
        assert session.observers.probe is not None
        heard.append(session.observers.probe.replay()[0][0])

    session.observers.replay = listened  # type: ignore[method-assign]
    first: list[Tensor] = []
    for step, (x, y) in enumerate(batches(case)):
        first.append(x)
        with torch.no_grad():
            expected = model.eval()(torch.cat(first[:2]))
        model.train()
        session.begin_batch(step)
        session.open_window(glue=True)
        loss = case.step(model, x, y)
        session.close_window()
        loss.backward()  # type: ignore[union-attr]
        session.before_update(optimizer=optimizer)
        optimizer.step()
        optimizer.zero_grad()
        session.end_batch(loss)  # type: ignore[arg-type]
        agreed.append(torch.equal(heard[-1], expected))
    session.close()
    return all(agreed)


def no_barrier(patch: Patch) -> None:
    patch.setattr(WriteBarrier, "_save", lambda self, tensor: None)


def no_pins(patch: Patch) -> None:
    patch.setattr(sandbox, "install", lambda pins: None)


def subclasses_by_their_own_methods(patch: Patch) -> None:
    patch.setattr(state, "_items", lambda held: dict(held.items()))


def equal_is_the_same(patch: Patch) -> None:
    def restore(self: State, pins: list[Pin]) -> None:
        for held, old, path in self._dicts:
            for key, value in old.items():
                if type(value) is list and held.get(key) != value:
                    pins.append(Pin("item", held, key, value, path))
                    held[key] = value

    patch.setattr(State, "_restore_dicts", restore)


def identity_without_version(patch: Patch) -> None:
    find = Ledger.find

    def naive(self: Ledger, tensor: Tensor, *, copy: bool) -> Slot:
        number = self.known(tensor)
        return Slot(number) if number is not None else find(self, tensor, copy=copy)

    patch.setattr(Ledger, "find", naive)


def slicing_by_shape(patch: Patch) -> None:
    def naive(tape: Tape, whole: Any, replay: Any) -> Certificate:
        axis, chosen, count = certificate._candidates(tape)[0]
        return Certificate(axis, chosen, count, dict.fromkeys(whole, Rows(0, 1, "sample")))

    patch.setattr(probe, "certify", naive)


def after_the_step(patch: Patch) -> None:
    before_update = Session.before_update

    def late(self: Session, **options: Any) -> None:
        before_update(self, **{**options, "certify": False})

    patch.setattr(Session, "before_update", late)


def indices_as_samples(patch: Patch) -> None:
    patch.setattr(certificate, "_leaves_data_behind", lambda *args: False)


def no_scan(patch: Patch) -> None:
    init = State.__init__

    def blind(self: State, *args: Any) -> None:
        init(self, *args)
        self.iterators.clear()

    patch.setattr(State, "__init__", blind)


def calls_only(patch: Patch) -> None:
    """Glue that is not recorded leaves inputs frozen."""
    patch.setattr(recorder.Recorder, "_record_glue", lambda self: None)


@dataclass(frozen=True)
class Mutant:
    """A safeguard taken away.

    Attributes:
        patch: Takes it away.
        holds: What then no longer holds.
        caught_by: In which cases.
    """

    patch: Callable[[Patch], None]
    holds: Callable[[Case], bool]
    caught_by: tuple[str, ...]


MUTANTS = (
    Mutant(no_barrier, is_exact, ("clamped after the update", "momentum encoder and queue")),
    Mutant(
        no_pins,
        is_repeatable,
        (
            "counter",
            "containers",
            "carried state",
            "closure",
            "momentum encoder and queue",
            "metric in forward",
        ),
    ),
    Mutant(subclasses_by_their_own_methods, is_as_stated, ("dictionary of classes",)),
    Mutant(equal_is_the_same, is_exact, ("two names for a list",)),
    Mutant(identity_without_version, is_as_stated, ("in-place without glue",)),
    Mutant(
        slicing_by_shape,
        is_as_stated,
        ("mean over the batch", "batch norm without running statistics", "experts of limited capacity"),
    ),
    Mutant(after_the_step, sees_parameters_before_update, ("control flow", "time first inside")),
    Mutant(indices_as_samples, is_as_stated, ("packed sequence",)),
    Mutant(no_scan, is_exact, ("iterator attribute",)),
    Mutant(calls_only, is_as_stated, ("variational glue", "in-place glue", "siamese")),
)

SEEDED = [
    pytest.param(mutant, BY_NAME[name], id=f"{mutant.patch.__name__}-{name}".replace(" ", "-"))
    for mutant in MUTANTS
    for name in mutant.caught_by
]


@pytest.mark.parametrize(("mutant", "case"), SEEDED)
def test_mutant_is_caught_and_nothing_else(mutant: Mutant, case: Case, monkeypatch: Patch) -> None:
    assert mutant.holds(case), "control"
    mutant.patch(monkeypatch)
    with contextlib.suppress(TypeError):  # a model that was broken may also fail
        assert not mutant.holds(case)
