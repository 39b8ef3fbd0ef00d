"""BatchNorm whose statistics are not those of the data, too noisy, or of batches that are not alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, one_update, r_squared, sick
from ..data import Batch, Split, digits, pixels, rescaled, shuffled, table
from .networks import pretrained
from .norm_networks import Normed, ResNet, UNet
from .sick_dropout import rebuilding_error, share_rebuilt, squared_error


def with_adam(model: nn.Module, batches: list[Batch], test: Split, lr: float = 3e-3) -> Program:
    """Trains a classifier on the given batches."""
    return Program(model, batches, test, torch.optim.Adam(model.parameters(), lr))


def denoising() -> tuple[Split, Split]:
    """Bright, noisy images of digits, and the digits they were made of."""
    generator = torch.Generator().manual_seed(6)
    parts = []
    for part in digits(image=True):
        noise = torch.randn(part.x.shape, generator=generator)
        parts.append(Split(4 + 2 * part.x + noise, part.x))
    return tuple(parts)


UNET = tuple(f"{stage}.{place}" for stage in ("down", "middle", "up") for place in (1, 2))


@sick(
    "BN momentum 0 in a U-Net",
    family="bn_drift",
    rule="ND407",
    layers=UNET,
    proof=Proof(sick=0.4, twin=0.75),
)
def momentum_zero(is_faulty: bool) -> Program:
    """With momentum 0 the running statistics stay (0, 1): training goes well, evaluation does not."""
    train, test = denoising()
    model = UNet(partial(nn.BatchNorm2d, momentum=0.0 if is_faulty else 0.1))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    return Program(model, shuffled(train, 150), test, optimizer, rebuilding_error, share_rebuilt)


@sick(
    "BN momentum .99 as in TensorFlow",
    family="bn_drift",
    rule="ND401",
    also=("bn_small_batch",),
    layers=tuple(f"norms.{place}" for place in range(5)),
    proof=Proof(sick=0.85, twin=0.9),
)
def momentum_of_another_library(is_faulty: bool) -> Program:
    """Here .99 is the weight of the new batch: evaluation uses the statistics of the last eight samples."""
    train, test = digits()
    model = Normed(partial(nn.BatchNorm1d, momentum=0.99 if is_faulty else 0.1), depth=5)
    return with_adam(model, shuffled(train, 300, size=8), test, lr=1e-3)


def norms_of(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """All BatchNorm modules."""
    return [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


RESNET = ("stem.1", *(f"stages.{stage}.{norm}" for stage in range(2) for norm in ("norm1", "norm2")))


def recoloured(data: tuple[Split, Split], gain: float, offset: float) -> tuple[Split, Split]:
    """The same images from another camera."""
    return tuple(Split(gain * part.x + offset, part.y) for part in data)


@sick(
    "fine-tuned with old statistics",
    family="bn_drift",
    rule="ND407",
    layers=RESNET,
    proof=Proof(sick=0.6, twin=0.9),
)
def old_statistics(is_faulty: bool) -> Program:
    """Momentum 0 was to freeze the BatchNorm of a pretrained net, but it trains on statistics of new data."""
    old = digits(image=True)
    train, test = recoloured(old, -0.6, 1.5)
    model = pretrained(ResNet(width=8), old[0], 80)
    for norm in norms_of(model):
        norm.momentum = 0.0 if is_faulty else 0.1
    return with_adam(model, shuffled(train, 120), test)


class Frozen(nn.Module):
    """A pretrained network whose BatchNorm modules can be kept in eval mode."""

    def __init__(self, network: nn.Module, *, is_frozen: bool) -> None:
        super().__init__()
        self.network, self.is_frozen = network, is_frozen
        self.train()

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        for norm in norms_of(self):
            norm.train(mode and not self.is_frozen)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@sick(
    "frozen BN and a new camera",
    family="bn_drift",
    rule="ND401",
    also=("lr_too_high", "dead_units"),
    layers=tuple(f"network.{norm}" for norm in RESNET),
    proof=Proof(sick=0.7, twin=0.9),
)
def frozen_on_other_data(is_faulty: bool) -> Program:
    """BatchNorm in eval mode keeps statistics of images white on black; the new ones are black on white."""
    old = digits(image=True)
    train, test = recoloured(old, -1.0, 2.0)
    model = Frozen(pretrained(ResNet(width=8), old[0], 80), is_frozen=is_faulty)
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    return Program(model, shuffled(train, 120), test, optimizer)


def starting_anew(every: int, model: nn.Module) -> Callable[[Program, Batch], Tensor]:
    """An update that sets the running statistics back to (0, 1) every so many steps."""
    turn = itertools.count(1)

    def update(program: Program, batch: Batch) -> Tensor:
        if next(turn) % every == 0:
            for norm in norms_of(model):
                norm.reset_running_stats()
        return one_update(program, batch)

    return update


@sick(
    "BN statistics reset each epoch",
    family="bn_drift",
    rule="ND401",
    layers=RESNET,
    proof=Proof(sick=0.6, twin=0.94),
)
def reset_each_epoch(is_faulty: bool) -> Program:
    """Statistics are to be fresh in each epoch, and training ends soon after one of them began."""
    train, test = (rescaled(part, 0.0, 16.0, image=True) for part in pixels())
    model = ResNet(partial(nn.BatchNorm2d, momentum=0.05), width=8)
    program = with_adam(model, shuffled(train, 180), test, lr=2e-3)
    if is_faulty:
        program.update = starting_anew(22, model)
    return program


class Tabular(nn.Module):
    """A BatchNorm that standardizes columns, and a regression; the norm can be left in eval mode."""

    def __init__(self, *, forgets_train: bool) -> None:
        super().__init__()
        self.forgets_train = forgets_train
        self.columns = nn.BatchNorm1d(8)
        self.fc1, self.fc2, self.price = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 1)
        self.train()

    def train(self, mode: bool = True) -> Tabular:
        super().train(mode)
        self.columns.train(mode and not self.forgets_train)
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.fc1(self.columns(x)))
        return self.price(F.silu(self.fc2(x)))


@sick(
    "BN left in eval mode from the start",
    family="bn_drift",
    rule="ND407",
    also=("input_scale",),
    layers=("columns",),
    proof=Proof(sick=0.5, twin=0.85),
)
def left_in_eval(is_faulty: bool) -> Program:
    """The BatchNorm that was to standardize the columns never sees a batch, so it lets them pass as they are."""
    train, test = table()
    model = Tabular(forgets_train=is_faulty)
    optimizer = torch.optim.RMSprop(model.parameters(), 2e-3)
    return Program(model, shuffled(train, 250), test, optimizer, squared_error, r_squared)


def in_turns(parts: list[Split], steps: int, size: int = 64) -> list[Batch]:
    """Batches of one part each, the parts taking turns."""
    each = [shuffled(part, steps, size, seed=place) for place, part in enumerate(parts, 1)]
    return [each[step % len(parts)][step] for step in range(steps)]


def joined(parts: list[Split]) -> Split:
    """All samples of all parts."""
    return Split(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))


@sick(
    "two domains taking turns",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.7, twin=0.88),
)
def two_domains(is_faulty: bool) -> Program:
    """Each batch is of one domain and normalized by itself; evaluation normalizes both by their mean."""
    old = digits(image=True)
    (train, test), (other_train, other_test) = recoloured(old, 0.5, -1.0), recoloured(old, -1.0, 1.5)
    trains, tests = [train, other_train], [test, other_test]
    batches = in_turns(trains, 180) if is_faulty else shuffled(joined(trains), 180)
    return with_adam(ResNet(width=8), batches, joined(tests))


class Projecting(nn.Module):
    """A CNN whose features are averaged over places, projected and normalized, as in contrastive learning."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width)
        self.conv3, self.bn3 = nn.Conv2d(2 * width, 2 * width, 3), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(F.relu(self.bn3(self.conv3(x))).flatten(1))


