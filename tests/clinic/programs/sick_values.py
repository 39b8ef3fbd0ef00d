"""Faults in the values: inputs of an odd scale, and arithmetic that ends in NaN."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, r_squared, sick
from ..data import Batch, Split, digits, pixels, rescaled, rows, shuffled, table, waves
from .networks import Perceptron
from .sequence_networks import Recurrent


def adam(model: nn.Module, train: Split, test: Split, *, steps: int, lr: float = 3e-3) -> Program:
    """Trains a classifier on shuffled batches."""
    return Program(model, shuffled(train, steps), test, torch.optim.Adam(model.parameters(), lr))


def shifted(data: tuple[Split, Split], scale: float, offset: float) -> tuple[Split, ...]:
    """The same samples in other units."""
    return tuple(Split(part.x * scale + offset, part.y) for part in data)


class Pricer(nn.Module):
    """Columns in, two hidden layers with ReLU as a function, a price out."""

    def __init__(self, columns: int = 8, width: int = 64) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(columns, width), nn.Linear(width, width)
        self.price = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.price(F.relu(self.fc2(F.relu(self.fc1(x)))))


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a regression with one number."""
    return F.mse_loss(model(batch.x).squeeze(-1), batch.y)


@sick("raw columns of a table", family="input_scale", rule="ND701", proof=Proof(sick=0.4, twin=0.9))
def raw_columns(is_faulty: bool) -> Program:
    """Incomes and areas go in as they are, the largest about 100,000; the twin standardizes each column."""
    train, test = table()
    units = torch.tensor([100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 50.0, 1.0])
    train, test = (Split(part.x * units, part.y) for part in (train, test))
    if not is_faulty:
        mean, std = train.x.mean(0), train.x.std(0)
        train, test = (Split((part.x - mean) / std, part.y) for part in (train, test))
    model = Pricer()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Program(model, shuffled(train, 250), test, optimizer, squared_error, r_squared)


@sick(
    "bytes into an RNN",
    family="input_scale",
    rule="ND701",
    also=("saturation",),
    proof=Proof(sick=0.7, twin=0.88),
)
def bytes_into_an_rnn(is_faulty: bool) -> Program:
    """Rows of pixels from 0 to 255 go into a tanh RNN, whose units then are all at -1 or 1."""
    train, test = rows()
    if is_faulty:
        train, test = (rescaled(part, 0.0, 16 / 255, image=True) for part in pixels())
        train, test = (Split(part.x.squeeze(1), part.y) for part in (train, test))
    return adam(Recurrent(nn.RNN), train, test, steps=250, lr=2e-3)


@sick(
    "a time stamp among the pixels",
    family="input_scale",
    rule="ND701",
    also=("dead_units",),
    proof=Proof(sick=0.7, twin=0.92),
)
def time_stamp(is_faulty: bool) -> Program:
    """One column of 65 is the time in seconds, in the millions; the twin standardizes it like the others."""
    model = nn.Sequential(
        *(nn.Linear(65, 64), nn.GELU(), nn.Linear(64, 32), nn.GELU()),
        nn.Linear(32, 10),
    )
    scale, offset = (1e5, 1e6) if is_faulty else (1.0, 0.0)
    train, test = (
        Split(torch.cat([part.x, scale * torch.randn(len(part.x), 1) + offset], 1), part.y)
        for part in digits()
    )
    return adam(model, train, test, steps=250)


class Signal(nn.Module):
    """Two convolutions over time and a classifier; activations as functions."""

    def __init__(self, channels: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, channels, 7, padding=3)
        self.conv2 = nn.Conv1d(channels, channels, 5, padding=2)
        self.classifier = nn.Linear(channels * 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.relu(self.conv1(x)), 2)
        x = F.max_pool1d(F.relu(self.conv2(x)), 2)
        return self.classifier(x.flatten(1))


