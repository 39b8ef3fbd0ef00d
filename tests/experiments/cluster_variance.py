"""How far batch means of convolutions scatter, against what entries and what samples predict.

Weights are frozen and batches are drawn at random: nothing is wrong, so a ratio F of observed and predicted variance
should be 1. Drawn without replacement, batches of m among n samples make it 1 - m / n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from nndiag.statistics import Moments, Rows, canonical

from .digits import SAMPLES, batches, digits, train

LAYERS = ("conv1", "conv2", "conv3")
SIZES = (8, 32, 128)


@dataclass(frozen=True)
class Row:
    """Of one layer: medians over its channels.

    Attributes:
        layer: Its name.
        positions: Entries a sample and channel.
        size: Samples in a batch.
        naive: F where all entries count as independent.
        cluster: F by the standard error over per-sample means.
        effective: Independent entries that a sample is worth.
    """

    layer: str
    positions: int
    size: int
    naive: float
    cluster: float
    effective: float


def network() -> nn.Sequential:
    """Three convolutions on 8 x 8 images, of 64, 16 and 4 positions, and a pooled head."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


@torch.no_grad()
def seen(model: nn.Sequential, x: Tensor) -> list[Moments]:
    """Moments of the convolutions' outputs on one batch."""
    found = []
    for part in model:
        x = part(x)
        if isinstance(part, nn.Conv2d):
            view = canonical(x, unit_axis=1, rows=Rows(axis=0, positions=1, major="sample"))
            assert isinstance(view, Tensor)
            found.append(Moments.of(view).cpu())
    return found


def measure(size: int, *, is_trained: bool = False, count: int = 240, seed: int = 0) -> list[Row]:
    """Looks at ``count`` random batches, each drawn by itself; after 150 steps of training where that is asked."""
    torch.manual_seed(seed)
    model, x = network(), digits()[0]
    for _ in train(model, batches(64, 150 if is_trained else 0, seed), 0.05):
        pass
    generator = torch.Generator().manual_seed(seed)
    looks = [seen(model, x[torch.randperm(SAMPLES, generator=generator)[:size]]) for _ in range(count)]
    return [
        _row(layer, size, list(each)) for layer, each in zip(LAYERS, zip(*looks, strict=True), strict=True)
    ]


def _row(layer: str, size: int, each: list[Moments]) -> Row:
    observed = torch.stack([m.mean for m in each]).var(0)
    naive = torch.stack([m.variance / m.n for m in each]).mean(0)
    cluster = torch.stack([m.se2 for m in each]).mean(0)
    positions = int(each[0].n[0]) // size
    ratios = (observed / naive, observed / cluster, positions * naive / cluster)
    return Row(layer, positions, size, *(float(ratio.median()) for ratio in ratios))


def main() -> None:
    """Prints the table."""
    headers = (
        "layer",
        "positions",
        "weights",
        "batch",
        "F, entries",
        "F, samples",
        "entries a sample is worth",
    )
    table = Table(*headers, title="Variance of batch means: observed over predicted (median over channels)")
    found = {(n, t): measure(n, is_trained=t) for n in SIZES for t in (False, True)}
    for place in range(len(LAYERS)):
        for (size, is_trained), rows in found.items():
            row = rows[place]
            numbers = (f"{row.naive:.2f}", f"{row.cluster:.2f}", f"{row.effective:.1f}")
            weights = "trained" if is_trained else "initial"
            table.add_row(row.layer, str(row.positions), weights, str(size), *numbers)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
