"""Probes that have recorded something, without a session around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nndiag.observe.probe import Probe
from nndiag.observe.recorder import Recorder
from nndiag.observe.tape import Tape


class Clock:
    """Tells the time it is given, one reading after the other, then stands still."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        if self.times:
            self.now = self.times.pop(0)
        return self.now


def record(model: nn.Module, step: Callable[[], Any], *, glue: bool = True) -> Recorder:
    """One recorded step."""
    recorder = Recorder(model)
    recorder.arm()
    recorder.open(glue)
    try:
        step()
    finally:
        recorder.disarm()
    return recorder


def tape_of(model: nn.Module, step: Callable[[], Any], *, glue: bool = True) -> Tape:
    """Its tape."""
    recorder = record(model, step, glue=glue)
    assert recorder.refusal is None
    return recorder.tape


def probe_of(
    model: nn.Module,
    inputs: Iterable[Tensor],
    step: Callable[[Any, Tensor], Any] = lambda model, x: model(x),
    *,
    samples: int = 128,
    clock: Callable[[], float] | None = None,
    time_limit_s: float | None = None,
) -> Probe:
    """A probe that has recorded and judged one step after the other."""
    probe = Probe(model, samples=samples, clock=clock or Clock())
    probe.time_limit_s = time_limit_s
    for x in inputs:
        if not probe.wants_capture:
            break
        probe.arm()
        probe.open_window(glue=True)
        step(model, x)
        probe.close_window()
        probe.disarm()
        probe.certify()
    return probe


def draw(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
