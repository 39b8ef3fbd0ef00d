"""Faults that show in the steps: the learning rate, the scale of the inputs, the first NaN."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, sick
from ..data import CLASSES, Batch, Split, digits, pixels, rescaled, shuffled
from .networks import Convolutional, Perceptron


@sick(
    "Adam lr .3",
    family="lr_too_high",
    rule="ND603",
    also=("activation_shift", "dead_units"),
    proof=Proof(sick=0.5, twin=0.94),
)
def adam_lr(is_faulty: bool) -> Program:
    """A rate three hundred times Adam's default kills every unit; the twin has a usual one."""
    train, test = digits()
    model = Perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3 if is_faulty else 3e-3)
    return Program(model, shuffled(train, 250), test, optimizer)


@sick("pixels 0..255", family="input_scale", rule="ND701", proof=Proof(sick=0.8, twin=0.92))
def raw_pixels(is_faulty: bool) -> Program:
    """Pixels from 0 to 255 go into a plain convolutional net under SGD; the twin standardizes them."""
    train, test = digits(image=True)
    if is_faulty:
        train, test = (rescaled(part, 0.0, 16 / 255, image=True) for part in pixels())
    model = Convolutional()
    return Program(
        model, shuffled(train, 300), test, torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    )


def naive_cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """One-hot targets times the logarithm of probabilities, some of which round to zero in time."""
    logarithms = torch.log(torch.softmax(model(batch.x), dim=1))
    return -(F.one_hot(batch.y, CLASSES) * logarithms).sum(1).mean()


@sick(
    "log(softmax)",
    family="numeric",
    rule="ND604",
    proof=Proof(sick=0.3, twin=0.92),
    twin_follows=("ND604",),
)
def log_of_softmax(is_faulty: bool) -> Program:
    """Cross entropy by hand, without log_softmax, in a net that soon is confident about overexposed images."""
    train, test = digits()
    is_bright = torch.rand(len(train.x), 1) < 0.03
    train = Split(torch.where(is_bright, 8 * train.x, train.x), train.y)
    model = Perceptron()
    program = Program(model, shuffled(train, 250), test, torch.optim.Adam(model.parameters(), lr=1e-2))
    if is_faulty:
        program.loss = naive_cross_entropy
    return program
