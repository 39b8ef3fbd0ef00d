"""Ways to run a program other than as it is published: does the verdict depend on them?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from .case import SEED, Case, Program
from .data import Batch, Split


@dataclass(frozen=True)
class Setting:
    """A seed, options of the monitor, and what is done to the program before it trains."""

    name: str
    seed: int = SEED
    options: dict[str, object] = field(default_factory=dict)
    alter: Callable[[Program], Program] = lambda program: program

    def build(self, case: Case, *, twin: bool) -> Program:
        """The program of a case in this setting."""
        return self.alter(case.build(twin=twin, seed=self.seed))


def in_float64(program: Program) -> Program:
    """Weights, inputs and targets in double precision."""
    program.model.double()
    batches = [Batch(_double(batch.x), _double(batch.y)) for batch in program.batches]
    return replace(program, batches=batches, test=Split(_double(program.test.x), _double(program.test.y)))


def in_half_batches(program: Program) -> Program:
    """Twice as many steps, each on half a batch."""
    halves = [
        Batch(x, y)
        for batch in program.batches
        for x, y in zip(batch.x.chunk(2), batch.y.chunk(2), strict=True)
    ]
    return replace(program, batches=halves)


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


PUBLISHED = Setting("published")
SETTINGS: tuple[Setting, ...] = (
    PUBLISHED,
    *(Setting(f"seed {seed}", seed=seed) for seed in (1, 2, 3)),
    Setting("visits every 10 steps", options={"every_n_train_steps": 10}),
    Setting("visits every 200 steps", options={"every_n_train_steps": 200}),
    Setting("without the probe", options={"probe": False}),
    Setting("float64", alter=in_float64),
    Setting("half batches", alter=in_half_batches),
)
