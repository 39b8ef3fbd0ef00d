"""Handwritten digits, and networks that learn them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLES = 1200


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """[1200, 64] pixels, each standardized over all images, and the labels."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:SAMPLES]
    return ((x - x.mean(0)) / (x.std(0) + 0.01))[order], y[order]


def batches(size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """The rows of one batch a step, epoch after epoch; short last batches are left out."""
    generator = torch.Generator().manual_seed(seed)
    step = 0
    while step < steps:
        for rows in torch.randperm(SAMPLES, generator=generator).split(size)[: SAMPLES // size]:
            if step < steps:
                yield rows
            step += 1


def perceptron(
    activation: Callable[[], nn.Module],
    norm: Callable[[int], nn.Module] | None = None,
    widths: tuple[int, ...] = (64, 64, 64, 64, 10),
) -> nn.Sequential:
    """Linear layers, each but the last followed by its normalization, if any, and its activation."""
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        parts += [nn.Linear(inputs, outputs), *([norm(outputs)] if norm else []), activation()]
    return nn.Sequential(*parts[: -2 if norm else -1])


def train(model: nn.Module, rows: Iterator[Tensor], lr: float) -> Iterator[int]:
    """Gradient descent with momentum 0.9; tells of each step that has been taken."""
    x, y = digits()
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for step, pick in enumerate(rows):
        loss = F.cross_entropy(model(x[pick]), y[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step
