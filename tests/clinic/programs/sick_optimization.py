"""Faults of the optimizer and its schedule: rates, momentum, gradients that are kept, decay too early."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from ..case import Program, Proof, sick
from ..data import Batch, Split, blobs, rows, shuffled, surface, waves
from .networks import pretrained
from .sick_copies import classifies, regresses


class BothWays(nn.Module):
    """A tanh RNN over rows in both directions, the mean of its outputs, a classifier."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.RNN(8, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0].mean(1))


@sick(
    "body and head trade their rates",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "saturation", "exploding_gradient"),
    layers=("body",),
    proof=Proof(sick=0.7, twin=0.82),
)
def swapped_rates(is_faulty: bool) -> Program:
    """Fine-tuning, the two parameter groups mixed up: the trained body gets the rate of the new head."""
    train, test = rows()
    model = BothWays()
    pretrained(model, train, 150)
    model.head.reset_parameters()
    rates = {"body": 1e-3, "head": 0.2}
    if is_faulty:
        rates = {"body": 0.2, "head": 1e-3}
    groups = [{"params": getattr(model, part).parameters(), "lr": lr} for part, lr in rates.items()]
    return Program(model, shuffled(train, 150), test, Adam(groups))


class Pooled(nn.Module):
    """Two strided convolutions over a signal with SELU as modules, the strongest places, a classifier."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv1d(1, width, 7, stride=2), nn.SELU()), *(nn.Conv1d(width, width, 5), nn.SELU())
        )
        self.classifier = nn.Linear(2 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        return self.classifier(torch.cat([x.amax(-1), x.mean(-1)], 1))


def keeping_update(program: Program, batch: Batch) -> Tensor:
    """A step that adds to the gradients of all steps before."""
    loss = program.loss(program.model, batch)
    loss.backward()
    program.optimizer.step()
    return loss


@sick(
    "zero_grad forgotten",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "exploding_gradient"),
    proof=Proof(sick=0.7, twin=0.9),
)
def forgotten_zero_grad(is_faulty: bool) -> Program:
    """Nobody calls ``zero_grad``: every step is taken along the sum of all gradients so far."""
    model = Pooled()
    program = classifies(model, waves(), SGD(model.parameters(), 0.05), steps=250)
    if is_faulty:
        program.update = keeping_update
    return program


class Dense(nn.Module):
    """Each layer reads the inputs and all layers before it; Mish as a function."""

    def __init__(self, inputs: int = 6, growth: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs + place * growth, growth) for place in range(depth))
        self.value = nn.Linear(inputs + depth * growth, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.mish(layer(x))], -1)
        return self.value(x)


@sick(
    "momentum .999 for .9",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "exploding_gradient", "numeric"),
    proof=Proof(sick=0.3, twin=0.75),
)
def heavy_momentum(is_faulty: bool) -> Program:
    """Adam's second beta went into SGD's momentum: steps add up a thousandfold and overshoot."""
    model = Dense()
    optimizer = SGD(model.parameters(), 0.03, momentum=0.999 if is_faulty else 0.9)
    return regresses(model, surface(), optimizer, steps=250)


class Pyramid(nn.Module):
    """Down and up again, with a skip; leaky ReLU as functions; a logit a pixel."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inc, self.down = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.outc = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.leaky_relu(self.inc(x))
        coarse = F.leaky_relu(self.down(F.avg_pool2d(fine, 2)))
        return self.outc(torch.cat([fine, F.leaky_relu(self.up(coarse))], 1))


def pixel_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of yes or no at each pixel."""
    return F.binary_cross_entropy_with_logits(model(batch.x), batch.y)


@torch.no_grad()
def overlap(model: nn.Module, test: Split) -> float:
    """Intersection over union of the masks."""
    mask, truth = model(test.x) > 0, test.y > 0.5
    return float((mask & truth).sum() / (mask | truth).sum())


@sick(
    "decay meant per epoch, done per batch",
    family="not_trained",
    rule="ND606",
    also=("lr_too_high",),
    proof=Proof(sick=0.4, twin=0.75),
)
def early_decay(is_faulty: bool) -> Program:
    """The rate halves every two epochs, but the scheduler steps with each batch: soon nothing moves.

    ``lr_too_high`` is accepted since ND603 speaks of steps that are too small as well.
    """
    train, test = blobs()
    model = Pyramid()
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    an_epoch = len(train.x) // 16
    scheduler = StepLR(optimizer, 2 if is_faulty else 2 * an_epoch, gamma=0.5)
    batches = shuffled(train, 160, size=16)
    return Program(model, batches, test, optimizer, pixel_entropy, overlap, scheduler)
