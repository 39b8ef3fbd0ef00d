"""The network of the demo, and its patients: copies of it with faults planted on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEARNING_RATE = 0.05


class Digits(nn.Module):
    """Four linear layers; ``middle`` and ``neck`` use functional activations, as much real code does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.act = nn.Tanh()
        self.norm = nn.BatchNorm1d(64)
        self.middle = nn.Linear(64, 64)
        self.neck = nn.Linear(64, 32)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(32, 10)

    def features(self, x: Tensor) -> Tensor:
        """[N, 64] pixels -> [N, 64] features."""
        x = self.norm(self.act(self.stem(x)))
        return F.relu(self.middle(x))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64] pixels -> [N, 10] logits."""
        x = F.relu(self.neck(self.features(x)))
        logits: Tensor = self.head(self.drop(x))
        return logits


class Cut(Digits):
    """The same network, but what is meant for evaluation surrounds its first half in training, too."""

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """[N, 64] pixels -> [N, 64] features."""
        return super().features(x)


class Plant(NamedTuple):
    """A fault planted on purpose, and the rule that must find it; no layer stands for the whole network."""

    layer: str | None
    rule: str
    what: str


def _leave(net: Digits) -> None:
    """Plants nothing in the network itself."""


@dataclass(frozen=True)
class Patient:
    """One network to train, and what was planted in it, in its data and in its optimizer."""

    name: str
    plants: tuple[Plant, ...] = ()
    build: Callable[[], Digits] = Digits
    plant: Callable[[Digits], None] = _leave
    is_standardized: bool = True
    learning_rate: float = LEARNING_RATE
    left_out: str | None = None
    """The layer whose parameters the optimizer is not given."""


def _keep_little(net: Digits) -> None:
    net.drop.p = 0.9


@torch.no_grad()
def _stiffen(net: Digits) -> None:
    net.stem.weight.mul_(15)
    net.middle.bias[8:] = -9.0
    for parameter in (net.neck.weight, net.neck.bias):
        parameter[16:] = parameter[:16]
    net.head.weight[:, 16:] = net.head.weight[:, :16]


@torch.no_grad()
def _weaken(net: Digits) -> None:
    net.norm.momentum = 0.0
    for layer in (net.middle, net.neck, net.head):
        for parameter in layer.parameters():
            parameter.mul_(1e-3)


SICK = (
    Patient(
        "raw",
        (
            Plant("net.stem", "ND701", "pixels from 0 to 255, not standardized"),
            Plant("net.middle", "ND605", "all up to here under torch.no_grad()"),
            Plant("net.drop", "ND501", "p = 0.9, meant as the share to keep"),
        ),
        build=Cut,
        plant=_keep_little,
        is_standardized=False,
    ),
    Patient(
        "stiff",
        (
            Plant("net.stem", "ND201", "weights times 15: its tanh saturates"),
            Plant("net.middle", "ND202", "bias -9 on 56 of 64 units: ReLU never on"),
            Plant("net.neck", "ND301", "units 16-31 copy 0-15, coming and going"),
        ),
        plant=_stiffen,
    ),
    Patient(
        "hasty",
        (
            Plant(None, "ND101", "learning rate 0.6 instead of 0.05"),
            Plant("net.neck", "ND606", "left out of the optimizer"),
        ),
        learning_rate=0.6,
        left_out="neck",
    ),
    Patient(
        "faint",
        (
            Plant("net.middle", "ND311", "all from here on divided by 1,000"),
            Plant("net.norm", "ND407", "momentum 0: its averages never move"),
        ),
        plant=_weaken,
    ),
)
"""Faults that would hide each other are in different patients."""

TWIN = Patient("twin")
PATIENTS = (*SICK, TWIN)
