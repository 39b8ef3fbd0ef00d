"""The upstream share of a layer's shift in one step, over depth, as ``shift_origin`` reads it."""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import nndiag

from .digits import batches, digits, perceptron, train

WIDTHS = (64, 48, 48, 48, 48, 10)
NETS = {
    "relu, He initialization": (None, True, 0.01),
    "relu, PyTorch's initialization": (None, False, 0.01),
    "relu, layer norm": (nn.LayerNorm, False, 0.05),
}
"""Normalization, initialization and learning rate."""


def profile(net: str, *, seeds: int = 5) -> list[float]:
    """The share of each linear layer, from first to last, over the bursts at steps 20, 30 and 40."""
    found: list[list[float]] = []
    norm, is_he, lr = NETS[net]
    y = digits()[1]
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = perceptron(nn.ReLU, norm, WIDTHS)
        linear = [str(place) for place, part in enumerate(model) if isinstance(part, nn.Linear)]
        for name in linear if is_he else ():
            nn.init.kaiming_normal_(model[int(name)].weight, nonlinearity="relu")
            nn.init.zeros_(model[int(name)].bias)
        options = {"measures": ("shift_origin",), "max_overhead": None, "console": False, "strict": True}
        with nndiag.Monitor(model, **options) as monitor:
            for step in train(model, batches(64, 42, seed), lr):
                monitor.step(labels=y)
                if step in (21, 31, 41):
                    newest = {r.layer: r.value for r in monitor.report.readings if r.step == step}
                    found.append([newest[name] for name in linear])
    return np.mean(found, axis=0).tolist()


def main() -> None:
    """Prints the table."""
    layers = [f"layer {place}" for place in range(1, len(WIDTHS))]
    table = Table("network", "lr", *layers, title="Share of a step's shift that came in with the inputs")
    for net, (_, _, lr) in NETS.items():
        table.add_row(net, f"{lr:g}", *(f"{share:.2f}" for share in profile(net)))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
