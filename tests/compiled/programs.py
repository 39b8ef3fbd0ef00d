"""The compiled trainings: what is compiled, and how."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

import nndiag

FEATURES, WIDTH, CLASSES = 8, 16, 3
BATCHES = (8, 8, 6)
"""Rows of the batches where they change, over and over."""


class Block(nn.Module):
    """Functional operations beside modules."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[N, WIDTH] to the same."""
        return x + F.dropout(self.down(F.gelu(self.up(self.norm(x)))), 0.1, self.training)


def network() -> nn.Sequential:
    """Batch norm, dropout, and two blocks."""
    return nn.Sequential(
        *(nn.Linear(FEATURES, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(0.2)),
        *(Block(), Block(), nn.Linear(WIDTH, CLASSES)),
    )


@dataclass
class Parts:
    """A program, ready to train.

    Attributes:
        watched: What the monitor is given.
        loss: Of a batch.
        optimizer: Of all parameters.
        update: Its step.
    """

    watched: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    update: Callable[[], Any]


def eager() -> Parts:
    """Nothing is compiled."""
    return _parts(network())


def whole(**options: Any) -> Parts:
    """``torch.compile(model)``, and it is what the monitor is given."""
    return _parts(torch.compile(network(), **options))


def inner(**options: Any) -> Parts:
    """Two blocks are compiled, the model around them is not."""
    model = network()
    model[4], model[5] = (torch.compile(model[place], **options) for place in (4, 5))
    return _parts(model)


def in_place(**options: Any) -> Parts:
    """``model.compile()``."""
    model = network()
    model.compile(**options)
    return _parts(model)


def beside(**options: Any) -> Parts:
    """The compiled model trains, the monitor is given the one that was compiled."""
    model = network()
    compiled = torch.compile(model, **options)
    return _parts(model, lambda x, y: F.cross_entropy(compiled(x), y))


def function(**options: Any) -> Parts:
    """The loss is a compiled function: modules are called inside it, where no hook can be."""
    model = network()
    return _parts(model, torch.compile(lambda x, y: F.cross_entropy(model(x), y), **options))


def update(**options: Any) -> Parts:
    """The optimizer's step is compiled."""
    parts = _parts(network())
    return Parts(parts.watched, parts.loss, parts.optimizer, torch.compile(parts.update, **options))


def _parts(model: Any, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Parts:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Parts(
        model, loss or (lambda x, y: F.cross_entropy(model(x), y)), optimizer, lambda: optimizer.step()
    )


@dataclass(frozen=True)
class Program:
    """One way to compile.

    Attributes:
        make: Makes the parts.
        options: Of ``torch.compile``.
        sizes: Rows of the batches.
        region: What is compiled, as the report calls it; None where no module is.
        sees: Whether the layers can be seen.
    """

    make: Callable[..., Parts]
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] = BATCHES[:1]
    region: str | None = "the model"
    sees: bool = True


class Compiler(NamedTuple):
    """What the compiler did since it was reset: graphs, graph breaks, frames looked at, operations captured."""

    graphs: int
    breaks: int
    frames: int
    operations: int

    @classmethod
    def now(cls) -> Compiler:
        """As it stands."""
        stats, breaks = counters["stats"], sum(counters["graph_break"].values())
        frames = counters["frames"]["total"]
        return cls(stats["unique_graphs"], breaks, frames, stats["calls_captured"])


class Run(NamedTuple):
    """What a training left: its numbers, what the compiler counted, and the report of a watched one."""

    losses: list[Tensor]
    weights: dict[str, Tensor]
    random: Tensor
    compiler: Compiler
    report: nndiag.Report | None
    faults: dict[str, int]


def trained(program: Program, backend: str, steps: int, *, watched: bool) -> Run:
    """Trains from a cold compiler and from fresh seeds.

    Args:
        program: What to train.
        backend: Of the compiler; none for a program that compiles nothing.
        steps: How many.
        watched: Whether a monitor looks on.
    """
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    parts = program.make(**({"backend": backend} if backend else {}), **program.options)
    data = torch.Generator().manual_seed(1)
    settings: dict[str, Any] = {"every_n_train_steps": 20, "max_overhead": None, "console": False}
    monitor = nndiag.Monitor(parts.watched, optimizer=parts.optimizer, **settings) if watched else None
    losses = []
    with monitor or contextlib.nullcontext():
        for step in range(steps):
            x = torch.randn(program.sizes[step % len(program.sizes)], FEATURES, generator=data)
            y = x[:, :CLASSES].argmax(1)
            loss = parts.loss(x, y)
            loss.backward()  # type: ignore[no-untyped-call]
            parts.update()
            parts.optimizer.zero_grad()
            losses.append(loss.detach().clone())
            if monitor is not None:
                monitor.step(loss, labels=y)
    return Run(
        losses,
        {name: tensor.detach().clone() for name, tensor in parts.watched.state_dict().items()},
        torch.get_rng_state(),
        Compiler.now(),
        monitor.report if monitor is not None else None,
        dict(monitor.guard.faults) if monitor is not None else {},
    )


PROGRAMS: dict[str, Program] = {
    "whole model": Program(whole),
    "whole model, fullgraph": Program(whole, {"fullgraph": True}),
    "whole model, dynamic": Program(whole, {"dynamic": True}, BATCHES),
    "whole model, sizes change": Program(whole, {}, BATCHES),
    "inner modules": Program(inner, region="4, 5"),
    "inner modules, fullgraph": Program(inner, {"fullgraph": True}, region="4, 5"),
    "inner modules, dynamic": Program(inner, {"dynamic": True}, BATCHES, "4, 5"),
    "in place": Program(in_place),
    "in place, fullgraph": Program(in_place, {"fullgraph": True}),
    "original is watched": Program(beside, sees=False),
    "loss function": Program(function, sees=False),
    "optimizer step": Program(update, region=None),
}