@sick(
    "air pressure in hectopascal",
    family="input_scale",
    rule="ND701",
    also=("dead_units",),
    proof=Proof(sick=0.6, twin=0.9),
)
def air_pressure(is_faulty: bool) -> Program:
    """A signal that varies by 1 about 1013, under SGD; the twin takes the mean away."""
    train, test = shifted(waves(), 1.0, 1013.0 if is_faulty else 0.0)
    model = Signal()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    return Program(model, shuffled(train, 250), test, optimizer)


@sick("signal in volts", family="input_scale", rule="ND701", proof=Proof(sick=0.6, twin=0.9))
def signal_in_volts(is_faulty: bool) -> Program:
    """A signal of a ten thousandth of a volt: the biases drown it; the twin counts in units of 100 microvolts."""
    train, test = shifted(waves(), 1e-4 if is_faulty else 1.0, 0.0)
    model = Signal()
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    return Program(model, shuffled(train, 250), test, optimizer)


class Siamese(nn.Module):
    """The distance between the embeddings of two images."""

    def __init__(self, eps: float, width: int = 8) -> None:
        super().__init__()
        self.eps = eps
        self.tower = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, width))

    def forward(self, pairs: Tensor) -> Tensor:
        left, right = self.tower(pairs[:, 0]), self.tower(pairs[:, 1])
        return ((left - right).square().sum(1) + self.eps).sqrt()


def contrastive(model: nn.Module, batch: Batch) -> Tensor:
    """Alike pairs come together, unlike ones are kept two apart."""
    distance = model(batch.x)
    return (batch.y * distance.square() + (1 - batch.y) * F.relu(2 - distance).square()).mean()


@torch.no_grad()
def told_apart(model: nn.Module, test: Split) -> float:
    """Share of pairs that are on the right side of distance 1; NaN once distances are."""
    distance = model(test.x)
    right = ((distance < 1).float() == test.y).double().mean()
    return float(right + 0 * distance.mean())


def paired(data: Split, count: int, is_twice: bool = False) -> Split:
    """Pairs, half of them of one class; ``is_twice`` lets a few be the same image twice."""
    first = torch.randint(len(data.x), (count,))
    other = torch.randint(len(data.x), (count,))
    for place in range(0, count, 2):
        same = (data.y == data.y[first[place]]).nonzero().flatten()
        other[place] = same[torch.randint(len(same), (1,))]
    if is_twice:
        other[::400] = first[::400]
    alike = (data.y[first] == data.y[other]).float()
    return Split(torch.stack([data.x[first], data.x[other]], 1), alike)


@sick("square root of no distance", family="numeric", rule="ND604", proof=Proof(sick=0.3, twin=0.85))
def root_of_zero(is_faulty: bool) -> Program:
    """A few pairs are one image twice: the gradient of their distance is infinite times zero."""
    train, test = digits()
    pairs, probe = paired(train, 3000, is_twice=True), paired(test, 400)
    model = Siamese(0.0 if is_faulty else 1e-6)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return Program(model, shuffled(pairs, 200), probe, optimizer, contrastive, told_apart)


class Variational(nn.Module):
    """A VAE of inverted digits; returns probabilities of ink and the parameters of the code."""

    def __init__(self, code: int = 8, width: int = 64) -> None:
        super().__init__()
        self.encoder, self.stats = nn.Linear(64, width), nn.Linear(width, 2 * code)
        self.decoder, self.pixels = nn.Linear(code, width), nn.Linear(width, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.stats(F.relu(self.encoder(x))).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        code = mean + noise * (0.5 * log_var).exp()
        return torch.sigmoid(self.pixels(F.relu(self.decoder(code)))), mean, log_var


def evidence(model: nn.Module, batch: Batch, eps: float) -> Tensor:
    """Cross entropy of the pixels, by hand, and a little of the divergence of the code from a normal."""
    shown, mean, log_var = model(batch.x)
    entropy = -(batch.x * torch.log(shown + eps) + (1 - batch.x) * torch.log(1 - shown + eps)).sum(1)
    divergence = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1)
    return (entropy + 0.1 * divergence).mean()


