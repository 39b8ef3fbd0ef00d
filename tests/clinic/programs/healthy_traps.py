"""Healthy programs with something in them that naive thresholds take for a fault."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, accuracy, cross_entropy, healthy
from ..data import Batch, Split, digits, pixels, rescaled, shuffled, text
from .networks import Adapted, Convolutional, Perceptron, Probed, SparseCode, Transformer, pretrained


def trained_by_adam(model: nn.Module, *, steps: int, lr: float = 3e-3) -> Program:
    """Flat digits, shuffled batches; frozen parameters are left out."""
    train, test = digits()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Program(model, shuffled(train, steps), test, torch.optim.Adam(learned, lr))


@healthy("constant bias .1", traps=("symmetry",), above=0.94)
def constant_bias() -> Program:
    """All biases equal, weights random: random weights are enough to part units."""
    model = Perceptron()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, 0.1)
    return trained_by_adam(model, steps=250)


@healthy("zero classifier", traps=("symmetry", "init_scale"), above=0.94)
def zero_classifier() -> Program:
    """The last layer begins at zero: its rows are equal and nothing flows back, for one step."""
    model = Perceptron()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return trained_by_adam(model, steps=250)


class Dropped(nn.Module):
    """Two wide hidden layers, ReLU and dropout as functions."""

    def __init__(self, p: float, width: int = 512) -> None:
        super().__init__()
        self.p = p
        self.fc1, self.fc2, self.head = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.fc1, self.fc2):
            x = F.dropout(F.relu(layer(x)), self.p, self.training)
        return self.head(x)


@healthy("dropout .5 in wide layers", traps=("dropout_capacity",), above=0.94)
def dropout_in_wide_layers() -> Program:
    """256 of 512 units are left."""
    return trained_by_adam(Dropped(0.5), steps=120, lr=1e-3)


@healthy("LoRA", traps=("symmetry", "vanishing_gradient"), above=0.92)
def low_rank_adapters() -> Program:
    """The base knows inverted digits and is frozen; what adapts it begins at zero."""
    train, _ = digits()
    model = pretrained(Perceptron(), Split(-train.x, train.y), 150)
    for name in ("fc1", "fc2", "head"):
        setattr(model, name, Adapted(getattr(model, name)))
    return trained_by_adam(model, steps=250, lr=1e-2)


def sparse_cross_entropy(model: nn.Module, batch: Batch, penalty: float) -> Tensor:
    """Cross entropy and the L1 norm of the code."""
    loss = cross_entropy(model, batch)
    return loss + penalty * model.code.abs().sum(1).mean()


@healthy("L1-sparse code", traps=("dead_units",), above=0.94)
def sparse_code() -> Program:
    """Over 90% of a ReLU code are zeros, by intention: units are rarely on, not dead."""
    program = trained_by_adam(SparseCode(), steps=250, lr=2e-3)
    program.loss = partial(sparse_cross_entropy, penalty=3e-3)
    return program


@healthy("linear probe", traps=("bn_drift", "vanishing_gradient"), above=0.94)
def linear_probe() -> Program:
    """A head on a frozen backbone whose BatchNorm is in eval mode."""
    train, test = digits(image=True)
    backbone = pretrained(Convolutional(nn.BatchNorm2d), train, 150)
    backbone.head = nn.Identity()
    model = Probed(backbone, features=64)
    optimizer = torch.optim.Adam(model.head.parameters(), 1e-2)
    return Program(model, shuffled(train, 200), test, optimizer)


def next_letter(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy over all positions."""
    return F.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten())


@healthy("GPT, warm-up and cosine", traps=("activation_shift", "lr_too_high"), above=0.72)
def small_gpt(steps: int = 160, warm_up: int = 30) -> Program:
    """The rate rises for 30 steps and falls to zero: shift comes late, and then goes."""
    train, test = text(length=12)
    model = Transformer(length=train.x.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), 8e-3)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    batches = shuffled(train, steps, size=32)
    return Program(model, batches, test, optimizer, next_letter, accuracy, scheduler)


@healthy("border pixels", traps=("dead_units", "input_scale"), above=0.94)
def border_pixels() -> Program:
    """Pixels from 0 to 1, some of them zero in every image."""
    train, test = (rescaled(part, 0.0, 16.0) for part in pixels())
    model = Perceptron()
    return Program(model, shuffled(train, 300), test, torch.optim.Adam(model.parameters(), 5e-3))
