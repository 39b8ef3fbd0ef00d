"""Faults of depth and of time: gradients that vanish or explode on their way back."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, sick
from ..data import Batch, Split, digits, recall, rows, shuffled, text
from .networks import Deep
from .sequence_networks import Encoder, LanguageModel, Recurrent, next_letter


def sgd(model: nn.Module, data: tuple[Split, Split], *, steps: int, lr: float) -> Program:
    """Trains a classifier by SGD with momentum."""
    train, test = data
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    return Program(model, shuffled(train, steps), test, optimizer)


def adam(model: nn.Module, data: tuple[Split, Split], *, steps: int, lr: float, size: int = 64) -> Program:
    """Trains a classifier by Adam."""
    train, test = data
    return Program(model, shuffled(train, steps, size), test, torch.optim.Adam(model.parameters(), lr))


@sick(
    "twelve tanh layers, default weights",
    family="vanishing_gradient",
    rule="ND311",
    also=("init_scale",),
    layers=tuple(f"hidden.{place}" for place in range(12)),
    proof=Proof(sick=0.5, twin=0.92),
)
def deep_default_tanh(is_faulty: bool) -> Program:
    """Torch's default weights shrink the signal by .58 a layer, and the gradient too; the twin has Xavier's."""
    model = Deep(12, 48, torch.tanh)
    for layer in model.hidden:
        if not is_faulty:
            nn.init.xavier_normal_(layer.weight)
    return sgd(model, digits(), steps=200, lr=0.02)


class ConvTower(nn.Module):
    """Convolutions of one width with some activation as a function, the mean of all places, a classifier."""

    def __init__(self, depth: int, width: int, activation: object) -> None:
        super().__init__()
        self.activation = activation
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth - 1))
        self.classifier = nn.Linear(width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.activation(self.stem(x)), 2)
        for conv in self.convs:
            x = self.activation(conv(x))
        return self.classifier(F.avg_pool2d(x, 2).flatten(1))


@sick(
    "convolutions with sigmoids",
    family="vanishing_gradient",
    rule="ND601",
    also=("init_scale",),
    layers=("stem", *(f"convs.{place}" for place in range(5))),
    twin_follows=("ND311",),
    proof=Proof(sick=0.4, twin=0.9),
)
def sigmoid_convolutions(is_faulty: bool) -> Program:
    """Six convolutions with sigmoid between them, each passing at most a quarter back; the twin has ELU."""
    model = ConvTower(6, 16, torch.sigmoid if is_faulty else F.elu)
    return adam(model, digits(image=True), steps=200, lr=2e-3)


@sick(
    "RNN, answer at the beginning",
    family="vanishing_gradient",
    rule="ND601",
    also=("init_scale",),
    layers=("rnn",),
    proof=Proof(sick=0.4, twin=0.8),
)
def forgetful_rnn(is_faulty: bool) -> Program:
    """Default recurrent weights forget the first of 30 letters; the twin's are orthogonal."""
    model = Recurrent(nn.RNN, inputs=6, width=32, outputs=6)
    if not is_faulty:
        nn.init.orthogonal_(model.rnn.weight_hh_l0)
    return adam(model, recall(30), steps=280, lr=1.3e-3)


@sick(
    "LSTM with closed forget gates",
    family="vanishing_gradient",
    rule="ND601",
    also=("saturation",),
    layers=("rnn",),
    proof=Proof(sick=0.4, twin=0.9),
)
def closed_forget_gates(is_faulty: bool) -> Program:
    """Forget gates begin at a bias of -3, not 3 (a sign slip): nothing is kept for 20 steps."""
    model = Recurrent(nn.LSTM, inputs=6, width=24, outputs=6)
    with torch.no_grad():
        model.rnn.bias_hh_l0[24:48] = -3.0 if is_faulty else 3.0
    return adam(model, recall(20), steps=250, lr=5e-3)


