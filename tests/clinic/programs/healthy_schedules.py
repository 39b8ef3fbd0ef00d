"""Healthy programs whose steps, rates or gradients look odd: schedules, fine-tuning, clipping, other loops."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from ..case import Program, accuracy, healthy, r_squared
from ..data import Batch, Split, digits, rows, shuffled, table, text
from .networks import Convolutional, Perceptron, Transformer, pretrained
from .sequence_networks import Encoder, LanguageModel, next_letter
from .sick_depth import clipped_update
from .sick_rates import Tabular, squared_error


class Unit(nn.Module):
    """Two convolutions with BatchNorm whose sum with the input goes through ReLU; the second gain begins at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    """A stem, two stages of units, the mean of all places, a classifier."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.stages = nn.ModuleList(nn.Sequential(Unit(channels), Unit(channels)) for _ in range(2))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
        return self.fc(x.mean((2, 3)))


@healthy(
    "ResNet, one cycle", traps=("activation_shift", "lr_too_high", "symmetry", "not_trained"), above=0.88
)
def one_cycle() -> Program:
    """The rate of SGD rises to .15 and falls to nothing; the gain of each last norm begins at zero."""
    train, test = digits(image=True)
    model = Residual()
    optimizer = torch.optim.SGD(model.parameters(), 0.15, momentum=0.9, weight_decay=5e-4)
    scheduler = OneCycleLR(optimizer, max_lr=0.15, total_steps=161)
    return Program(model, shuffled(train, 160, size=32), test, optimizer, scheduler=scheduler)


@healthy("frozen stages, new head", traps=("vanishing_gradient", "not_trained"), above=0.87)
def frozen_stages() -> Program:
    """Convolutions that know inverted digits stay frozen; a new hidden layer and head learn behind them."""
    train, test = digits(image=True)
    backbone = pretrained(Convolutional(), Split(-train.x, train.y), 100).requires_grad_(False)
    backbone.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam((p for p in backbone.parameters() if p.requires_grad), 5e-3)
    return Program(backbone, shuffled(train, 200), test, optimizer)


@healthy("tiny rate on a trained net", traps=("not_trained", "lr_too_high", "vanishing_gradient"), above=0.94)
def tiny_rate() -> Program:
    """A net that knows the digits is tuned for brighter ones, by SGD at .00001."""
    train, test = digits()
    model = pretrained(Perceptron(), train, 250)
    brighter = Split(1.1 * train.x, train.y)
    optimizer = torch.optim.SGD(model.parameters(), 1e-5, momentum=0.9)
    return Program(model, shuffled(brighter, 150), Split(1.1 * test.x, test.y), optimizer)


@healthy("rates by depth", traps=("not_trained", "vanishing_gradient"), above=0.88)
def rates_by_depth() -> Program:
    """A trained encoder for even digits learns all ten; each layer nearer to the input has a third of the rate."""
    train, test = rows()
    is_even = train.y % 2 == 0
    model = pretrained(Encoder(2, width=24, heads=2), Split(train.x[is_even], train.y[is_even]), 60)
    model.head = nn.Linear(24, 10)
    parts = ([*model.embed.parameters(), model.places], *(part.parameters() for part in model.layers))
    groups = [{"params": part, "lr": 3e-3 / 3 ** (2 - place)} for place, part in enumerate(parts)]
    optimizer = torch.optim.AdamW([*groups, {"params": model.head.parameters(), "lr": 1e-2}])
    return Program(model, shuffled(train, 150), test, optimizer)


@healthy("has not learned yet", traps=("vanishing_gradient", "init_scale", "not_trained"), above=0.05)
def not_learned_yet() -> Program:
    """The last digit of the sum of two, after a hundred steps: chance is .1, it takes thousands; all is well."""
    train, test = digits()
    order, other = torch.randperm(len(train.x)), torch.randperm(len(test.x))
    pairs = Split(torch.cat([train.x, train.x[order]], 1), (train.y + train.y[order]) % 10)
    probe = Split(torch.cat([test.x, test.x[other]], 1), (test.y + test.y[other]) % 10)
    model = nn.Sequential(nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    return Program(model, shuffled(pairs, 100), probe, optimizer)


@healthy("trained to no loss at all", traps=("vanishing_gradient", "saturation", "not_trained"), above=0.95)
def no_loss_left() -> Program:
    """A wide net under SGD fits every sample: its gradients fade, its softmax is certain, it hardly moves."""
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return Program(model, shuffled(train, 300), test, optimizer)


@healthy("label smoothing", traps=("lr_too_high", "vanishing_gradient"), above=0.94)
def smoothed_labels() -> Program:
    """With labels smoothed by .2 the loss stays above 1 however well the net has learned."""
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.Mish(), nn.Linear(96, 48), nn.Mish(), nn.Linear(48, 10))
    optimizer = torch.optim.NAdam(model.parameters(), 3e-3)
    loss = lambda model, batch: F.cross_entropy(model(batch.x), batch.y, label_smoothing=0.2)  # noqa: E731
    return Program(model, shuffled(train, 200), test, optimizer, loss)


@healthy("LSTM with clipping", traps=("exploding_gradient", "vanishing_gradient", "saturation"), above=0.72)
def clipped_lstm() -> Program:
    """A language model whose gradient is cut at nearly every step, as usual with a bound of .25."""
    train, test = text()
    model = LanguageModel(nn.LSTM)
    optimizer = torch.optim.SGD(model.parameters(), 2.0, momentum=0.9)
    program = Program(model, shuffled(train, 150, size=32), test, optimizer, next_letter)
    program.update = partial(clipped_update, most=0.25)
    return program


def bfloat16_update(program: Program, batch: Batch) -> Tensor:
    """A step whose forward pass is in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    program.optimizer.step()
    return loss


