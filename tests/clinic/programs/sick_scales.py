"""Weights that are far too small or far too large before the first step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, RMSprop

from ..case import Program, Proof, cross_entropy, sick
from ..data import Batch, cipher, digits, recall, shuffled, surface
from .sequence_networks import Recurrent
from .sick_copies import classifies, letters_out, regresses
from .unit_networks import Reader, ResNet, Vgg, vgg_names


@sick(
    "VGG with std .01",
    family="init_scale",
    rule="ND311",
    also=("vanishing_gradient",),
    layers=vgg_names(3, "conv1", "conv2"),
    proof=Proof(sick=0.3, twin=0.9),
)
def small_vgg(is_faulty: bool) -> Program:
    """Six convolutions by an old recipe, N(0, .01), without BatchNorm: nothing gets through."""
    model = Vgg((16, 16, 32))
    for conv in model.convs:
        nn.init.zeros_(conv.bias)
        if is_faulty:
            nn.init.normal_(conv.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.02, momentum=0.9), steps=120)


class Regressor(nn.Module):
    """A plain deep perceptron with GELU as a function, one number out."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(nn.Linear(width if place else 6, width) for place in range(depth))
        self.output = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.trunk:
            x = F.gelu(layer(x))
        return self.output(x)


@sick(
    "GPT's init in a plain perceptron",
    family="init_scale",
    rule="ND311",
    also=("vanishing_gradient",),
    layers=tuple(f"trunk.{place}" for place in range(8)),
    proof=Proof(sick=0.2, twin=0.7),
)
def transformer_init_elsewhere(is_faulty: bool) -> Program:
    """Std .02 suits a transformer with norms; in eight plain layers of 64 units it leaves no signal."""
    model = Regressor(8, 64)
    for layer in model.trunk:
        nn.init.zeros_(layer.bias)
        if is_faulty:
            nn.init.trunc_normal_(layer.weight, std=0.02)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return regresses(model, surface(), SGD(model.parameters(), 0.01, momentum=0.9), steps=300)


@sick(
    "transformer with std .5",
    family="init_scale",
    rule="ND312",
    also=("saturation",),
    layers=tuple(
        f"layers.{place}{part}"
        for place in range(2)
        for part in ("", ".attention", ".attention.out_proj", ".ffn", ".ffn.up", ".ffn.down")
    ),
    proof=Proof(sick=0.5, twin=0.9),
)
def large_transformer(is_faulty: bool) -> Program:
    """An init function draws every matrix of a GPT with std .5, not .02."""
    model = Reader(16, letters=24, width=32, hidden=64, depth=2)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.5 if is_faulty else 0.02)
    return letters_out(model, cipher(), AdamW(model.parameters(), 3e-3), steps=150)


class Dense(nn.Module):
    """A Linear layer by hand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class ByHand(nn.Module):
    """Hidden layers and a classifier by hand, ReLU as a method."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(Dense(width if place else 64, width) for place in range(depth))
        self.out = Dense(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x).relu()
        return self.out(x)


@sick(
    "weights from torch.randn",
    family="init_scale",
    rule="ND312",
    also=("exploding_gradient",),
    layers=("out", *(f"net.{place}" for place in range(5))),
    proof=Proof(sick=0.86, twin=0.92),
)
def unscaled_randn(is_faulty: bool) -> Program:
    """Layers by hand whose weights were never divided by the root of their inputs."""
    model = ByHand(5, 64)
    for layer in (*model.net, model.out):
        if not is_faulty:
            layer.weight.data *= (2 / layer.weight.shape[1]) ** 0.5
    return classifies(model, digits(), RMSprop(model.parameters(), 1e-3))


@sick(
    "RNN with recurrent weights from N(0, 1)",
    family="init_scale",
    rule="ND312",
    also=("saturation", "exploding_gradient"),
    layers=("rnn",),
    proof=Proof(sick=0.5, twin=0.9),
)
def large_recurrent_matrix(is_faulty: bool) -> Program:
    """A tanh RNN of 32 units whose recurrent matrix has std 1: chaos, in which the first letter is lost."""
    model = Recurrent(nn.RNN, inputs=6, width=32, outputs=6)
    nn.init.xavier_normal_(model.rnn.weight_ih_l0)
    if is_faulty:
        nn.init.normal_(model.rnn.weight_hh_l0)
    else:
        nn.init.orthogonal_(model.rnn.weight_hh_l0)
    return classifies(model, recall(20), Adam(model.parameters(), 2e-3))


def half_update(program: Program, batch: Batch) -> Tensor:
    """The usual step, the forward part in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    program.optimizer.step()
    return loss


@sick(
    "ResNet without norms, std .25",
    family="init_scale",
    rule="ND312",
    also=("exploding_gradient", "numeric"),
    layers=tuple(
        f"layer1.{place}{part}"
        for place in range(5)
        for part in ("", ".conv1", ".conv2", ".relu1", ".relu2", ".bn1", ".bn2")
    ),
    proof=Proof(sick=0.5, twin=0.9),
)
def large_resnet(is_faulty: bool) -> Program:
    """Norms were taken out of a ResNet, and convolutions of std .25 multiply the signal; in bfloat16."""
    model = ResNet(5, norm=lambda channels: nn.Identity())
    for block in model.layer1:
        for conv in (block.conv1, block.conv2):
            nn.init.normal_(conv.weight, std=0.25 if is_faulty else 0.1)
    train, test = digits(image=True)
    optimizer = SGD(model.parameters(), 0.01, momentum=0.9)
    return Program(model, shuffled(train, 150), test, optimizer, update=half_update)