@torch.no_grad()
def redrawn(model: nn.Module, test: Split) -> float:
    """Share of the variance of the pixels that comes back."""
    return float(1 - F.mse_loss(model(test.x)[0], test.x) / test.x.var(0, correction=0).mean())


@sick("VAE that takes log(0)", family="numeric", rule="ND604", proof=Proof(sick=0.1, twin=0.55))
def vae_log_of_zero(is_faulty: bool) -> Program:
    """The margin of inverted digits is always white: in time its probability is exactly 1, and 0 log 0 is NaN."""
    train, test = (Split(1 - part.x / 16, part.y) for part in pixels())
    model = Variational()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    loss = partial(evidence, eps=0.0 if is_faulty else 1e-6)
    return Program(model, shuffled(train, 250), test, optimizer, loss, redrawn)


class Prototypes(nn.Module):
    """Cosines between an embedding and one prototype a class, divided by a temperature."""

    def __init__(self, eps: float, width: int = 32) -> None:
        super().__init__()
        self.eps = eps
        self.embed = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, width, bias=False))
        self.prototypes = nn.Linear(width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        code = self.embed(x)
        length = code.norm(dim=1, keepdim=True)
        return 10 * F.linear(code / (length + self.eps), F.normalize(self.prototypes.weight))


@sick("zero divided by its norm", family="numeric", rule="ND604", proof=Proof(sick=0.3, twin=0.9))
def zero_by_its_norm(is_faulty: bool) -> Program:
    """Three of the images are blank: their embedding is zero, and so is its norm."""
    train, test = (rescaled(part, 0.0, 8.0) for part in pixels())
    train.x[[300, 700, 1100]] = 0.0
    model = Prototypes(0.0 if is_faulty else 1e-6)
    return adam(model, train, test, steps=200)


class Attentive(nn.Module):
    """Attention of one query over rows of pixels, its softmax by hand."""

    def __init__(self, is_guarded: bool, width: int = 32) -> None:
        super().__init__()
        self.is_guarded = is_guarded
        self.embed, self.places = nn.Linear(8, width), nn.Parameter(0.5 * torch.randn(8, width))
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.head = nn.Linear(width, width), nn.Linear(width * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x) + self.places)
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        if self.is_guarded:
            scores = scores - scores.amax(-1, keepdim=True)
        weights = scores.exp()
        mixed = weights / weights.sum(-1, keepdim=True) @ self.value(x)
        return self.head((x + mixed).flatten(1))


def scaled_update(program: Program, batch: Batch, scale: float) -> Tensor:
    """A step in float16 whose loss is multiplied before, and whose gradients are divided after."""
    with torch.autocast("cpu", dtype=torch.float16):
        loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    (loss * scale).backward()
    for parameter in program.model.parameters():
        parameter.grad /= scale
    program.optimizer.step()
    return loss


@sick("softmax by hand overflows", family="numeric", rule="ND604", proof=Proof(sick=0.3, twin=0.9))
def overflowing_softmax(is_faulty: bool) -> Program:
    """Attention in float16, its softmax written as exp over sum: in time a score is above 11, whose exp is inf."""
    program = adam(Attentive(is_guarded=not is_faulty), *rows(), steps=200, lr=5e-3)
    program.update = partial(scaled_update, scale=256.0)
    return program


@sick("float16 with a fixed loss scale", family="numeric", rule="ND604", proof=Proof(sick=0.3, twin=0.9))
def fixed_loss_scale(is_faulty: bool) -> Program:
    """The loss is scaled by 2^18 and nobody looks for infinite gradients; the twin scales by 2^8."""
    program = adam(Perceptron(), *digits(), steps=150)
    scale = 2.0**18 if is_faulty else 2.0**8
    program.update = partial(scaled_update, scale=scale)
    return program
