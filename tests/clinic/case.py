"""A case: a small training program whose truth is known, and what came of running it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import nndiag
from nndiag.report import Report

from .data import Batch, Split
from .rounds import moved

SEED = 0


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """The usual loss of a classifier."""
    return F.cross_entropy(model(batch.x), batch.y)


def one_update(program: Program, batch: Batch) -> Tensor:
    """The usual step: loss, gradients, one optimizer. A program with another step brings its own."""
    loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    program.optimizer.step()
    return loss


@torch.no_grad()
def accuracy(model: nn.Module, test: Split) -> float:
    """Share of test samples (or positions) classified right; NaN once the outputs are not finite."""
    outputs = model(test.x)
    if not outputs.isfinite().all():
        return math.nan
    return float((outputs.argmax(-1) == test.y).double().mean())


@torch.no_grad()
def r_squared(model: nn.Module, test: Split) -> float:
    """Share of the variance of the targets that is explained."""
    residual = test.y - model(test.x).squeeze(-1)
    return float(1 - residual.square().mean() / test.y.var(correction=0))


@dataclass
class Program:
    """All it takes to train: a model, its batches, a loss, an optimizer, and how to tell what came of it."""

    model: nn.Module
    batches: Sequence[Batch]
    test: Split
    optimizer: Optimizer | Sequence[Optimizer]
    loss: Callable[[nn.Module, Batch], Tensor] = cross_entropy
    metric: Callable[[nn.Module, Split], float] = accuracy
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    update: Callable[[Program, Batch], Tensor] = one_update

    def train(self) -> list[float]:
        """A plain loop that nobody watches; returns the loss of every step."""
        return [float(self.step(batch).detach()) for batch in self.batches]

    def train_watched(self, options: Mapping[str, Any]) -> tuple[nndiag.Monitor, list[float]]:
        """The same loop under ``nndiag.Monitor``; returns the monitor as well.

        Visits are never thinned (``max_overhead=None``), so that a verdict does not depend on the machine.
        """
        losses = []
        options = {"max_overhead": None, "console": False, **options}
        with nndiag.Monitor(self.model, optimizer=self.optimizer, **options) as monitor:
            for batch in self.batches:
                loss = self.step(batch)
                monitor.step(loss, labels=batch.labels)
                losses.append(float(loss.detach()))
        return monitor, losses

    def step(self, batch: Batch) -> Tensor:
        """One turn of the loop: an update, then the schedule of the learning rate."""
        loss = self.update(self, batch)
        if self.scheduler is not None:
            self.scheduler.step()
        return loss

    def score(self) -> float:
        """The metric in eval mode."""
        self.model.eval()
        return self.metric(self.model, self.test)


@dataclass(frozen=True)
class Run:
    """What came of a program."""

    report: Report
    metric: float
    losses: tuple[float, ...]
    seconds: float
    faults: Mapping[str, str] = field(default_factory=dict)
    """Features of nndiag that failed, and why; must be empty."""


@dataclass(frozen=True)
class Proof:
    """The gap that makes a case: the twin's metric is above ``twin``, the sick one's below ``sick`` or NaN.

    For a healthy program only ``twin`` counts.
    """

    twin: float
    sick: float = math.nan

    def shows_symptom(self, metric: float) -> bool:
        """Whether a sick program is sick."""
        return math.isnan(metric) or metric < self.sick

    def trains_well(self, metric: float) -> bool:
        """Whether a twin or a healthy program learned its task."""
        return metric > self.twin


@dataclass(frozen=True)
class Case:
    """A program with its truth.

    Attributes:
        name: Unique; also decides the half of the collection it belongs to.
        kind: Whether a fault was planted.
        make: Makes the program; the argument says whether with its fault. Healthy ones have none.
        proof: What the metric must show.
        family: The root fault; None for healthy programs.
        accept: Families that are true statements about the run, the root among them.
        layers: Modules a right finding may name; empty for a fault of the run as a whole.
        rule: The rule that is expected to find it; the gate asks for the case once this rule exists.
        traps: Families that naive thresholds raise wrongly on a healthy program.
        twin_follows: Rules whose advice is the very change that makes the twin.
    """

    name: str
    kind: Literal["sick", "healthy"]
    make: Callable[[bool], Program]
    proof: Proof
    family: str | None = None
    accept: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    rule: str | None = None
    traps: tuple[str, ...] = ()
    twin_follows: tuple[str, ...] = ()

    @property
    def half(self) -> Literal["tuning", "check"]:
        """Which half it belongs to: thresholds may be chosen on one, and are checked on the other."""
        is_odd = hashlib.sha256(self.name.encode()).digest()[0] % 2
        return "check" if is_odd and self.name not in moved() else "tuning"

    @property
    def has_twin(self) -> bool:
        """Whether there is a fault to take out."""
        return self.kind == "sick"

    def build(self, *, twin: bool = False, seed: int = SEED) -> Program:
        """The program, the same one at each call; ``twin`` takes the fault out and leaves all else."""
        torch.manual_seed(seed)
        return self.make(self.has_twin and not twin)

    def run(self, *, twin: bool = False) -> Run:
        """Trains the program as it is published; a case is run once a process, whoever asks."""
        return _run(self, twin)

    def bare(self, *, twin: bool = False) -> float:
        """The metric after a training that nobody watches."""
        with alone():
            program = self.build(twin=twin)
            program.train()
            return program.score()


@functools.cache
def _run(case: Case, twin: bool) -> Run:
    with alone():
        return watch(case.build(twin=twin))


def watch(program: Program, **options: Any) -> Run:
    """Trains a program under ``nndiag.Monitor`` and tells what came of it."""
    begin = time.perf_counter()
    monitor, losses = program.train_watched(options)
    seconds = time.perf_counter() - begin
    return Run(monitor.report, program.score(), tuple(losses), seconds, dict(monitor.guard.causes))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One thread, so that sums have one order; the generator of the caller is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


Make = Callable[[bool], Program]


def sick(
    name: str,
    *,
    family: str,
    rule: str,
    proof: Proof,
    layers: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    twin_follows: tuple[str, ...] = (),
) -> Callable[[Make], Case]:
    """Turns a function that makes a program, given whether it is faulty, into a case; ``also`` is accepted."""

    def case(make: Make) -> Case:
        return Case(
            *(name, "sick", make, proof, family, (family, *also), layers, rule), twin_follows=twin_follows
        )

    return case


def healthy(name: str, *, traps: tuple[str, ...], above: float) -> Callable[[Callable[[], Program]], Case]:
    """Turns a function that makes a healthy program into a case; its metric ends ``above``."""

    def case(make: Callable[[], Program]) -> Case:
        return Case(name, "healthy", lambda _: make(), Proof(above), traps=traps)

    return case
