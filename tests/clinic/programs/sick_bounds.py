"""Gates, bounded activations and outputs that begin where they cannot move."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from ..case import Program, Proof, sick
from ..data import Split, digits, marked, rows, surface
from .sick_copies import classifies, regresses


class Stepwise(nn.Module):
    """A GRU cell in a loop over rows, a classifier on its last state."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.cell, self.out = nn.GRUCell(8, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.cell.hidden_size)
        for row in x.unbind(1):
            state = self.cell(row, state)
        return self.out(state)


@sick(
    "GRU cell that keeps its state",
    family="saturation",
    rule="ND201",
    also=("vanishing_gradient",),
    layers=("cell",),
    proof=Proof(sick=0.3, twin=0.9),
)
def never_writes(is_faulty: bool) -> Program:
    """The update gates of a GRU begin at 8, as if they were an LSTM's forget gates: the state stays at zero."""
    model = Stepwise()
    if is_faulty:
        width = model.cell.hidden_size
        nn.init.constant_(model.cell.bias_ih[width : 2 * width], 8.0)
    return classifies(model, rows(), SGD(model.parameters(), 0.1, momentum=0.9))


class Bilinear(nn.Module):
    """Products of pairs of columns beside a hidden layer, and a price that may be bent at zero."""

    def __init__(self, bend: nn.Module, width: int = 48) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, width), nn.Linear(6, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.ModuleDict({"fc": nn.Linear(width, 1), "bend": bend})

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(self.left(x) * self.right(x).sigmoid()))
        return self.head["bend"](self.head["fc"](x))


@sick(
    "winter temperatures behind a ReLU",
    family="dead_units",
    rule="ND202",
    also=("vanishing_gradient", "not_trained"),
    layers=("head", "head.fc", "head.bend"),
    twin_follows=("ND202",),
    proof=Proof(sick=0.0, twin=0.75),
)
def output_below_zero(is_faulty: bool) -> Program:
    """A ReLU stands behind the last layer, as for counts, but the targets lie below zero: it shuts for good."""
    train, test = (Split(part.x, 2 * part.y - 8) for part in surface())
    model = Bilinear(nn.ReLU() if is_faulty else nn.Identity())
    return regresses(model, (train, test), Adam(model.parameters(), 1e-2), steps=250)


class Bounded(nn.Module):
    """Strided convolutions with hardtanh as modules: ``trunk.0.conv``."""

    def __init__(self, widths: tuple[int, ...] = (12, 24, 32)) -> None:
        super().__init__()
        stages = (
            nn.ModuleDict({"conv": nn.Conv2d(a, b, 3, stride=2, padding=1), "act": nn.Hardtanh()})
            for a, b in zip((1, *widths), widths, strict=False)
        )
        self.trunk, self.fc = nn.ModuleList(stages), nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.trunk:
            x = stage["act"](stage["conv"](x))
        return self.fc(x.flatten(1))


@sick(
    "hardtanh CNN with weights from N(0, 1)",
    family="saturation",
    rule="ND201",
    also=("init_scale", "exploding_gradient"),
    layers=tuple(f"trunk.{place}{part}" for place in range(3) for part in ("", ".conv", ".act")),
    proof=Proof(sick=0.85, twin=0.93),
)
def large_hardtanh(is_faulty: bool) -> Program:
    """Weights from ``randn``, whatever the fan: nearly all hardtanh units are at -1 or 1, with no slope at all."""
    model = Bounded()
    for stage in model.trunk:
        weight = stage["conv"].weight
        nn.init.normal_(weight, std=1.0 if is_faulty else weight[0].numel() ** -0.5)
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.02, momentum=0.9))


class Look(nn.Module):
    """Attention with one head over all places, as a function."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        keys = (self.query(x), self.key(x), self.value(x))
        return self.proj(F.scaled_dot_product_attention(*keys, scale=self.scale))


class Searching(nn.Module):
    """Two looks over a sequence, each added to what is known, the mean of all places, a classifier."""

    def __init__(self, scale: float, length: int = 16, width: int = 64) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(7, width), nn.Parameter(torch.randn(length, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.looks = nn.ModuleList(Look(width, scale) for _ in range(2))
        self.answer = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places
        for norm, look in zip(self.norms, self.looks, strict=True):
            x = x + look(norm(x))
        return self.answer(x.mean(1))


@sick(
    "root of d multiplied, not divided",
    family="saturation",
    rule="ND203",
    layers=tuple(
        f"looks.{place}{part}" for place in range(2) for part in ("", ".query", ".key", ".value", ".proj")
    ),
    proof=Proof(sick=0.5, twin=0.9),
)
def upside_down_scale(is_faulty: bool) -> Program:
    """``scale`` of the attention is 8 where 1/8 was meant: every place looks at a single other one, by chance."""
    model = Searching(scale=8.0 if is_faulty else 1 / 8)
    return classifies(model, marked(), Adam(model.parameters(), 2e-3), steps=150)
