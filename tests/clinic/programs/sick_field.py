"""What goes wrong most often: starts, activations, rates, missing values, parameters nobody steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import OneCycleLR

from ..case import Program, Proof, sick
from ..data import Split, blobs, digits, pixels, rows, sentences, shuffled, table
from .networks import pretrained
from .norm_networks import UNet
from .sick_copies import classifies, regresses
from .sick_dropout import by_adam, rebuilding_error, share_rebuilt, standardized
from .sick_paths import mask_error, overlap


class LeNet(nn.Module):
    """Two convolutions with average pooling, two Linear layers; the activation is a function."""

    def __init__(
        self,
        act: Callable[[Tensor], Tensor] = torch.tanh,
        *,
        channels: tuple[int, int] = (6, 16),
        width: int = 48,
    ) -> None:
        super().__init__()
        self.act = act
        self.conv1 = nn.Conv2d(1, channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(*channels, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(4 * channels[1], width), nn.Linear(width, 10)

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads."""
        x = F.avg_pool2d(self.act(self.conv1(x)), 2)
        x = F.avg_pool2d(self.act(self.conv2(x)), 2)
        return self.act(self.fc1(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.features(x))


@sick(
    "all weights of a LeNet zero",
    family="symmetry",
    rule="ND301",
    also=("init_scale", "vanishing_gradient", "not_trained"),
    layers=("conv1", "conv2", "fc1", "fc2"),
    proof=Proof(sick=0.3, twin=0.87),
)
def zero_weights(is_faulty: bool) -> Program:
    """Zeros in every matrix, as for logistic regression: only the last bias ever gets a gradient."""
    model = LeNet()
    if is_faulty:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    return by_adam(model, digits(image=True), steps=180, lr=5e-3)


@sick(
    "weights from torch.rand",
    family="init_scale",
    rule="ND312",
    also=("exploding_gradient", "lr_too_high", "dead_units", "activation_shift"),
    layers=("0", "1", "2", "3", "4", "5", "6"),
    proof=Proof(sick=0.75, twin=0.92),
)
def all_positive(is_faulty: bool) -> Program:
    """Uniform between 0 and 1: no weight is negative, and each layer multiplies the signal."""
    model = nn.Sequential(
        *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )
    if is_faulty:
        for layer in model[::2]:
            nn.init.uniform_(layer.weight)
    return by_adam(model, digits(), steps=150, lr=1e-3)


@sick(
    "sigmoid decoder, raw targets",
    family="saturation",
    rule="ND201",
    also=("vanishing_gradient",),
    layers=("decoder", "decoder.2", "decoder.3"),
    twin_follows=("ND201",),
    proof=Proof(sick=0.2, twin=0.5),
)
def bounded_decoder(is_faulty: bool) -> Program:
    """The decoder ends in a sigmoid, and nobody divided the targets: it can only say 1 or 0."""
    model = nn.Sequential()
    model.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))
    model.decoder = nn.Sequential(nn.Linear(16, 48), nn.ReLU(), nn.Linear(48, 64), nn.Sigmoid())
    (train, test), (raw, raw_test) = digits(), pixels()
    unit = 1.0 if is_faulty else 16.0
    data = Split(train.x, raw.x / unit), Split(test.x, raw_test.x / unit)
    program = by_adam(model, data, steps=250)
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


class SoftmaxLast(nn.Module):
    """A convolutional classifier that may end in a softmax."""

    def __init__(self, *, ends_in_softmax: bool) -> None:
        super().__init__()
        self.ends_in_softmax = ends_in_softmax
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        )
        self.hidden, self.classifier = nn.Linear(64, 64), nn.Linear(64, 10)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.classifier(F.relu(self.hidden(self.features(x))))
        return self.softmax(x) if self.ends_in_softmax else x


@sick(
    "softmax before cross entropy",
    family="saturation",
    rule="ND203",
    also=("vanishing_gradient",),
    layers=("softmax", "classifier"),
    twin_follows=("ND201",),
    proof=Proof(sick=0.85, twin=0.93),
)
def softmax_twice(is_faulty: bool) -> Program:
    """``CrossEntropyLoss`` wants logits and gets probabilities, which stick at 0 and 1: lost classes stay lost."""
    model = SoftmaxLast(ends_in_softmax=is_faulty)
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.1, momentum=0.9), steps=150)


