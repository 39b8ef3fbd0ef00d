"""Dropout that leaves too little, acts where it must not, or stands before a BatchNorm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, r_squared, sick
from ..data import Batch, Split, digits, rows, shuffled, table
from .norm_networks import Attending, Autoencoder, Normed, Vision
from .sequence_networks import Recurrent


def by_adam(model: nn.Module, data: tuple[Split, Split], *, steps: int, lr: float = 3e-3) -> Program:
    """Trains on shuffled batches of 64."""
    train, test = data
    return Program(model, shuffled(train, steps), test, torch.optim.Adam(model.parameters(), lr))


def standardized(data: tuple[Split, Split]) -> tuple[Split, Split]:
    """The same rows, each column with mean 0 and deviation 1."""
    train, test = data
    mean, std = train.x.mean(0), train.x.std(0)
    return Split((train.x - mean) / std, train.y), Split((test.x - mean) / std, test.y)


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a regression with one output."""
    return F.mse_loss(model(batch.x).squeeze(-1), batch.y)


@sick(
    "dropout .95 in a CNN head",
    family="dropout_capacity",
    rule="ND501",
    layers=("head.hidden", "head.drop"),
    proof=Proof(sick=0.8, twin=0.92),
)
def dropout_in_a_head(is_faulty: bool) -> Program:
    """Somebody took the probability to drop for the probability to keep: one of 20 units is left."""
    model = Vision(width=20, head_p=0.95 if is_faulty else 0.05)
    return by_adam(model, digits(image=True), steps=200, lr=6e-3)


def rebuilt(data: tuple[Split, Split]) -> tuple[Split, Split]:
    """The same inputs, and they are the targets as well."""
    return tuple(Split(part.x, part.x) for part in data)


