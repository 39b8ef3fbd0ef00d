"""What goes wrong most often with norms, batches and depth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from ..case import Program, Proof, r_squared, sick
from ..data import Batch, Split, digits, pictures, shuffled, table
from .networks import Convolutional
from .norm_networks import Normed, UNet
from .sick_copies import classifies, squared_error
from .sick_dropout import by_adam, rebuilding_error, share_rebuilt, standardized
from .sick_statistics import denoising, in_order


@sick(
    "U-Net, dropout in front of each BN",
    family="dropout_bn_order",
    rule="ND503",
    also=("bn_drift",),
    layers=tuple(f"{stage}{part}" for stage in ("down", "middle", "up") for part in (".1", ".1.0", ".1.1")),
    proof=Proof(sick=0.5, twin=0.7),
)
def dropped_unet(is_faulty: bool) -> Program:
    """Convolution, dropout of .6, BatchNorm, in each stage: the norms learn two and a half times the variance."""
    p = 0.6 if is_faulty else 0.0
    model = UNet(lambda channels: nn.Sequential(nn.Dropout(p), nn.BatchNorm2d(channels)))
    program = by_adam(model, denoising(), steps=150, lr=5e-3)
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


class TwoConvs(nn.Module):
    """Two convolutions of one width and two norms; the second norm can be forgotten for the first."""

    def __init__(self, *, shares: bool, width: int = 12) -> None:
        super().__init__()
        self.shares = shares
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        second = self.bn1 if self.shares else self.bn2
        x = F.max_pool2d(F.relu(second(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


@sick(
    "the same BatchNorm after both convolutions",
    family="bn_drift",
    rule="ND401",
    layers=("bn1", "conv1", "conv2"),
    twin_follows=("ND401",),
    proof=Proof(sick=0.8, twin=0.94),
)
def one_norm_twice(is_faulty: bool) -> Program:
    """``self.bn1`` is written where ``self.bn2`` was meant: its running statistics are of two layers at once."""
    model = TwoConvs(shares=is_faulty)
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.05, momentum=0.9), steps=200)


class Necked(nn.Module):
    """Convolutions, the mean over all places, a neck with two BatchNorms, a classifier."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, width, 3, padding=1)
        self.neck = nn.Sequential(
            *(nn.BatchNorm1d(width), nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        )
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(x)).mean((2, 3))
        return self.classifier(self.neck(x))


def accumulated(size: int) -> Callable[[Program, Batch], Tensor]:
    """One step of the gradients of all parts of a batch, which go forward one after the other."""

    def update(program: Program, batch: Batch) -> Tensor:
        program.optimizer.zero_grad()
        losses = []
        for x, y in zip(batch.x.split(size), batch.y.split(size), strict=True):
            loss = program.loss(program.model, Batch(x, y)) * len(x) / len(batch.x)
            loss.backward()
            losses.append(loss.detach())
        program.optimizer.step()
        return torch.stack(losses).sum()

    return update


@sick(
    "BN neck, micro-batches of two",
    family="bn_small_batch",
    rule="ND404",
    also=("bn_drift",),
    layers=("neck", "neck.0", "neck.2"),
    twin_follows=("ND404",),
    proof=Proof(sick=0.7, twin=0.85),
)
def micro_batches(is_faulty: bool) -> Program:
    """Gradients of eight pairs are accumulated, but BatchNorm sees each pair alone: all it gives is 1 and -1."""
    train, test = digits(image=True)
    model = Necked()
    optimizer = Adam(model.parameters(), 6e-3)
    program = Program(model, shuffled(train, 110, size=16), test, optimizer)
    program.scheduler = CosineAnnealingLR(optimizer, T_max=110)
    program.update = accumulated(2 if is_faulty else 16)
    return program