class ReluLast(nn.Module):
    """A perceptron built in a loop, which puts an activation behind each Linear, the last one too or not."""

    def __init__(self, sizes: tuple[int, ...], *, activates_last: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.acts = nn.ModuleList(nn.ReLU() for _ in self.layers)
        self.activates_last = activates_last

    def forward(self, x: Tensor) -> Tensor:
        for layer, act in zip(self.layers, self.acts, strict=True):
            is_last = layer is self.layers[-1]
            x = layer(x) if is_last and not self.activates_last else act(layer(x))
        return x


@sick(
    "ReLU behind the logits",
    family="dead_units",
    rule="ND202",
    layers=("layers.2", "acts.2"),
    twin_follows=("ND202",),
    proof=Proof(sick=0.8, twin=0.92),
)
def relu_last(is_faulty: bool) -> Program:
    """The loop puts a ReLU behind the classifier too: a class whose logit falls below zero is lost."""
    model = ReluLast((64, 64, 48, 10), activates_last=is_faulty)
    return classifies(model, digits(), SGD(model.parameters(), 0.2, momentum=0.9), steps=150)


@sick(
    "prices in dollars under SGD",
    family="exploding_gradient",
    rule="ND602",
    also=("lr_too_high", "numeric", "dead_units", "activation_shift"),
    proof=Proof(sick=0.3, twin=0.7),
)
def unscaled_targets(is_faulty: bool) -> Program:
    """Targets of 250,000 and a squared error: the first gradients throw the weights out of all bounds."""
    train, test = standardized(table())
    mean, std = train.y.mean(), train.y.std()
    gain, offset = (80_000.0, 250_000.0) if is_faulty else (1.0, 0.0)
    data = tuple(Split(part.x, gain * (part.y - mean) / std + offset) for part in (train, test))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    return regresses(model, data, SGD(model.parameters(), 0.02, momentum=0.9), steps=200)


@sick(
    "OneCycleLR up to 1 under Adam",
    family="lr_too_high",
    rule="ND603",
    also=("dead_units", "activation_shift", "exploding_gradient", "saturation"),
    proof=Proof(sick=0.6, twin=0.88),
)
def one_cycle_too_high(is_faulty: bool) -> Program:
    """The maximal rate of a cycle for SGD was kept when the optimizer became Adam; the twin has .01."""
    train, test = digits(image=True)
    model = LeNet(F.relu)
    optimizer = Adam(model.parameters())
    scheduler = OneCycleLR(optimizer, 1.0 if is_faulty else 0.01, total_steps=181)
    return Program(model, shuffled(train, 180), test, optimizer, scheduler=scheduler)


@sick(
    "CT in Hounsfield units",
    family="input_scale",
    rule="ND701",
    also=("exploding_gradient", "lr_too_high", "dead_units", "activation_shift", "numeric"),
    proof=Proof(sick=0.4, twin=0.7),
)
def hounsfield(is_faulty: bool) -> Program:
    """Scans go into a U-Net without norms as they are stored, in hundreds and thousands; the twin rescales them."""
    train, test = blobs()
    if is_faulty:
        train, test = (Split(500 * part.x - 300, part.y) for part in (train, test))
    model = UNet(lambda channels: nn.Identity())
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    return Program(model, shuffled(train, 100, size=16), test, optimizer, mask_error, overlap)


class AttentivePool(nn.Module):
    """Embedded words, a score for each, their softmax over all that is no padding, a classifier."""

    def __init__(self, masked: float, letters: int = 12, width: int = 32) -> None:
        super().__init__()
        self.masked = masked
        self.embed = nn.Embedding(letters + 1, width, padding_idx=0)
        self.score, self.head = nn.Linear(width, 1), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        scores = self.score(x).squeeze(-1).masked_fill(tokens == 0, self.masked)
        return self.head((scores.softmax(-1)[..., None] * x).sum(1))


@sick(
    "softmax over an empty text",
    family="numeric",
    rule="ND604",
    layers=("", "embed", "score", "head"),
    proof=Proof(sick=0.3, twin=0.7),
)
def empty_text(is_faulty: bool) -> Program:
    """One text in 200 is empty: all its places are masked with -inf, and the softmax of that is NaN."""
    train, test = sentences()
    train.x[5::200] = 0
    model = AttentivePool(-torch.inf if is_faulty else -1e4)
    return classifies(model, (train, test), Adam(model.parameters(), 1e-2), steps=200)


@sick("blanks in a table became NaN", family="numeric", rule="ND604", proof=Proof(sick=0.3, twin=0.7))
def missing_values(is_faulty: bool) -> Program:
    """``read_csv`` made NaN of three blank cells; the twin has the mean of the column there."""
    train, test = standardized(table())
    train.x[[200, 700, 1200], 5] = torch.nan if is_faulty else 0.0
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 1))
    return regresses(model, (train, test), Adam(model.parameters(), 5e-3), steps=150)


@sick(
    "unfrozen after the optimizer was made",
    family="not_trained",
    rule="ND606",
    layers=("conv1", "conv2", "fc1"),
    proof=Proof(sick=0.75, twin=0.88),
)
def unfrozen_too_late(is_faulty: bool) -> Program:
    """The optimizer got what needed a gradient then, the head; the body was unfrozen later, to no effect."""
    train, test = digits(image=True)
    model = pretrained(LeNet(F.relu, channels=(4, 8), width=12), train, 60)
    model.requires_grad_(False)
    model.fc2 = nn.Linear(12, 10)
    if not is_faulty:
        model.requires_grad_(True)
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.requires_grad_(True)
    turned = tuple(Split(-part.x.flip(2).transpose(2, 3), part.y) for part in (train, test))
    return classifies(model, turned, optimizer, steps=220)


class Gru(nn.Module):
    """A GRU over rows of pixels, dropout as a function on its last state, a classifier."""

    def __init__(self, p: float, width: int = 16) -> None:
        super().__init__()
        self.p = p
        self.gru, self.head = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = self.gru(x)[1][-1]
        return self.head(F.dropout(state, self.p, self.training))


@sick(
    "dropout .9 on the state of a GRU",
    family="dropout_capacity",
    rule="ND501",
    layers=("gru", "head"),
    proof=Proof(sick=0.78, twin=0.83),
)
def dropped_state(is_faulty: bool) -> Program:
    """Ten classes are to be told from sixteen numbers, of which one or two are left."""
    return by_adam(Gru(0.9 if is_faulty else 0.0), rows(), steps=160, lr=5e-3)
