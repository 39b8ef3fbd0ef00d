"""Healthy: models and ways to train that are rare, and right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..case import Program, healthy
from ..data import Batch, Split, digits, parted, rows, shuffled
from .networks import Block, pretrained
from .norm_networks import Attending
from .sick_dropout import by_adam
from .sick_paths import mask_error, overlap


class Universal(nn.Module):
    """One block of attention, applied again and again to all rows, with a vector that says which turn it is."""

    def __init__(self, width: int = 32, turns: int = 4) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, width), nn.Parameter(0.5 * torch.randn(8, width))
        self.turns = nn.Embedding(turns, width)
        self.block = nn.TransformerEncoderLayer(width, 4, 64, 0.0, F.gelu, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places
        for turn in self.turns.weight:
            x = self.block(x + turn)
        return self.head(x.mean(1))


@healthy(
    "one block, applied four times",
    traps=("symmetry", "activation_shift", "exploding_gradient", "bn_drift"),
    above=0.88,
)
def shared_block() -> Program:
    """A universal transformer: the same weights at four depths, whose inputs are not of one distribution."""
    train, test = rows()
    model = Universal()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, 140)
    return Program(model, shuffled(train, 140), test, optimizer, scheduler=schedule)


class Prefixed(nn.Module):
    """A frozen transformer; a few vectors are put in front of its tokens, and they and the head learn."""

    def __init__(self, body: Attending, length: int = 6) -> None:
        super().__init__()
        self.body = body.requires_grad_(False)
        self.prefix = nn.Parameter(0.1 * torch.randn(length, body.head.in_features))
        self.head = nn.Linear(body.head.in_features, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body.embed(x) + self.body.places
        x = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        for layer in self.body.layers:
            x = layer(x)
        return self.head(x.mean(1))


@healthy("trained prefix, frozen transformer", traps=("not_trained", "vanishing_gradient"), above=0.8)
def prefix_tuning() -> Program:
    """Six vectors and a head are all that learns; the body knows the digits from left to right."""
    train, test = rows()
    model = Prefixed(pretrained(Attending(0.0), train, 80))
    flipped = tuple(Split(part.x.flip(2), part.y) for part in (train, test))
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    return Program(model, shuffled(flipped[0], 170), flipped[1], torch.optim.Adam(learning, 1e-2))


class Recomputed(nn.Module):
    """Blocks of a causal transformer that are computed twice, once more when gradients are taken."""

    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, width), nn.Parameter(0.5 * torch.randn(8, width))
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.drop, self.norm, self.head = nn.Dropout(0.2), nn.LayerNorm(width), nn.Linear(width, 10)

    def part(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block and the dropout behind it."""
        return self.drop(block(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places
        for block in self.blocks:
            x = checkpoint(self.part, block, x, use_reentrant=False) if self.training else self.part(block, x)
        return self.head(self.norm(x[:, -1]))


@healthy(
    "activation checkpointing with dropout",
    traps=("dropout_capacity", "activation_shift", "not_trained"),
    above=0.88,
)
def checkpointed() -> Program:
    """To save memory, blocks run a second time in the backward pass, with the masks of the first."""
    return by_adam(Recomputed(), rows(), steps=150)


def times(samples: int = 2000, seed: int = 42) -> tuple[Split, Split]:
    """Times from 0 to 8, and where a damped oscillator is that starts at 1, at rest."""
    generator = torch.Generator().manual_seed(seed)
    t = 8 * torch.rand(samples, 1, generator=generator)
    return parted(t, oscillation(t).squeeze(1))


def oscillation(t: Tensor, damping: float = 0.2) -> Tensor:
    """The solution of u'' + 2 damping u' + u = 0 with u(0) = 1, u'(0) = 0."""
    root = (1 - damping**2) ** 0.5
    return (-damping * t).exp() * ((root * t).cos() + damping / root * (root * t).sin())


class Trajectory(nn.Module):
    """A path through time that starts where it has to."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = (
            nn.Linear(1, width),
            nn.Linear(width, width),
            nn.Linear(width, 1),
        )

    def forward(self, t: Tensor) -> Tensor:
        hidden = torch.tanh(self.middle(torch.tanh(self.enter(t))))
        return 1 + (t / 2).tanh() ** 2 * self.leave(hidden)


def residual(model: nn.Module, batch: Batch) -> Tensor:
    """How far the equation is from holding; no position is ever told."""
    t = batch.x.clone().requires_grad_()
    place = model(t)
    (speed,) = torch.autograd.grad(place.sum(), t, create_graph=True)
    (change,) = torch.autograd.grad(speed.sum(), t, create_graph=True)
    return (change + 0.4 * speed + place).square().mean()


@torch.no_grad()
def on_course(model: nn.Module, test: Split) -> float:
    """Share of the variance of positions that is explained."""
    error = (model(test.x).squeeze(1) - test.y).square().mean()
    return float(1 - error / test.y.var())


@healthy("PINN", traps=("input_scale", "vanishing_gradient", "saturation", "lr_too_high"), above=0.85)
def physics_informed() -> Program:
    """A net of time alone learns from a differential equation: gradients of gradients, and targets unused."""
    train, test = times()
    model = Trajectory()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    return Program(model, shuffled(train, 300, size=128), test, optimizer, residual, on_course, schedule)


class MaskedConv(nn.Conv2d):
    """A convolution that sees what is above and to the left, and its own place only if told so."""

    def __init__(self, inputs: int, outputs: int, *, sees_itself: bool) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        mask = torch.ones(3, 3)
        mask[1, 1 + sees_itself :] = mask[2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class PixelCNN(nn.Module):
    """The next pixel from those before, by masked convolutions with gates."""

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.first = MaskedConv(1, width, sees_itself=False)
        self.layers = nn.ModuleList(MaskedConv(width, 2 * width, sees_itself=True) for _ in range(depth))
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + F.glu(layer(x), 1)
        return self.out(x)


def inked() -> tuple[Split, Split]:
    """Digits in black and white, which are to be told pixel by pixel."""
    return tuple(Split(x, x) for x in ((part.x > 0).float() for part in digits(image=True)))


@healthy("masked convolutions", traps=("symmetry", "dead_units", "vanishing_gradient"), above=0.6)
def pixel_cnn() -> Program:
    """Of each kernel four or five weights of nine never have a gradient: they must not see the future."""
    train, test = inked()
    model = PixelCNN()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return Program(model, shuffled(train, 160, size=32), test, optimizer, mask_error, overlap)
