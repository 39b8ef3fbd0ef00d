"""Trains a case, bare or watched by a session, and collects everything that a run leaves behind."""

from __future__ import annotations

import collections
import contextlib
import random
import types
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch._dynamo  # its first use replaces functions of torch
from families.outcome import (
    Outcome,
    Surroundings,
    differing,
    flatten,
    hook_counts,
    model_state,
    random_streams,
)
from torch import Tensor, nn

from nndiag.observe import schedule
from nndiag.observe.observers import Observers
from nndiag.observe.probe import Probe
from nndiag.options import MonitorOptions
from nndiag.session import Session

from .cases import BATCH, CLASSES, FEATURES, STACKED, Case

STEPS = 4


class Run(NamedTuple):
    """What a run left behind; the session of a watched one, and its observers, which a closed session lets go."""

    outcome: Outcome
    session: Session | None
    observers: Observers | None

    @property
    def probe(self) -> Probe:
        """The probe of a watched run."""
        assert self.observers is not None
        assert self.observers.probe is not None
        return self.observers.probe


class Visited(schedule.Schedule):
    """Every step is visited, and the last affords experiments."""

    def is_visit(self, step: int, stride: int = 1) -> bool:
        """Always."""
        return True

    def is_experiment(self, step: int) -> bool:
        """In the last step."""
        return step == STEPS - 1


def session_for(model: nn.Module, **options: Any) -> Session:
    """A session that looks at each step; its own faults raise."""
    settings = {"every_n_train_steps": 1, "max_overhead": None, "console": False, "strict": True}
    checked = MonitorOptions.checked(**{**settings, "probe_samples": STACKED, **options})
    session = Session(model, checked)
    session.schedule = Visited(1)
    return session


def batches(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """The same data each time."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        x = torch.randn(BATCH, FEATURES, generator=generator)
        yield x.to(case.dtype), torch.randint(0, CLASSES, (BATCH,), generator=generator)


def run(case: Case, *, watched: bool = False, **options: Any) -> Run:
    """Trains ``STEPS`` steps. The options are the monitor's."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = case.build()
    before = Surroundings.of(model)
    optimizers: dict[str, torch.optim.Optimizer] = {}
    session = session_for(model, **options) if watched else None
    losses: list[Tensor] = []
    for step, (x, y) in enumerate(batches(case)):
        if session is not None:
            session.begin_batch(step)
        losses.append(_step(case, model, (x, y), optimizers, session))
        losses.append(x)  # a model that writes its input must find it as it was
        if session is not None:
            session.end_batch(losses[-2], y)
    observers = session.observers if session is not None else None
    if session is not None:
        session.close()
    return Run(_collect(model, optimizers, losses, before), session, observers)


@cache
def bare(case: Case) -> Outcome:
    """The run without nndiag, once a process."""
    return run(case).outcome


def changes(case: Case, outcome: Outcome) -> dict[str, int]:
    """Number of values that differ from the bare run, by path."""
    return differing(bare(case), outcome)


def _step(
    case: Case,
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    optimizers: dict[str, torch.optim.Optimizer],
    session: Session | None,
) -> Tensor:
    """As Lightning does it: the window around the step, an update in between or after it."""
    with _window(session, case.glue):
        result = case.step(model, *batch)
        if not isinstance(result, Tensor):
            losses = [
                _update(case, getattr(model, part), loss, optimizers, part, session) for part, loss in result
            ]
            return torch.stack(losses)
    first = [result]

    def closure() -> Tensor:
        loss = first.pop() if first else case.step(model, *batch)
        optimizers["all"].zero_grad()
        loss.backward()
        if session is not None and not session.has_updated:
            session.before_update(optimizer=optimizers["all"])
        return loss.detach()

    if "all" not in optimizers:
        optimizers["all"] = case.optimize(model.parameters())
    optimizers["all"].step(closure)
    return result.detach().clone()


def _update(
    case: Case,
    part: nn.Module,
    loss: Tensor,
    optimizers: dict[str, torch.optim.Optimizer],
    name: str,
    session: Session | None,
) -> Tensor:
    """Manual optimization: one part's turn."""
    optimizer = optimizers.setdefault(name, case.optimize(part.parameters()))
    optimizer.zero_grad()
    loss.backward()

    def closure() -> float:
        if session is not None:
            session.before_update(optimizer=optimizer, certify=False)
        return 0.0

    optimizer.step(closure)
    return loss.detach().clone()


@contextlib.contextmanager
def _window(session: Session | None, glue: bool) -> Iterator[None]:
    if session is not None:
        session.open_window(glue=glue)
    try:
        yield
    finally:
        if session is not None:
            session.close_window()


def _collect(
    model: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    losses: list[Tensor],
    before: Surroundings,
) -> Outcome:
    outcome = model_state(model) | random_streams() | flatten(losses, "losses")
    # Attributes are compared by value below: the address of a number that is gone may be another's.
    outcome |= {k: v for k, v in before.changes(model).items() if not k.startswith("changes/replaced")}
    outcome |= flatten({name: optimizer.state_dict() for name, optimizer in optimizers.items()}, "optimizers")
    outcome |= hook_counts(model, list(optimizers.values()))
    for name, module in model.named_modules():
        own = {key: plain(value) for key, value in vars(module).items() if not key.startswith("_")}
        outcome |= flatten(own, f"python/{name}")
    return outcome


def plain(value: Any) -> Any:
    """Python state that ``flatten`` can open."""
    if isinstance(value, collections.deque):
        return [plain(item) for item in value]
    if type(value).__name__ == "Classes":
        return [(key, item.__qualname__) for key, item in dict.items(value)]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in dict.items(value)}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, types.SimpleNamespace):
        return plain(vars(value))
    if hasattr(type(value), "__slots__") and isinstance(getattr(value, "calls", None), int):
        return value.calls
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if type(value).__name__ == "count":
        return repr(value)
    return value
