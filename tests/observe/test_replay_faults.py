"""A fault at any operation of a replay, or in any call of a listener, leaves the model as it was."""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
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
from torch.utils._python_dispatch import TorchDispatchMode

from nndiag.observe.probe import Probe
from nndiag.observe.watch import Call

from .runs import plain


class Restless(nn.Module):
    """Writes a buffer, a parameter, attributes, and draws from all there is."""

    queue: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("queue", torch.zeros(3, 4))
        self.calls, self.past = 0, collections.deque([0.0], maxlen=3)
        self.noise = torch.Generator().manual_seed(1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 4] to [N, 2]."""
        self.calls += 1
        with torch.no_grad():
            self.queue.copy_(torch.cat([self.queue[1:], x.mean(0, keepdim=True)]))
            self.first.weight.mul_(0.99)
            self.last.weight.data = self.last.weight.data + 0.01
        self.past.append(random.random() + np.random.rand())
        h = torch.relu(self.norm(self.first(x + self.queue.mean(0)))) * (1 + 0.1 * sum(self.past))
        return self.last(h + 0.1 * torch.randn(h.shape, generator=self.noise) + torch.rand(()))


class Strikes(Exception):
    """The injected fault."""


class FailingOperation(TorchDispatchMode):
    """Raises at the ``nth`` operation, before or after it ran."""

    def __init__(self, nth: int, late: bool) -> None:
        super().__init__()
        self.nth, self.late, self.count = nth, late, itertools.count()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        strikes = next(self.count) == self.nth
        if strikes and not self.late:
            raise Strikes
        output = func(*args, **(kwargs or {}))
        if strikes:
            raise Strikes
        return output


class FailingListener:
    """Raises at the ``nth`` time that it is told of something."""

    def __init__(self, nth: int) -> None:
        self.nth, self.count = nth, itertools.count()

    def before(self, call: Call) -> None:
        """A call begins."""
        if next(self.count) == self.nth:
            raise Strikes

    def after(self, call: Call, output: Any) -> None:
        """A call ends."""
        self.before(call)


@pytest.fixture
def certified() -> tuple[Restless, Probe]:
    """A model after one training step, and its probe."""
    torch.manual_seed(0)
    model = Restless()
    probe = Probe(model, samples=4)
    probe.arm()
    probe.open_window(glue=True)
    loss = model(torch.randn(4, 4)).square().mean()
    probe.close_window()
    loss.backward()
    probe.disarm()
    probe.certify()
    assert probe.certified
    return model, probe


def everything(model: nn.Module) -> Outcome:
    """State, identity and memory of all tensors, Python state, generators, hooks, settings."""
    own = {
        f"{name}/{key}": plain(value)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if not key.startswith("_")
    }
    tensors = [*model.parameters(), *model.buffers()]
    marks = [(tensor.data_ptr(), id(tensor)) for tensor in tensors]
    found = model_state(model) | random_streams() | hook_counts(model, []) | flatten(own, "python")
    return found | flatten(marks, "marks") | Surroundings.of(model).changes(model)


def struck(replay: Callable[[int], Any], model: nn.Module) -> dict[int, Any]:
    """What differs after a replay that failed at its first, second, ... operation, until none is left to fail."""
    before, found = everything(model), {}
    for nth in itertools.count():
        try:
            replay(nth)
        except Strikes:
            found[nth] = differing(before, everything(model))
        else:
            break
    return found


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_fault_at_any_operation(certified: tuple[Restless, Probe], late: bool) -> None:
    model, probe = certified
    found = struck(lambda nth: probe.replay(experiment=lambda root: FailingOperation(nth, late)), model)
    assert len(found) > 20
    assert not any(found.values()), found
    assert probe.certified, "a fault of ours is no refusal of the model"


def test_fault_in_any_call_of_a_listener(certified: tuple[Restless, Probe]) -> None:
    model, probe = certified
    found = struck(lambda nth: probe.replay(FailingListener(nth)), model)
    assert len(found) == 2 * 5  # the root, first, norm, relu, last
    assert not any(found.values()), found


def test_replay_without_fault_leaves_everything(certified: tuple[Restless, Probe]) -> None:
    model, probe = certified
    before = everything(model)
    outputs = [probe.replay()[0][0] for _ in range(2)]
    assert differing(before, everything(model)) == {}
    assert torch.equal(*outputs)
