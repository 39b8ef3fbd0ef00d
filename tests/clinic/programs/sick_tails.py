"""Gates, softmaxes and bounded activations that live in their tails."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adagrad, Adam, AdamW, RMSprop

from ..case import Program, Proof, sick
from ..data import actions, digits, marked, pictures, rows, surface
from .sequence_networks import Recurrent
from .sick_copies import classifies, regresses
from .unit_networks import Autoencoder


@sick(
    "LSTM with all gate biases 5",
    family="saturation",
    rule="ND201",
    also=("vanishing_gradient",),
    layers=("rnn",),
    proof=Proof(sick=0.6, twin=0.85),
)
def forget_bias_everywhere(is_faulty: bool) -> Program:
    """A forget bias was meant, but the whole bias vectors were set, the candidate's too: cells fill up."""
    model = Recurrent(nn.LSTM, inputs=8, width=32)
    for bias in (model.rnn.bias_ih_l0, model.rnn.bias_hh_l0):
        nn.init.constant_(bias if is_faulty else bias[32:64], 5.0 if is_faulty else 0.5)
    return classifies(model, rows(), Adam(model.parameters(), 3e-3))


class Finder(nn.Module):
    """One query from the mean of all letters, one softmax over them, the answer from what it picks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.query = nn.Linear(7, width), nn.Parameter(torch.randn(width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embed(x))
        weights = torch.softmax(self.key(x) @ self.query, dim=1)
        return self.head((weights.unsqueeze(-1) * self.value(x)).sum(1))


class Searcher(nn.Module):
    """A finder as part of a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Finder()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


@sick(
    "attention with blown logits",
    family="saturation",
    rule="ND203",
    also=("init_scale",),
    layers=("attention", "attention.key"),
    proof=Proof(sick=0.8, twin=0.9),
)
def blown_logits(is_faulty: bool) -> Program:
    """Keys fifty times too large: the softmax picks one place from the first step on, and never another."""
    model = Searcher()
    if is_faulty:
        model.attention.key.weight.data *= 50
    return classifies(model, marked(), Adam(model.parameters(), 3e-3), steps=250)


class SigmoidHead(nn.Module):
    """A convolution, then two hidden layers with sigmoid as a function, then the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.classifier = Sigmoids(8 * 16, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.stem(x)).flatten(1))


class Sigmoids(nn.Module):
    """Two hidden layers and an output."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.fc2(torch.sigmoid(self.fc1(x)))))


@sick(
    "sigmoid head with weights from N(0, 4)",
    family="saturation",
    rule="ND201",
    also=("init_scale",),
    layers=("classifier", "classifier.fc1", "classifier.fc2"),
    proof=Proof(sick=0.85, twin=0.9),
)
def large_sigmoid_head(is_faulty: bool) -> Program:
    """The hidden layers behind a convolution begin with std 4: their sigmoids are zero or one."""
    model = SigmoidHead()
    for layer in (model.classifier.fc1, model.classifier.fc2):
        if is_faulty:
            nn.init.normal_(layer.weight, std=4.0)
        else:
            nn.init.xavier_normal_(layer.weight, gain=2.0)
    return classifies(model, digits(image=True), Adagrad(model.parameters(), 0.03))


@sick(
    "tanh autoencoder with huge weights",
    family="saturation",
    rule="ND201",
    also=("init_scale",),
    layers=("encoder.0", "encoder.1", "decoder.0", "decoder.1"),
    proof=Proof(sick=0.82, twin=0.87),
)
def huge_autoencoder(is_faulty: bool) -> Program:
    """Weights from -10 to 10 in front of both tanh: the code is read through a net of switches."""
    model = Autoencoder(hidden=64, code=16)
    for layer in (model.encoder[0], model.decoder[0]):
        if is_faulty:
            nn.init.uniform_(layer.weight, -10.0, 10.0)
        else:
            nn.init.xavier_uniform_(layer.weight)
    return regresses(model, pictures(), RMSprop(model.parameters(), 3e-3), steps=300)


class Actor(nn.Module):
    """States in, actions between -1 and 1 out; tanh as a function throughout."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.policy = Policy(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(x)


class Policy(nn.Module):
    """Two hidden layers and the actions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.mu = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mu(torch.tanh(self.fc2(torch.tanh(self.fc1(x))))))


@sick(
    "actor whose last layer begins at 3",
    family="saturation",
    rule="ND201",
    also=("init_scale",),
    layers=("policy", "policy.mu"),
    proof=Proof(sick=0.3, twin=0.6),
)
def slipped_actor(is_faulty: bool) -> Program:
    """The last layer of an actor is drawn from -3 to 3, where 3e-3 was meant: actions stick to their bounds."""
    model = Actor()
    bound = 3.0 if is_faulty else 3e-3
    nn.init.uniform_(model.policy.mu.weight, -bound, bound)
    return regresses(model, actions(), Adam(model.parameters(), 3e-3))


class Highway(nn.Module):
    """Blends what it computes with what it was given, by a gate that is a hard sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform, self.gate = nn.Linear(width, width), nn.Linear(width, width)
        self.squash = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        share = self.squash(self.gate(x))
        return share * F.elu(self.transform(x)) + (1 - share) * x


@sick(
    "highway with closed hard gates",
    family="saturation",
    rule="ND201",
    also=("vanishing_gradient", "not_trained"),
    layers=tuple(
        f"blocks.{place}{part}" for place in range(4) for part in ("", ".gate", ".squash", ".transform")
    ),
    proof=Proof(sick=0.4, twin=0.8),
)
def closed_highway(is_faulty: bool) -> Program:
    """Gate biases of -8 are too much for a hard sigmoid: it is zero, flat, and never opens."""
    blocks = nn.Sequential(*(Highway(32) for _ in range(4)))
    model = nn.Sequential()
    model.add_module("stem", nn.Linear(6, 32))
    model.add_module("blocks", blocks)
    model.add_module("out", nn.Linear(32, 1))
    for block in blocks:
        nn.init.constant_(block.gate.bias, -8.0 if is_faulty else -1.0)
    return regresses(model, surface(), AdamW(model.parameters(), 1e-2), steps=250)