@healthy("bfloat16", traps=("numeric", "symmetry", "not_trained"), above=0.94)
def in_bfloat16() -> Program:
    """Forward passes under autocast: three digits of precision, so that small changes do not show."""
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 48), nn.GELU())
    model.append(nn.Linear(48, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Program(model, shuffled(train, 150), test, optimizer, update=bfloat16_update)


def accumulating_update(program: Program, batch: Batch, parts: int) -> Tensor:
    """Gradients of several small batches are summed before the step."""
    program.optimizer.zero_grad()
    total = torch.zeros(())
    for x, y in zip(batch.x.chunk(parts), batch.y.chunk(parts), strict=True):
        loss = program.loss(program.model, Batch(x, y)) / parts
        loss.backward()
        total = total + loss.detach()
    program.optimizer.step()
    return total


@healthy("gradients accumulated", traps=("exploding_gradient", "bn_small_batch"), above=0.93)
def accumulated() -> Program:
    """Four batches of 16 make a step of a net with GroupNorm, whose rate falls along a cosine."""
    train, test = digits(image=True)
    model = Convolutional(lambda channels: nn.GroupNorm(4, channels))
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    program = Program(model, shuffled(train, 130), test, optimizer)
    program.scheduler = CosineAnnealingLR(optimizer, 130)
    program.update = partial(accumulating_update, parts=4)
    return program


class Dollars(Tabular):
    """Answers in dollars: what the last layer says is a number of spreads above the mean."""

    mean, spread = 250_000.0, 80_000.0

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.spread * super().forward(x)


def squared_error_in_spreads(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a regression in dollars, without its unit."""
    return squared_error(model, batch) / model.spread**2


@healthy("prices of 250,000", traps=("input_scale", "exploding_gradient", "init_scale"), above=0.9)
def large_targets() -> Program:
    """Targets and outputs are in dollars, but the net itself and its loss work with standardized numbers."""
    train, test = table()
    mean, std = train.x.mean(0), train.x.std(0)
    train, test = (
        Split((part.x - mean) / std, Dollars.mean + Dollars.spread * part.y) for part in (train, test)
    )
    model = Dollars()
    optimizer = torch.optim.Adagrad(model.parameters(), 0.03)
    return Program(model, shuffled(train, 200), test, optimizer, squared_error_in_spreads, r_squared)


def closure_update(program: Program, batch: Batch) -> Tensor:
    """A step that evaluates the loss several times."""

    def closure() -> Tensor:
        program.optimizer.zero_grad()
        loss = program.loss(program.model, batch)
        loss.backward()
        return loss

    return program.optimizer.step(closure)


@healthy("LBFGS on the whole set", traps=("lr_too_high", "exploding_gradient", "not_trained"), above=0.9)
def second_order() -> Program:
    """A hundred steps of LBFGS, each of four evaluations of the whole table: large steps, then hardly any."""
    train, test = table(samples=640)
    mean, std = train.x.mean(0), train.x.std(0)
    train, test = (Split((part.x - mean) / std, part.y) for part in (train, test))
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    batches = list(itertools.repeat(Batch(train.x, train.y), 100))
    return Program(model, batches, test, optimizer, squared_error, r_squared, update=closure_update)


@healthy("full batch, large rate", traps=("lr_too_high", "activation_shift", "bn_noniid_batch"), above=0.9)
def full_batch() -> Program:
    """All 1,437 samples are one batch and the rate of SGD is .5: few steps, each of them large and right."""
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9, nesterov=True)
    return Program(model, list(itertools.repeat(Batch(train.x, train.y), 100)), test, optimizer)


@healthy("strong weight decay", traps=("init_scale", "vanishing_gradient"), above=0.72)
def decayed_transformer() -> Program:
    """A small GPT under AdamW with a decay of .5 on matrices alone: weights shrink on purpose."""
    train, test = text(length=12)
    model = Transformer(length=12)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 6e-3)
    return Program(model, shuffled(train, 130, size=32), test, optimizer, next_letter, accuracy)


def switched_loss(model: nn.Module, batch: Batch, steps: itertools.count, until: int) -> Tensor:
    """The loss of the last head and, for a while, half that of the one in the middle."""
    last, middle = model.both(batch.x)
    loss = F.cross_entropy(last, batch.y)
    return loss + 0.5 * F.cross_entropy(middle, batch.y) if next(steps) < until else loss


class Supervised(nn.Module):
    """An MLP with an auxiliary head in the middle."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.upper = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.aux_head, self.head = nn.Linear(width, 10), nn.Linear(width, 10)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both predictions, the last one first."""
        middle = self.lower(x)
        return self.head(self.upper(middle)), self.aux_head(middle)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


@healthy("auxiliary head switched off", traps=("not_trained", "vanishing_gradient"), above=0.92)
def auxiliary_head() -> Program:
    """After 80 steps the auxiliary loss is left out: its head gets no gradient from then on."""
    train, test = digits()
    model = Supervised()
    loss = partial(switched_loss, steps=itertools.count(), until=80)
    return Program(model, shuffled(train, 200), test, torch.optim.Adam(model.parameters(), 3e-3), loss)
