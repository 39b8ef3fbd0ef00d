"""Faults that are in the weights before the first step: copies, scales, tails, dead units, depth."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..case import Program, Proof, sick
from ..data import digits, shuffled
from .networks import Deep, Perceptron, stack


def classifier(model: nn.Module, *, steps: int, lr: float = 0.1, adam: bool = False) -> Program:
    """Trains on flat digits."""
    train, test = digits()
    parameters = model.parameters()
    optimizer = torch.optim.Adam(parameters, lr) if adam else torch.optim.SGD(parameters, lr, momentum=0.9)
    return Program(model, shuffled(train, steps), test, optimizer)


def linears(model: nn.Module) -> list[nn.Linear]:
    """The Linear layers in order."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@sick("const MLP", family="symmetry", rule="ND301", layers=("fc1", "fc2"), proof=Proof(sick=0.4, twin=0.94))
def const_mlp(is_faulty: bool) -> Program:
    """Every weight is .05: all units of a hidden layer are copies of each other, and stay so."""
    model = Perceptron()
    if is_faulty:
        for layer in linears(model):
            nn.init.constant_(layer.weight, 0.05)
            nn.init.zeros_(layer.bias)
    return classifier(model, steps=220, lr=0.05)


@sick(
    "tiny tanh",
    family="init_scale",
    rule="ND311",
    also=("vanishing_gradient",),
    layers=tuple(map(str, range(12))),
    proof=Proof(sick=0.3, twin=0.94),
)
def tiny_tanh(is_faulty: bool) -> Program:
    """Weights of std .01 in six tanh layers: neither signal nor gradient gets through."""
    model = stack(6, 64, nn.Tanh)
    for layer in linears(model)[:-1]:
        if is_faulty:
            nn.init.normal_(layer.weight, std=0.01)
        else:
            nn.init.xavier_normal_(layer.weight)
    return classifier(model, steps=200, lr=0.02)


@sick(
    "big tanh",
    family="saturation",
    rule="ND201",
    also=("init_scale", "exploding_gradient"),
    layers=tuple(map(str, range(6))),
    proof=Proof(sick=0.9, twin=0.92),
)
def big_tanh(is_faulty: bool) -> Program:
    """Weights from N(0, 1.5): nearly all tanh units are at -1 or 1 from the first step on."""
    model = stack(3, 64, nn.Tanh)
    for layer in linears(model)[:-1]:
        if is_faulty:
            nn.init.normal_(layer.weight, std=1.5)
        else:
            nn.init.xavier_normal_(layer.weight)
    return classifier(model, steps=120, lr=0.01)


@sick(
    "dead bias",
    family="dead_units",
    rule="ND202",
    also=("vanishing_gradient",),
    layers=("fc2",),
    proof=Proof(sick=0.3, twin=0.94),
)
def dead_bias(is_faulty: bool) -> Program:
    """The second hidden layer begins with bias -6: its ReLU is never on."""
    model = Perceptron()
    if is_faulty:
        nn.init.constant_(model.fc2.bias, -6.0)
    return classifier(model, steps=200, lr=0.05)


@sick(
    "deep sigmoid",
    family="vanishing_gradient",
    rule="ND311",
    also=("init_scale",),
    layers=tuple(f"hidden.{place}" for place in range(7)),
    twin_follows=("ND311",),
    proof=Proof(sick=0.5, twin=0.85),
)
def deep_sigmoid(is_faulty: bool) -> Program:
    """Seven sigmoid layers with torch's default weights; the twin has tanh."""
    return classifier(Deep(7, 64, F.sigmoid if is_faulty else F.tanh), steps=200, lr=1e-3, adam=True)