@sick(
    "BN of a CNN at batch size 2",
    family="bn_small_batch",
    rule="ND404",
    layers=("bn2", "bn3"),
    proof=Proof(sick=0.7, twin=0.94),
)
def two_images(is_faulty: bool) -> Program:
    """The last convolution ends in one place: at batch size 2 its statistics are of two values."""
    train, test = digits(image=True)
    model = Projecting()
    batches = shuffled(train, 250, size=2 if is_faulty else 32)
    return with_adam(model, batches, test, lr=1e-3)


@sick(
    "BN of a deep MLP at batch size 4",
    family="bn_small_batch",
    rule="ND404",
    layers=tuple(f"norms.{place}" for place in range(6)),
    proof=Proof(sick=0.85, twin=0.94),
)
def four_rows(is_faulty: bool) -> Program:
    """Six BatchNorm layers one after the other, each with statistics of four values."""
    train, test = digits()
    model = Normed(nn.BatchNorm1d, depth=6)
    return with_adam(model, shuffled(train, 300, size=4 if is_faulty else 64), test, lr=1e-3)


def in_order(data: Split, order: Tensor, steps: int, size: int = 64) -> list[Batch]:
    """One pass after the other in always the same order, as a loader without shuffling gives them."""
    chunks = [chunk for chunk in order.split(size) if len(chunk) == size]
    return [Batch(data.x[chunk], data.y[chunk]) for chunk in itertools.islice(itertools.cycle(chunks), steps)]


@sick(
    "sorted by label, not shuffled",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.7, twin=0.94),
)
def sorted_by_label(is_faulty: bool) -> Program:
    """The files are read folder by folder and the loader does not shuffle: a batch holds one or two classes."""
    train, test = digits(image=True)
    order = train.y.argsort(stable=True) if is_faulty else torch.randperm(len(train.y))
    model = ResNet(width=8)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return Program(model, in_order(train, order, 180), test, optimizer)


def lit(data: Split, lights: int, seed: int) -> tuple[Split, Tensor]:
    """Every image under one of some lights, dim to bright; and which light it is."""
    light = torch.randint(lights, (len(data.x),), generator=torch.Generator().manual_seed(seed))
    brightness = torch.linspace(-3, 3, lights)[light].view(-1, 1, 1, 1)
    return Split(data.x + brightness, data.y), light


@sick(
    "batches grouped by brightness",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.7, twin=0.9),
)
def grouped_by_brightness(is_faulty: bool) -> Program:
    """Images are stored session by session, and in each session the light is another."""
    train, test = digits(image=True)
    (train, light), (test, _) = lit(train, 8, seed=7), lit(test, 8, seed=8)
    parts = [Split(train.x[light == each], train.y[light == each]) for each in range(8)]
    batches = in_turns(parts, 180) if is_faulty else shuffled(train, 180)
    return with_adam(ResNet(width=8), batches, test)
