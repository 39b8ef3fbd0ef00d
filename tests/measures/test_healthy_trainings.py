"""Ordinary small trainings, 82 steps each: no finding at warning or above at any visit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .loops import Loss, train
from .networks import Attention, Tokens
from .runs import Batch, batches, classify

STEPS, WARM_UP = 82, 20

Optimize = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
ADAM, SGD, ADAMW = torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW


def perceptron(
    activation: type[nn.Module] = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
    p: float = 0.0,
    width: int = 64,
) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place in range(2):
        parts += [nn.Linear(64 if place == 0 else width, width)]
        parts += [norm(width)] if norm else []
        parts += [activation(), *([nn.Dropout(p)] if p else [])]
    return nn.Sequential(*parts, nn.Linear(width, 10))


class Images(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module], p: float = 0.0) -> None:
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(1, 8, 3, padding=1), norm(8)
        self.c2, self.n2 = nn.Conv2d(8, 16, 3, padding=1), norm(16)
        self.drop, self.head = nn.Dropout2d(p), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.n1(self.c1(x.view(-1, 1, 8, 8)))), 2)
        h = self.drop(F.max_pool2d(F.relu(self.n2(self.c2(h))), 2))
        return self.head(h.flatten(1))


class Encoder(nn.Module):
    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, p, batch_first=True, norm_first=True)
        self.stem, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.stem(x.view(-1, 8, 8)) + self.place).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


def autoencoder() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64))


def regressor(p: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )


def reconstruct(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[0])


def regress(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(1), batch[0][:, :8].mean(1))


def deep() -> nn.Module:
    """Eight layers with He's weights."""
    parts: list[nn.Module] = []
    for place in range(8):
        parts += [layer := nn.Linear(64 if place == 0 else 48, 48), nn.ReLU()]
        nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*parts, nn.Linear(48, 10))


class Healthy(NamedTuple):
    make: Callable[[], nn.Module]
    optimize: Optimize
    size: int = 64
    loss: Loss = classify
    has_schedule: bool = False


TRAININGS = {
    "perceptron, Adam": Healthy(perceptron, partial(ADAM, lr=1e-3)),
    "perceptron, Adam at 1e-2": Healthy(perceptron, partial(ADAM, lr=1e-2), 32),
    "perceptron, Adam at 1e-4": Healthy(perceptron, partial(ADAM, lr=1e-4)),
    "perceptron, SGD at 1e-4": Healthy(perceptron, partial(SGD, lr=1e-4, momentum=0.9)),
    "perceptron, batches of 8": Healthy(perceptron, partial(SGD, lr=0.02), 8),
    "tanh, batches of 128": Healthy(partial(perceptron, nn.Tanh), partial(SGD, lr=0.02, momentum=0.9), 128),
    "dropout .5": Healthy(partial(perceptron, p=0.5, width=128), partial(ADAM, lr=1e-3)),
    "dropout .1, batches of 8": Healthy(partial(perceptron, p=0.1), partial(ADAM, lr=3e-3), 8),
    "batch norm": Healthy(partial(perceptron, norm=nn.BatchNorm1d), partial(ADAM, lr=1e-2)),
    "batch norm and dropout": Healthy(
        partial(perceptron, norm=nn.BatchNorm1d, p=0.3), partial(ADAM, lr=3e-3)
    ),
    "layer norm": Healthy(partial(perceptron, nn.GELU, nn.LayerNorm), partial(ADAMW, lr=3e-3)),
    "convolutions": Healthy(
        partial(Images, lambda n: nn.Identity(), 0.2), partial(SGD, lr=0.02, momentum=0.9), 32
    ),
    "convolutions, batch norm": Healthy(partial(Images, nn.BatchNorm2d), partial(ADAM, lr=3e-3), 32),
    "convolutions, group norm": Healthy(
        partial(Images, partial(nn.GroupNorm, 4)), partial(ADAM, lr=3e-3), 32
    ),
    "encoder, warm-up and cosine": Healthy(Encoder, partial(ADAMW, lr=3e-3), 32, has_schedule=True),
    "attention, SGD": Healthy(lambda: Tokens(Attention()), partial(SGD, lr=0.05)),
    "attention, Adam": Healthy(lambda: Tokens(Attention()), partial(ADAM, lr=3e-3)),
    "LSTM": Healthy(Recurrent, partial(ADAM, lr=1e-2), 32),
    "autoencoder": Healthy(autoencoder, partial(ADAM, lr=3e-3), loss=reconstruct),
    "regression": Healthy(regressor, partial(ADAM, lr=1e-2), 32, regress),
    "regression, dropout": Healthy(partial(regressor, 0.2), partial(ADAMW, lr=3e-3), 64, regress),
    "eight layers": Healthy(deep, partial(ADAM, lr=1e-3)),
}


def factor(step: int) -> float:
    """A linear warm-up, then half a cosine."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP)))


@pytest.mark.parametrize("name", TRAININGS)
def test_no_alarm(name: str) -> None:
    healthy = TRAININGS[name]
    torch.manual_seed(0)
    model = healthy.make()
    optimizer = healthy.optimize(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor) if healthy.has_schedule else None
    watched = train(model, batches(STEPS, healthy.size), optimizer, healthy.loss, scheduler)
    findings = [f for update in watched.updates for top in update.findings for f in top.walk()]
    assert {f"{f.rule} {f.layers}" for f in findings if f.severity.rank} == set()