def rebuilding_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error over all pixels."""
    return F.mse_loss(model(batch.x), batch.y)


@torch.no_grad()
def share_rebuilt(model: nn.Module, test: Split) -> float:
    """Share of the variance of all pixels that is explained."""
    residual = test.y - model(test.x)
    return float(1 - residual.square().mean() / (test.y - test.y.mean(0)).square().mean())


@sick(
    "dropout on the code of an autoencoder",
    family="dropout_capacity",
    rule="ND501",
    layers=("", "encoder", "encoder.2", "decoder", "decoder.0"),
    proof=Proof(sick=0.35, twin=0.55),
)
def dropout_on_a_code(is_faulty: bool) -> Program:
    """F.dropout of .8 on a code of 8 numbers, where each number is needed; the twin drops nothing."""
    model = Autoencoder(8, p=0.8 if is_faulty else 0.0)
    program = by_adam(model, rebuilt(digits()), steps=300)
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


PARTS = ("dropout", "dropout1", "dropout2", "self_attn", "linear1", "linear2", "norm1", "norm2")


@sick(
    "transformer with dropout .9",
    family="dropout_capacity",
    rule="ND501",
    layers=tuple(f"layers.{layer}.{part}" for layer in range(2) for part in PARTS),
    proof=Proof(sick=0.6, twin=0.88),
)
def dropped_transformer(is_faulty: bool) -> Program:
    """Attention, both residual branches and the hidden layer between lose nine of ten values."""
    model = Attending(0.9 if is_faulty else 0.1, width=16)
    return by_adam(model, rows(), steps=120, lr=5e-3)


class AlwaysDropped(nn.Module):
    """A regression with two hidden layers; dropout as a function, which knows no mode unless it is told."""

    def __init__(self, *, ignores_mode: bool) -> None:
        super().__init__()
        self.ignores_mode = ignores_mode
        self.fc1, self.fc2, self.head = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        is_active = self.training or self.ignores_mode
        x = F.dropout(F.relu(self.fc1(x)), 0.5, is_active)
        return self.head(F.dropout(F.relu(self.fc2(x)), 0.5, is_active))


@sick(
    "F.dropout without self.training",
    family="dropout_capacity",
    rule="ND504",
    layers=("", "fc1", "fc2"),
    proof=Proof(sick=0.88, twin=0.92),
)
def dropout_at_evaluation(is_faulty: bool) -> Program:
    """F.dropout(x, .5) drops in eval mode too, and predictions of prices are noisy."""
    model = AlwaysDropped(ignores_mode=is_faulty)
    program = by_adam(model, standardized(table()), steps=250)
    program.loss, program.metric = squared_error, r_squared
    return program


class Tagger(nn.Module):
    """Digits from an MLP whose dropout module is made in the forward pass, as some code does."""

    def __init__(self, *, made_in_forward: bool) -> None:
        super().__init__()
        self.made_in_forward = made_in_forward
        self.trunk, self.neck, self.out = nn.Linear(64, 64), nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        drop = nn.Dropout(0.6)
        if not self.made_in_forward:
            drop.train(self.training)
        return self.out(drop(self.neck(drop(self.trunk(x).relu())).relu()))


@sick(
    "nn.Dropout made in forward",
    family="dropout_capacity",
    rule="ND504",
    layers=("", "trunk", "neck"),
    proof=Proof(sick=0.85, twin=0.92),
)
def dropout_made_in_forward(is_faulty: bool) -> Program:
    """A module made in each forward pass is always in training mode: eval() does not reach it."""
    return by_adam(Tagger(made_in_forward=is_faulty), digits(), steps=300, lr=5e-3)


@sick(
    "Dropout2d on four channels",
    family="dropout_capacity",
    rule="ND501",
    layers=("features.0", "features.1", "features.3", "features.4", "features.5", "features.7"),
    proof=Proof(sick=0.8, twin=0.9),
)
def channel_dropout(is_faulty: bool) -> Program:
    """Of four channels one is left on average, twice in a row; the twin drops none."""
    model = Vision(4, channel_p=0.75 if is_faulty else 0.0)
    return by_adam(model, digits(image=True), steps=300, lr=5e-3)


@sick(
    "LSTM with dropout .9",
    family="dropout_capacity",
    rule="ND501",
    layers=("rnn",),
    proof=Proof(sick=0.7, twin=0.88),
)
def dropped_lstm(is_faulty: bool) -> Program:
    """Three layers of 16 units, and dropout of .9 between them, given as an option of the LSTM."""
    p = 0.9 if is_faulty else 0.0
    return by_adam(Recurrent(nn.LSTM, width=16, num_layers=3, dropout=p), rows(), steps=250, lr=1e-2)


def priced(p: float) -> nn.Sequential:
    """A regression that ends in dropout."""
    return nn.Sequential(
        *(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh()),
        *(nn.Linear(32, 1), nn.Dropout(p)),
    )


@sick(
    "dropout behind the last layer",
    family="dropout_capacity",
    rule="ND501",
    layers=("4", "5"),
    proof=Proof(sick=0.7, twin=0.9),
)
def dropout_on_the_output(is_faulty: bool) -> Program:
    """The prediction itself is dropped at random, so the network learns prices that are far too small."""
    program = by_adam(priced(0.6 if is_faulty else 0.0), standardized(table()), steps=250, lr=5e-3)
    program.loss, program.metric = squared_error, r_squared
    return program


def dropped_into_batch_norm(p: float, width: int = 32, depth: int = 5) -> nn.Sequential:
    """Stages of convolution, ReLU, channel dropout and BatchNorm, the first of stride 2."""
    parts: list[nn.Module] = []
    for stage in range(depth):
        channels, stride = (width, 1) if stage else (1, 2)
        parts += [
            *(nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU()),
            *(nn.Dropout2d(p), nn.BatchNorm2d(width)),
        ]
    return nn.Sequential(*parts, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


@sick(
    "Dropout2d straight into BN",
    family="dropout_bn_order",
    rule="ND503",
    also=("bn_drift", "dropout_capacity"),
    layers=tuple(str(4 * stage + place) for stage in range(5) for place in (2, 3)),
    proof=Proof(sick=0.6, twin=0.94),
)
def channel_dropout_into_bn(is_faulty: bool) -> Program:
    """Each BatchNorm of a CNN learns the variance of channels two thirds of which are switched off."""
    return by_adam(dropped_into_batch_norm(0.65 if is_faulty else 0.0), digits(image=True), steps=150)


@sick(
    "F.dropout, Linear, BN",
    family="dropout_bn_order",
    rule="ND503",
    also=("bn_drift",),
    layers=tuple(f"{kind}.{place}" for kind in ("hidden", "norms") for place in range(1, 4)),
    proof=Proof(sick=0.85, twin=0.94),
)
def functional_dropout_before_bn(is_faulty: bool) -> Program:
    """Dropout as a function ends each hidden layer, and the next one has a BatchNorm of its own behind its Linear."""
    model = Normed(nn.BatchNorm1d, depth=4, inputs=8, outputs=1, after=0.7 if is_faulty else 0.0)
    program = by_adam(model, standardized(table()), steps=200)
    program.loss, program.metric = squared_error, r_squared
    return program
