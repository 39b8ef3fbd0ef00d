"""What the pages share: handwritten digits, a training loop with nndiag in it, and how figures look."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nndiag

torch.set_num_threads(1)  # the networks are tiny; and the same sums in the same order everywhere

INK, MUTED, FAINT = "#1f2933", "#697586", "#d5dae1"
BLUE, ORANGE, TEAL, RED, VIOLET, SAND = "#2f6db5", "#d9822b", "#1f8a84", "#c23b3b", "#7a5ab5", "#b9a27e"
CYCLE = (BLUE, ORANGE, TEAL, VIOLET, RED, SAND)

TRAINING = 1200
"""Images to learn from; the other 597 are for the test."""


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """[1797, 64] pixels, each standardized, and the labels, in random order."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return ((x - x.mean(0)) / (x.std(0) + 0.01))[order], y[order]


def shuffled(size: int = 64, seed: int = 0) -> Iterator[Tensor]:
    """The rows of one batch after another, in random order."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(TRAINING, generator=draw).split(size)[: TRAINING // size]


def perceptron(
    *widths: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Sequential:
    """Linear layers, each but the last followed by its normalization, if any, and its activation."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), *([norm(outputs)] if norm else []), activation()]
    return nn.Sequential(*parts[: -2 if norm else -1])


def linear_layers(model: nn.Module) -> list[str]:
    """The names of its linear layers, in order of depth."""
    return [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]


@dataclass
class Run:
    """What a training brought: the report, the test accuracy, losses, and readings by name and layer."""

    report: nndiag.Report = field(default_factory=nndiag.Report.empty)
    accuracy: float = 0.0
    losses: list[float] = field(default_factory=list)
    series: dict[tuple[str, str | None], dict[int, nndiag.Reading]] = field(default_factory=dict)

    def keep(self, readings: Sequence[nndiag.Reading]) -> None:
        """Files readings by name and layer."""
        for reading in readings:
            self.series.setdefault((reading.name, reading.layer), {})[reading.step] = reading

    def last(self, name: str, layer: str | None = None) -> nndiag.Reading:
        """The newest reading of this name."""
        found = self.series[name, layer]
        return found[max(found)]

    @property
    def rules(self) -> set[str]:
        """The rules that speak, also those put under another's finding."""
        found = list(self.report.findings)
        for finding in found:
            found.extend(finding.related)
        return {finding.rule for finding in found}


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor] | None = None) -> float:
    """The share of test images that it names rightly, in evaluation mode."""
    x, y = data or digits()
    was_training = model.training
    with torch.no_grad():
        right = model.eval()(x[TRAINING:]).argmax(1) == y[TRAINING:]
    model.train(was_training)
    return float(right.float().mean())


def train(
    model: nn.Module,
    steps: int,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    rows: Iterator[Tensor] | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    looks: Sequence[int] = (),
    change: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Run:
    """Gradient descent on cross entropy, with an ``nndiag.Monitor`` around the loop.

    Args:
        model: Is trained in place.
        steps: Optimizer steps.
        lr: Learning rate.
        momentum: Of SGD.
        rows: The rows of each batch; shuffled batches of 64 by default.
        data: Inputs and labels; the digits by default.
        looks: Steps after which readings are kept; the newest ones are kept anyway.
        change: What is done to the inputs of a batch.
        options: Of the monitor.
    """
    torch.manual_seed(1)
    run, rows = Run(), rows or shuffled()
    x, y = data or digits()
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=momentum)
    quiet = {"console": False, "max_overhead": None, "strict": True}
    with nndiag.Monitor(model, optimizer=optimizer, **quiet | options) as monitor:
        for step in range(steps):
            pick = next(rows)
            loss = F.cross_entropy(model(change(x[pick]) if change else x[pick]), y[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.step(loss, labels=y[pick])
            run.losses.append(float(loss.detach()))
            if step in looks:
                run.keep(monitor.report.readings)
    run.report, run.accuracy = monitor.report, accuracy(model, data)
    run.keep(run.report.readings)
    return run


def figure(
    width: float = 9.0, height: float = 3.6, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure in the look of these pages, and its axes."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "font.size": 10,
            "font.family": "DejaVu Sans",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": MUTED,
            "axes.titlecolor": INK,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.titlepad": 10,
            "axes.prop_cycle": plt.cycler(color=CYCLE),
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": "#eef0f3",
            "grid.linewidth": 1,
            "lines.linewidth": 2,
            "lines.solid_capstyle": "round",
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": MUTED,
            "legend.frameon": False,
            "legend.labelcolor": INK,
            "text.color": INK,
        }
    )
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def label(axes: Axes, x: float, y: float, text: str, color: str = INK, **options: Any) -> None:
    """Words beside what they name, in its color."""
    shift = {"textcoords": "offset points", "xytext": options.pop("shift", (6, 0))}
    axes.annotate(text, (x, y), color=color, **{"va": "center", "fontsize": 9} | shift | options)
