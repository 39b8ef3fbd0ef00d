"""Faults of depth and of time: gradients that vanish or explode on their way back."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, cross_entropy, sick
from ..data import Batch, Split, digits, recall, rows, shuffled
from .networks import Deep
from .sequence_networks import Encoder, Recurrent


def sgd(model: nn.Module, data: tuple[Split, Split], *, steps: int, lr: float) -> Program:
    """Trains a classifier by SGD with momentum."""
    train, test = data
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    return Program(model, shuffled(train, steps), test, optimizer)


def adam(model: nn.Module, data: tuple[Split, Split], *, steps: int, lr: float) -> Program:
    """Trains a classifier by Adam."""
    train, test = data
    return Program(model, shuffled(train, steps), test, torch.optim.Adam(model.parameters(), lr))


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
    proof=Proof(sick=0.4, twin=0.9),
)
def forgetful_rnn(is_faulty: bool) -> Program:
    """Default recurrent weights forget the first of 40 letters; the twin's are orthogonal."""
    model = Recurrent(nn.RNN, inputs=6, width=32, outputs=6)
    if not is_faulty:
        nn.init.orthogonal_(model.rnn.weight_hh_l0)
    return adam(model, recall(40), steps=200, lr=2e-3)


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
    return adam(Encoder(6, is_residual=not is_faulty), rows(), steps=150, lr=2e-3)


@sick(
    "RNN with recurrent weights x1.5",
    family="exploding_gradient",
    rule="ND602",
    also=("init_scale", "numeric"),
    layers=("rnn",),
    proof=Proof(sick=0.5, twin=0.85),
)
def exploding_rnn(is_faulty: bool) -> Program:
    """A ReLU RNN over 32 pairs of pixels; its recurrent matrix is half as large again as the twin's."""
    data = tuple(Split(part.x.reshape(-1, 32, 2), part.y) for part in digits())
    model = Recurrent(nn.RNN, inputs=2, width=32, nonlinearity="relu")
    nn.init.orthogonal_(model.rnn.weight_hh_l0, gain=2.1 if is_faulty else 1.4)
    return adam(model, data, steps=250, lr=2e-3)


@sick(
    "ReLU stack with weights twice too large",
    family="exploding_gradient",
    rule="ND312",
    also=("init_scale", "numeric"),
    layers=tuple(f"hidden.{place}" for place in range(12)),
    proof=Proof(sick=0.5, twin=0.9),
)
def large_relu_stack(is_faulty: bool) -> Program:
    """Twelve ReLU layers with twice He's standard deviation: signal and gradient double at each."""
    model = Deep(12, 48, F.relu)
    for layer in model.hidden:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        if is_faulty:
            layer.weight.data *= 2
    return sgd(model, digits(), steps=200, lr=5e-3)


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
    also=("init_scale", "numeric"),
    layers=tuple(f"tower.{place}{part}" for place in range(16) for part in ("", ".fc1", ".fc2")),
    proof=Proof(sick=0.6, twin=0.9),
)
def residual_tower(is_faulty: bool) -> Program:
    """Sixteen branches without norm, each adding twice what it is given; the twin scales by 1/sqrt(depth)."""
    scale = 1.0 if is_faulty else 0.25
    branches = (Branch(32, scale) for _ in range(16))
    model = nn.ModuleDict({"stem": nn.Linear(64, 32), "tower": nn.Sequential(*branches)})
    model["head"] = nn.Linear(32, 10)
    model.forward = lambda x: model["head"](model["tower"](model["stem"](x)))
    return sgd(model, digits(), steps=150, lr=5e-3)


def clipped_update(program: Program, batch: Batch, most: float) -> Tensor:
    """A step with the norm of the gradient cut at ``most``."""
    loss = cross_entropy(program.model, batch)
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
    proof=Proof(sick=0.5, twin=0.8),
)
def unclipped_irnn(is_faulty: bool) -> Program:
    """A ReLU RNN that begins at the identity, under SGD, over 32 pairs of pixels; clipping was left out."""
    data = tuple(Split(part.x.reshape(-1, 32, 2), part.y) for part in digits())
    model = Recurrent(nn.RNN, inputs=2, width=48, nonlinearity="relu")
    nn.init.eye_(model.rnn.weight_hh_l0)
    program = sgd(model, data, steps=300, lr=0.02)
    if not is_faulty:
        program.update = partial(clipped_update, most=1.0)
    return program