@sick(
    "transformer without residuals",
    family="vanishing_gradient",
    rule="ND601",
    layers=tuple(
        f"layers.{place}{part}"
        for place in range(6)
        for part in ("", ".norm1", ".norm2", ".qkv", ".proj", ".fc1", ".fc2")
    ),
    proof=Proof(sick=0.5, twin=0.85),
)
def no_residuals(is_faulty: bool) -> Program:
    """Six layers of attention whose residual connections were forgotten."""
    model = Encoder(6, width=24, heads=2, is_residual=not is_faulty)
    return adam(model, rows(), steps=120, lr=2e-3, size=32)


@sick(
    "RNN with recurrent weights x1.5",
    family="exploding_gradient",
    rule="ND602",
    also=("init_scale",),
    layers=("rnn",),
    proof=Proof(sick=0.6, twin=0.75),
)
def exploding_rnn(is_faulty: bool) -> Program:
    """A ReLU RNN over 32 pairs of pixels; its recurrent matrix is half as large again as the twin's."""
    data = tuple(Split(part.x.reshape(-1, 32, 2), part.y) for part in digits())
    model = Recurrent(nn.RNN, inputs=2, width=32, nonlinearity="relu")
    nn.init.orthogonal_(model.rnn.weight_hh_l0, gain=1.95 if is_faulty else 1.3)
    return adam(model, data, steps=250, lr=4e-3)


@sick(
    "ReLU stack with weights twice too large",
    family="exploding_gradient",
    rule="ND312",
    also=("init_scale",),
    layers=tuple(f"hidden.{place}" for place in range(12)),
    proof=Proof(sick=0.65, twin=0.9),
)
def large_relu_stack(is_faulty: bool) -> Program:
    """Twelve ReLU layers with twice He's standard deviation: signal and gradient double at each."""
    model = Deep(12, 48, F.relu)
    for layer in model.hidden:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        if is_faulty:
            layer.weight.data *= 2
    train, test = digits()
    optimizer = torch.optim.RMSprop(model.parameters(), 1e-3)
    return Program(model, shuffled(train, 200), test, optimizer)


class Branch(nn.Module):
    """Two Linear layers whose output, times a scale, is added to what came in; no norm."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale, self.fc1, self.fc2 = scale, nn.Linear(width, width), nn.Linear(width, width)
        nn.init.kaiming_normal_(self.fc1.weight)
        nn.init.kaiming_normal_(self.fc2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.fc2(F.relu(self.fc1(x)))


@sick(
    "residual tower without scale",
    family="exploding_gradient",
    rule="ND312",
    also=("init_scale",),
    layers=tuple(f"tower.{place}{part}" for place in range(16) for part in ("", ".fc1", ".fc2")),
    proof=Proof(sick=0.7, twin=0.9),
)
def residual_tower(is_faulty: bool) -> Program:
    """Sixteen branches without norm, each adding as much again as it is given; the twin scales by 1/sqrt(depth)."""
    scale = 1.0 if is_faulty else 0.25
    model = nn.Sequential()
    model.add_module("stem", nn.Linear(64, 32))
    model.add_module("tower", nn.Sequential(*(Branch(32, scale) for _ in range(16))))
    model.add_module("head", nn.Linear(32, 10))
    return adam(model, digits(), steps=200, lr=3e-4)


def clipped_update(program: Program, batch: Batch, most: float) -> Tensor:
    """A step with the norm of the gradient cut at ``most``."""
    loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(program.model.parameters(), most)
    program.optimizer.step()
    return loss


@sick(
    "IRNN without clipping",
    family="exploding_gradient",
    rule="ND602",
    also=("numeric", "lr_too_high"),
    proof=Proof(sick=0.4, twin=0.72),
)
def unclipped_irnn(is_faulty: bool) -> Program:
    """A language model of ReLU units that begin at the identity; the line that clips its gradient was lost."""
    train, test = text()
    model = LanguageModel(partial(nn.RNN, nonlinearity="relu"))
    nn.init.eye_(model.rnn.weight_hh_l0)
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=0.9)
    program = Program(model, shuffled(train, 150, size=32), test, optimizer, next_letter)
    if not is_faulty:
        program.update = partial(clipped_update, most=0.5)
    return program
