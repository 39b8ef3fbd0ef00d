"""Faults of the learning rate: too high from the start, or all at once in the middle."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, MultiStepLR

from ..case import Program, Proof, r_squared, sick
from ..data import Batch, Split, digits, rows, shuffled, table
from .networks import Convolutional, Perceptron
from .sequence_networks import Encoder, Recurrent


@sick(
    "CNN under SGD at 1",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "dead_units"),
    proof=Proof(sick=0.5, twin=0.94),
)
def hot_cnn(is_faulty: bool) -> Program:
    """SGD with momentum at a rate of 1, as in a recipe for large batches and BatchNorm; the twin has .05."""
    train, test = digits(image=True)
    model = Convolutional()
    optimizer = torch.optim.SGD(model.parameters(), 1.0 if is_faulty else 0.05, momentum=0.9)
    return Program(model, shuffled(train, 200), test, optimizer)


@sick(
    "transformer under Adam at .1",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "saturation"),
    proof=Proof(sick=0.6, twin=0.85),
)
def hot_transformer(is_faulty: bool) -> Program:
    """Four layers of attention over rows, under Adam at .1 as copied from a recipe for SGD; the twin has .003."""
    train, test = rows()
    model = Encoder(4, width=24, heads=2)
    optimizer = torch.optim.Adam(model.parameters(), 0.1 if is_faulty else 3e-3)
    return Program(model, shuffled(train, 110, size=32), test, optimizer)


@sick(
    "RNN under RMSprop at .1",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "saturation"),
    proof=Proof(sick=0.5, twin=0.9),
)
def hot_rnn(is_faulty: bool) -> Program:
    """A tanh RNN over the rows of digits under RMSprop at .1, as for a linear model; the twin has .003."""
    train, test = rows()
    model = Recurrent(nn.RNN)
    optimizer = torch.optim.RMSprop(model.parameters(), 0.1 if is_faulty else 3e-3)
    return Program(model, shuffled(train, 200), test, optimizer)


class Autoencoder(nn.Module):
    """64 pixels to a narrow code and back, ELU as a function."""

    def __init__(self, code: int = 8, width: int = 48) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"fc": nn.Linear(64, width), "code": nn.Linear(width, code)})
        self.decoder = nn.ModuleDict({"fc": nn.Linear(code, width), "out": nn.Linear(width, 64)})

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder["code"](F.elu(self.encoder["fc"](x)))
        return self.decoder["out"](F.elu(self.decoder["fc"](code)))


def reconstruction(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error of the pixels."""
    return F.mse_loss(model(batch.x), batch.x)


@torch.no_grad()
def reconstructed(model: nn.Module, test: Split) -> float:
    """Share of the variance of the pixels that comes back."""
    return float(1 - F.mse_loss(model(test.x), test.x) / test.x.var(0, correction=0).mean())


@sick(
    "autoencoder under AdamW at .3",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift",),
    proof=Proof(sick=0.2, twin=0.6),
)
def hot_autoencoder(is_faulty: bool) -> Program:
    """AdamW at .3 instead of .003: two zeros were lost."""
    train, test = digits()
    model = Autoencoder()
    optimizer = torch.optim.AdamW(model.parameters(), 0.3 if is_faulty else 3e-3)
    return Program(model, shuffled(train, 250), test, optimizer, reconstruction, reconstructed)


class Tabular(nn.Module):
    """Two hidden layers with LayerNorm and SiLU, one number."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Linear(8, width), nn.LayerNorm(width)
        self.fc2, self.norm2 = nn.Linear(width, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.fc1(x)))
        return self.out(F.silu(self.norm2(self.fc2(x))))


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a regression with one number."""
    return F.mse_loss(model(batch.x).squeeze(-1), batch.y)


@sick(
    "rate times 100 midway",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "numeric"),
    proof=Proof(sick=0.4, twin=0.85),
)
def jumping_rate(is_faulty: bool) -> Program:
    """Halfway the schedule multiplies the rate by 100, where it should divide it by 10."""
    train, test = table()
    mean, std = train.x.mean(0), train.x.std(0)
    train, test = (Split((part.x - mean) / std, part.y) for part in (train, test))
    model = Tabular()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    factor = 100.0 if is_faulty else 0.1
    scheduler = LambdaLR(optimizer, lambda step: factor if step >= 120 else 1.0)
    batches = shuffled(train, 240)
    return Program(model, batches, test, optimizer, squared_error, r_squared, scheduler)


@sick(
    "gamma of a step schedule inverted",
    family="activation_shift",
    rule="ND102",
    also=("lr_too_high", "dead_units"),
    proof=Proof(sick=0.7, twin=0.94),
)
def inverted_gamma(is_faulty: bool) -> Program:
    """A step schedule with gamma 30 for .1, its milestone near the end: what was learned is gone at once."""
    train, test = digits()
    model = Perceptron()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    scheduler = MultiStepLR(optimizer, [180], gamma=30.0 if is_faulty else 0.1)
    return Program(model, shuffled(train, 220), test, optimizer, scheduler=scheduler)


@sick(
    "warm restart far too hot",
    family="activation_shift",
    rule="ND102",
    also=("lr_too_high", "dead_units"),
    proof=Proof(sick=0.7, twin=0.9),
)
def hot_restart(is_faulty: bool) -> Program:
    """A cosine of 140 steps starts anew, but at the rate of a large model; the twin restarts where it began."""
    train, test = digits(image=True)
    model = Convolutional()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=140)
    program = Program(model, shuffled(train, 200), test, optimizer, scheduler=scheduler)
    if is_faulty:
        _heat_up(program, after=140, lr=0.3)
    return program


def _heat_up(program: Program, *, after: int, lr: float) -> None:
    """Gives the schedule another base rate once ``after`` steps are done."""
    plain, done = program.update, itertools.count(1)

    def update(program: Program, batch: Batch) -> Tensor:
        if next(done) == after:
            program.scheduler.base_lrs = [lr]
        return plain(program, batch)

    program.update = update
