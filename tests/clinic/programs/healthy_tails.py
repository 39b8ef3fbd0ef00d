"""Healthy programs whose gates, outputs or bounded activations rightly live in their tails."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, RMSprop

from ..case import Program, healthy
from ..data import Batch, Split, actions, blobs, digits, marked, shuffled, sums
from .sick_copies import classifies, regresses
from .sick_tails import Actor
from .unit_networks import Vgg


class Adder(nn.Module):
    """An LSTM and a linear readout of its last output."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm, self.readout = nn.LSTM(2, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.lstm(x)[0][:, -1])


@healthy("adding with open forget gates", traps=("saturation", "vanishing_gradient"), above=0.8)
def adding() -> Program:
    """Forget gates begin at a bias of 5 and stay near 1: that is how an LSTM remembers."""
    model = Adder()
    model.lstm.bias_ih_l0.data[32:64] = 5.0
    return regresses(model, sums(10), Adam(model.parameters(), 1e-2), steps=300)


@healthy("confident to the end", traps=("saturation", "vanishing_gradient", "lr_too_high"), above=0.95)
def confident() -> Program:
    """A classifier trained until its softmax is one or zero everywhere, and its loss next to nothing."""
    model = Vgg((12, 24), act=F.gelu)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    program = classifies(model, digits(image=True), optimizer, steps=250)
    program.scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=250)
    return program


def smoothed(model: nn.Module, batch: Batch, share: float) -> Tensor:
    """Cross entropy against labels of which a share goes to all classes."""
    return F.cross_entropy(model(batch.x), batch.y, label_smoothing=share)


@healthy("label smoothing .6", traps=("init_scale", "saturation", "lr_too_high"), above=0.92)
def label_smoothing() -> Program:
    """Strong smoothing keeps the loss high for ever; the network is fine."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 64), nn.Softplus())
    model.append(nn.Linear(64, 10))
    program = classifies(model, digits(), AdamW(model.parameters(), 3e-3))
    program.loss = partial(smoothed, share=0.6)
    return program


class UNet(nn.Module):
    """Down, up, a skip connection, and a probability for every pixel."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enc1 = nn.Conv2d(1, width, 3, padding=1)
        self.enc2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.dec1, self.mask = nn.Conv2d(2 * width, width, 3, padding=1), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.enc1(x))
        deep = F.relu(self.enc2(F.max_pool2d(wide, 2)))
        both = torch.cat([wide, F.relu(self.up(deep))], 1)
        return torch.sigmoid(self.mask(F.relu(self.dec1(both))))


def pixel_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross entropy of probabilities."""
    return F.binary_cross_entropy(model(batch.x), batch.y)


@torch.no_grad()
def overlap(model: nn.Module, test: Split) -> float:
    """Intersection over union of the masks."""
    found, true = model(test.x) > 0.5, test.y > 0.5
    return float((found & true).sum() / (found | true).sum())


@healthy("masks of one or zero", traps=("saturation",), above=0.85)
def masks() -> Program:
    """A U-Net becomes sure of nearly all pixels, most of them background: its sigmoid is in its tails."""
    train, test = blobs()
    model = UNet()
    optimizer = Adam(model.parameters(), 1e-2)
    return Program(model, shuffled(train, 120, size=16), test, optimizer, pixel_entropy, overlap)


class Inverted(nn.Module):
    """An inverted bottleneck of a MobileNet: expand, depthwise, squeeze-and-excite, project."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        wide = 3 * width
        self.expand, self.project = nn.Conv2d(width, wide, 1), nn.Conv2d(wide, width, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(wide), nn.BatchNorm2d(wide), nn.BatchNorm2d(width)
        self.squeeze, self.excite = nn.Linear(wide, 8), nn.Linear(8, wide)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.expand(x)))
        y = self.act(self.bn2(self.depthwise(y)))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return x + self.bn3(self.project(y * gate[..., None, None]))


@healthy("MobileNet with ReLU6 and hardswish", traps=("saturation", "dead_units", "symmetry"), above=0.92)
def mobile_net() -> Program:
    """Activations with flat ends and hard gates: units reach them for some samples, and work."""
    stem = nn.Sequential(nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU6())
    blocks = nn.Sequential(Inverted(12, nn.ReLU6), Inverted(12, nn.Hardswish))
    model = nn.Sequential()
    for name, part in (("stem", stem), ("blocks", blocks), ("flatten", nn.Flatten())):
        model.add_module(name, part)
    model.add_module("classifier", nn.Linear(12 * 16, 10))
    return classifies(model, digits(image=True), RMSprop(model.parameters(), 2e-3), steps=120)


@healthy("expert at its bounds", traps=("saturation",), above=0.7)
def bounded_policy() -> Program:
    """The expert to be copied steers hard left or hard right: a tanh output near -1 or 1 is right."""
    model = Actor()
    return regresses(model, actions(gain=3.0), Adam(model.parameters(), 1e-2), steps=300)


class Labels(nn.Module):
    """Ten yes-or-no answers from an MLP with SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU())
        self.logits, self.probability = nn.Linear(48, 10), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.probability(self.logits(self.net(x)))


def yes_or_no(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross entropy of ten answers, one of which is yes."""
    return F.binary_cross_entropy(model(batch.x), F.one_hot(batch.y, 10).float())


@healthy("ten sure answers", traps=("saturation",), above=0.94)
def sure_answers() -> Program:
    """A sigmoid module per class, nine of ten at zero: the output may be sure."""
    model = Labels()
    program = classifies(model, digits(), Adam(model.parameters(), 5e-3), steps=250)
    program.loss = yes_or_no
    return program


class Additive(nn.Module):
    """States of a GRU, scored through a tanh; their softmax picks, as in the first attention."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.GRU(7, width, batch_first=True, bidirectional=True)
        self.score = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1))
        self.head = nn.Linear(2 * width, 6)

    def forward(self, x: Tensor) -> Tensor:
        states = self.encoder(x)[0]
        weights = torch.softmax(self.score(states), dim=1)
        return self.head((weights * states).sum(1))


@healthy("attention that points", traps=("saturation",), above=0.94)
def pointing_attention() -> Program:
    """One letter is marked, and attention learns to look at nothing else: sharp because it should be."""
    model = Additive()
    return classifies(model, marked(), AdamW(model.parameters(), 1e-2), steps=150)
