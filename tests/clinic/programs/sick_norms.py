"""Faults of dropout and normalization."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, r_squared, sick
from ..data import Batch, Split, digits, one_class_each, pixels, rescaled, shuffled, table
from .networks import Convolutional


def adam(model: nn.Module, train: Split, test: Split, *, steps: int, lr: float = 3e-3) -> Program:
    """Trains a classifier on shuffled batches."""
    return Program(model, shuffled(train, steps), test, torch.optim.Adam(model.parameters(), lr))


class Narrow(nn.Module):
    """Two hidden layers of 16 units, dropout as a module behind each."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.fc1, self.drop1 = nn.Linear(64, 16), nn.Dropout(p)
        self.fc2, self.drop2 = nn.Linear(16, 16), nn.Dropout(p)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(F.relu(self.fc1(x)))
        return self.head(self.drop2(F.relu(self.fc2(x))))


@sick(
    "dropout on tiny layers",
    family="dropout_capacity",
    rule="ND501",
    layers=("fc1", "drop1", "fc2", "drop2"),
    proof=Proof(sick=0.6, twin=0.92),
)
def dropout_on_tiny_layers(is_faulty: bool) -> Program:
    """Dropout of .9 leaves 1.6 of 16 units on average; the twin drops nothing."""
    return adam(Narrow(0.9 if is_faulty else 0.0), *digits(), steps=300, lr=5e-3)


def dropped_and_normalized(p: float, width: int = 64) -> nn.Sequential:
    """Linear, ReLU, Dropout, BatchNorm, three times."""
    parts: list[nn.Module] = []
    for place in range(3):
        parts += [
            *(nn.Linear(width if place else 64, width), nn.ReLU()),
            *(nn.Dropout(p), nn.BatchNorm1d(width)),
        ]
    return nn.Sequential(*parts, nn.Linear(width, 10))


@sick(
    "dropout then BN",
    family="dropout_bn_order",
    rule="ND503",
    also=("bn_drift",),
    layers=("2", "3", "6", "7", "10", "11"),
    proof=Proof(sick=0.8, twin=0.94),
)
def dropout_then_bn(is_faulty: bool) -> Program:
    """Each BatchNorm learns the variance of dropped inputs, five times that of evaluation."""
    return adam(dropped_and_normalized(0.8 if is_faulty else 0.0), *digits(), steps=250)


@sick(
    "BN momentum 1e-4",
    family="bn_drift",
    rule="ND401",
    layers=("norm1", "norm2"),
    proof=Proof(sick=0.5, twin=0.94),
)
def bn_momentum(is_faulty: bool) -> Program:
    """After 250 steps the running statistics are still almost (0, 1); pixels are from 0 to 1."""
    norm = partial(nn.BatchNorm2d, momentum=1e-4 if is_faulty else 0.1)
    train, test = (rescaled(part, 0.0, 16.0, image=True) for part in pixels())
    return adam(Convolutional(norm), train, test, steps=250)


@sick(
    "one class per batch",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.5, twin=0.92),
)
def one_class_per_batch(is_faulty: bool) -> Program:
    """Every batch holds a single class; the twin's are shuffled."""
    train, test = digits(image=True)
    model = Convolutional(nn.BatchNorm2d)
    batches = one_class_each(train, 200) if is_faulty else shuffled(train, 200)
    return Program(model, batches, test, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


class Regressor(nn.Module):
    """LayerNorm over the columns of a table, two hidden layers, one price."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.fc1, self.fc2, self.head = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(F.relu(self.fc1(self.norm(x))))))


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a regression with one output."""
    return F.mse_loss(model(batch.x).squeeze(-1), batch.y)


@sick(
    "LN on a raw table",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("norm",),
    proof=Proof(sick=0.3, twin=0.9),
)
def ln_on_a_raw_table(is_faulty: bool) -> Program:
    """One column of about 1,000 decides what LayerNorm divides by; the twin standardizes the columns."""
    train, test = table()
    if not is_faulty:
        mean, std = train.x.mean(0), train.x.std(0)
        train, test = (Split((part.x - mean) / std, part.y) for part in (train, test))
    model = Regressor()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Program(model, shuffled(train, 200), test, optimizer, squared_error, r_squared)
