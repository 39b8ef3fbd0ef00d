"""Gradients that are cut, lost, or grow without bound on their way."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, RMSprop

from ..case import Program, Proof, sick
from ..data import Split, digits, parted, surface
from .networks import pretrained
from .sick_copies import classifies, letters_out, regresses


def reversals(letters: int = 8, length: int = 5, samples: int = 1600, seed: int = 23) -> tuple[Split, Split]:
    """Random letters, and the same in reverse."""
    x = torch.randint(letters, (samples, length), generator=torch.Generator().manual_seed(seed))
    return parted(x, x.flip(1))


class Translator(nn.Module):
    """An encoder's last state starts a decoder; the state may be cut from the graph."""

    def __init__(self, is_cut: bool, letters: int = 8, length: int = 5, width: int = 48) -> None:
        super().__init__()
        self.is_cut = is_cut
        self.source, self.encoder = nn.Embedding(letters, 12), nn.GRU(12, width, batch_first=True)
        self.places = nn.Embedding(length, 12)
        self.decoder, self.generator = nn.GRU(12, width, batch_first=True), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.encoder(self.source(tokens))[1]
        if self.is_cut:
            state = state.detach()
        wanted = self.places(torch.arange(tokens.shape[1])).expand(len(tokens), -1, -1)
        return self.generator(self.decoder(wanted, state)[0])


@sick(
    "encoder's state detached",
    family="not_trained",
    rule="ND605",
    layers=("source", "encoder"),
    proof=Proof(sick=0.7, twin=0.85),
)
def detached_state(is_faulty: bool) -> Program:
    """The state between encoder and decoder is detached, as for truncated backpropagation: no gradient returns."""
    model = Translator(is_cut=is_faulty)
    return letters_out(model, reversals(), Adam(model.parameters(), 1e-2), steps=250)


class Maxout(nn.Module):
    """Two layers of maxout, then a classifier."""

    def __init__(self, width: int = 32, pieces: int = 3) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(64, width * pieces), nn.Linear(width, width * pieces)])
        self.pieces, self.head = pieces, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.body:
            x = layer(x).unflatten(-1, (-1, self.pieces)).amax(-1)
        return self.head(x)


@sick(
    "head replaced after the optimizer was made",
    family="not_trained",
    rule="ND606",
    layers=("head",),
    proof=Proof(sick=0.4, twin=0.9),
)
def replaced_head(is_faulty: bool) -> Program:
    """The body is tuned gently, the head is new; but the optimizer still holds the head that was thrown away."""
    train, test = digits()
    model = Maxout()
    pretrained(model, train, 60)
    model.head = nn.Linear(32, 10)
    groups = [{"params": model.body.parameters(), "lr": 1e-5}, {"params": model.head.parameters()}]
    optimizer = RMSprop(groups, 3e-3)
    if is_faulty:
        model.head = nn.Linear(32, 10)
    return classifies(model, (train, test), optimizer, steps=150)


class Field(nn.Module):
    """The velocity of a state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


class Flow(nn.Module):
    """A neural ODE by Euler's method: one field, used at every step."""

    def __init__(self, step: float, count: int = 20, width: int = 16) -> None:
        super().__init__()
        self.step, self.count = step, count
        self.lift, self.field, self.read = nn.Linear(64, width), Field(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for _ in range(self.count):
            x = x + self.step * self.field(x)
        return self.read(x)


@sick(
    "Euler steps of one",
    family="exploding_gradient",
    rule="ND602",
    also=("init_scale",),
    layers=("field", "field.fc1", "field.fc2"),
    proof=Proof(sick=0.4, twin=0.9),
)
def long_steps(is_faulty: bool) -> Program:
    """Twenty steps of a neural ODE, each of length 1 where 1/20 was meant: states grow a millionfold."""
    model = Flow(step=1.0 if is_faulty else 1 / 20)
    return classifies(model, digits(), Adam(model.parameters(), 5e-3), steps=150)


class Gate(nn.Module):
    """One half of a linear map, gated by the other half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * width)
        nn.init.kaiming_normal_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.proj(x))


@sick(
    "gates of eight GLUs biased to -3",
    family="vanishing_gradient",
    rule="ND601",
    also=("init_scale", "saturation"),
    layers=tuple(f"glus.{place}{part}" for place in range(8) for part in ("", ".proj")),
    proof=Proof(sick=0.2, twin=0.85),
)
def closed_gates(is_faulty: bool) -> Program:
    """Gates begin nearly closed, as in a highway network, but here is no carry: each layer lets 5% through."""
    width = 32
    model = nn.Sequential()
    model.add_module("enter", nn.Linear(6, width))
    model.add_module("glus", nn.Sequential(*(Gate(width) for _ in range(8))))
    model.add_module("leave", nn.Linear(width, 1))
    if is_faulty:
        for gate in model.glus:
            nn.init.constant_(gate.proj.bias[width:], -3.0)
    return regresses(model, surface(), Adam(model.parameters(), 3e-3), steps=300)
