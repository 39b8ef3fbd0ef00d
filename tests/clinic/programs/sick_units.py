"""ReLU units that are off for every sample, from the start or since a step that was too large."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from ..case import Program, Proof, sick
from ..data import Split, cipher, digits, surface
from .sick_copies import classifies, letters_out, regresses
from .unit_networks import Reader, ResNet, Vgg, vgg_names


@sick(
    "detector's bias in every convolution",
    family="dead_units",
    rule="ND202",
    also=("vanishing_gradient", "not_trained"),
    layers=vgg_names(2, "conv1", "conv2"),
    proof=Proof(sick=0.3, twin=0.9),
)
def prior_everywhere(is_faulty: bool) -> Program:
    """The bias for rare positives, -log(.99 / .01), was meant for the last layer; all convolutions got it."""
    model = Vgg((12, 16))
    for conv in model.convs:
        if is_faulty:
            nn.init.constant_(conv.bias, -math.log(99))
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.03, momentum=0.9))


@sick(
    "feed-forward behind bias -4",
    family="dead_units",
    rule="ND202",
    also=("vanishing_gradient", "not_trained"),
    layers=("layers.0.ffn", "layers.0.ffn.up"),
    proof=Proof(sick=0.7, twin=0.9),
)
def dead_feed_forward(is_faulty: bool) -> Program:
    """A transformer with ReLU reads a cipher; its hidden units begin at -4 and are never on."""
    model = Reader(16, letters=24, width=16, hidden=128, act=F.relu)
    if is_faulty:
        nn.init.constant_(model.layers[0].ffn.up.bias, -4.0)
    return letters_out(model, cipher(), AdamW(model.parameters(), 1e-2))


@sick(
    "residual block with bn2.bias -10",
    family="dead_units",
    rule="ND202",
    also=("vanishing_gradient", "not_trained"),
    layers=("layer1.1", "layer1.1.bn2", "layer1.1.relu2", "layer1.1.conv2"),
    proof=Proof(sick=0.3, twin=0.9),
)
def dead_block(is_faulty: bool) -> Program:
    """A zero for bn2.weight was meant; bn2.bias got a -10, and the ReLU behind the sum lets nothing pass."""
    model = ResNet(2)
    if is_faulty:
        nn.init.constant_(model.layer1[1].bn2.bias, -10.0)
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.02, momentum=0.9), steps=120)


class Normed(nn.Module):
    """Two hidden layers with LayerNorm and ReLU as functions, one number out."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.trunk = NormedTrunk(width)
        self.value = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.trunk(x))


class NormedTrunk(nn.Module):
    """Two hidden layers; the norm's scale and shift are parameters of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, width), nn.Linear(width, width)
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        return F.layer_norm(self.fc2(x), self.shift.shape, self.scale, self.shift).relu()


@sick(
    "shift of -5 behind a functional norm",
    family="dead_units",
    rule="ND202",
    also=("vanishing_gradient", "not_trained"),
    layers=("trunk", "trunk.fc2"),
    proof=Proof(sick=0.3, twin=0.8),
)
def shifted_norm(is_faulty: bool) -> Program:
    """The shift of a layer norm begins at -5, five deviations below zero: its ReLU is never on."""
    model = Normed()
    if is_faulty:
        nn.init.constant_(model.trunk.shift, -5.0)
    return regresses(model, surface(), Adam(model.parameters(), 5e-3), steps=250)


class Value(nn.Module):
    """Three hidden layers with ReLU as modules, and a value."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU()),
        )
        self.value = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(self.body(x))


@sick(
    "prices around 30 under SGD",
    family="dead_units",
    rule="ND202",
    also=("lr_too_high", "exploding_gradient", "activation_shift", "vanishing_gradient", "not_trained"),
    layers=tuple(f"body.{place}" for place in range(6)),
    proof=Proof(sick=0.2, twin=0.8),
)
def huge_first_step(is_faulty: bool) -> Program:
    """Prices in their own unit: the first gradients are so large that no ReLU is on after them."""
    train, test = surface()
    if is_faulty:
        train, test = (Split(part.x, 10 * part.y + 30) for part in (train, test))
    model = Value()
    return regresses(model, (train, test), SGD(model.parameters(), 0.005, momentum=0.9), steps=500)


@sick(
    "warm-up the wrong way round",
    family="dead_units",
    rule="ND202",
    also=("lr_too_high", "exploding_gradient", "activation_shift", "vanishing_gradient", "not_trained"),
    layers=vgg_names(2, "conv1", "conv2"),
    proof=Proof(sick=0.3, twin=0.9),
)
def reversed_warm_up(is_faulty: bool) -> Program:
    """The warm-up divides by the step where it should multiply: the first steps are huge, the rest is dead."""
    model = Vgg((12, 16))
    optimizer = SGD(model.parameters(), 0.06, momentum=0.9)

    def factor(step: int) -> float:
        share = min((step + 1) / 150, 1.0)
        return 1 / share if is_faulty else share

    program = classifies(model, digits(image=True), optimizer, steps=220)
    program.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return program