@sick(
    "houses sorted by price",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.4, twin=0.75),
)
def sorted_by_price(is_faulty: bool) -> Program:
    """The file is sorted by the target and not shuffled: BatchNorm takes out what tells cheap from dear."""
    train, test = standardized(table())
    mean, std = train.y.mean(), train.y.std()
    train, test = (Split(part.x, (part.y - mean) / std) for part in (train, test))
    order = train.y.argsort() if is_faulty else torch.randperm(len(train.y))
    model = Normed(nn.BatchNorm1d, depth=2, inputs=8, outputs=1, width=32)
    optimizer = Adam(model.parameters(), 3e-3)
    return Program(model, in_order(train, order, 200), test, optimizer, squared_error, r_squared)


class Depthful(nn.Module):
    """One norm over a gray and a depth image, then convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 2)
        self.network = Convolutional()
        self.network.conv1 = nn.Conv2d(2, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.norm(x))


def with_depth(unit: float) -> tuple[Split, Split]:
    """Digits in gray, and a depth of about two meters as a second channel, in millimeters over ``unit``."""
    generator = torch.Generator().manual_seed(21)
    parts = []
    for part in digits(image=True):
        depth = 2000 + 600 * torch.randn(part.x.shape, generator=generator)
        parts.append(Split(torch.cat([part.x, depth / unit], 1), part.y))
    return parts[0], parts[1]


@sick(
    "RGB-D under one norm, depth in millimeters",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("norm", "network.conv1"),
    proof=Proof(sick=0.6, twin=0.88),
)
def depth_in_millimeters(is_faulty: bool) -> Program:
    """Depth in thousands and gray values of about 1 share a GroupNorm: the gray is gone. The twin has meters."""
    data = with_depth(1.0 if is_faulty else 1000.0)
    return by_adam(Depthful(), data, steps=180)


@sick(
    "images inverted after a resume",
    family="activation_shift",
    rule="ND102",
    also=("input_scale",),
    twin_follows=("ND102",),
    proof=Proof(sick=0.75, twin=0.92),
)
def inverted_after_resume(is_faulty: bool) -> Program:
    """The script that goes on with the training at step 150 reads black on white, no longer white on black."""
    train, test = digits(image=True)
    model = Convolutional()
    batches = shuffled(train, 250)
    if is_faulty:
        batches[150:] = [Batch(-batch.x, batch.y) for batch in batches[150:]]
    return Program(model, batches, test, Adam(model.parameters(), 3e-3))


class DeepAutoencoder(nn.Module):
    """64 pixels, eight hidden layers, 64 pixels; the activation is a function."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        sizes = (64, 48, 40, 32, 24, 32, 40, 48, 64)
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[:5]))
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[4:]))
        self.out = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.encoder, *self.decoder):
            x = self.act(layer(x))
        return self.out(x)


@sick(
    "autoencoder of eight sigmoid layers",
    family="vanishing_gradient",
    rule="ND311",
    also=("init_scale",),
    layers=tuple(f"{part}.{place}" for part in ("encoder", "decoder") for place in range(4)),
    twin_follows=("ND311",),
    proof=Proof(sick=0.15, twin=0.5),
)
def sigmoid_autoencoder(is_faulty: bool) -> Program:
    """Each sigmoid leaves a quarter of the gradient: all images are rebuilt as the mean image."""
    model = DeepAutoencoder(torch.sigmoid if is_faulty else F.elu)
    program = by_adam(model, pictures(), steps=200, lr=2e-3)
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


class Plain(nn.Module):
    """Convolutions of one width without norms or skips, a classifier."""

    def __init__(self, depth: int = 14, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.body = nn.Sequential(
            *(m for _ in range(depth - 1) for m in (nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)))
        )
        self.fc = nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.body(self.stem(x))).flatten(1))


@sick(
    "plain CNN of fourteen layers, default weights",
    family="vanishing_gradient",
    rule="ND311",
    also=("init_scale",),
    layers=("stem", "body", *(f"body.{place}" for place in range(26))),
    proof=Proof(sick=0.3, twin=0.85),
)
def default_weights(is_faulty: bool) -> Program:
    """PyTorch's default divides the signal by about two in each layer; the twin has He's initialization."""
    model = Plain()
    for conv in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        if not is_faulty:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.03, momentum=0.9), steps=200)
