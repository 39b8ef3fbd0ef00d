"""Dropout and noise in places of their own: attention, states, channels, columns, dense blocks, before norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ..case import Program, Proof, r_squared, sick
from ..data import digits, marked, recall, shuffled, surface, waves
from .sick_dropout import by_adam, squared_error


class Pointer(nn.Module):
    """A learned query reads from a sequence by attention, as a function; what it read is classified."""

    def __init__(self, p: float, *, ignores_mode: bool, width: int = 32, queries: int = 1) -> None:
        super().__init__()
        self.p, self.ignores_mode = p, ignores_mode
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.embed = nn.Linear(7, width)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(queries * width, 6)

    def read(self, x: Tensor) -> Tensor:
        """What the query finds."""
        p = self.p if self.training or self.ignores_mode else 0.0
        queries = self.queries.expand(len(x), -1, -1)
        return F.scaled_dot_product_attention(queries, self.key(x), self.value(x), dropout_p=p)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.embed(x).relu()).flatten(1))


@sick(
    "dropout_p of SDPA ignores eval()",
    family="dropout_capacity",
    rule="ND504",
    layers=("", "key", "value", "embed"),
    proof=Proof(sick=0.85, twin=0.92),
)
def attention_dropped_in_eval(is_faulty: bool) -> Program:
    """``dropout_p`` is an argument and no module: without ``if self.training`` it drops in eval mode too."""
    return by_adam(Pointer(0.5, ignores_mode=is_faulty), marked(), steps=250, lr=5e-3)


class Temporal(nn.Module):
    """A residual block of a TCN: two dilated convolutions with weight norm, channel dropout behind each."""

    def __init__(self, channels: int, dilation: int, p: float) -> None:
        super().__init__()
        options = {"padding": dilation, "dilation": dilation}
        self.conv1 = weight_norm(nn.Conv1d(channels, channels, 3, **options))
        self.conv2 = weight_norm(nn.Conv1d(channels, channels, 3, **options))
        self.drop1, self.drop2 = nn.Dropout1d(p), nn.Dropout1d(p)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop1(F.elu(self.conv1(x)))
        return x + self.drop2(F.elu(self.conv2(hidden)))


class TCN(nn.Module):
    """A stem whose channels are dropped, three blocks of growing dilation, the mean over time, a classifier."""

    def __init__(self, p: float, channels: int = 12) -> None:
        super().__init__()
        self.stem, self.drop = nn.Conv1d(1, channels, 5, padding=2), nn.Dropout1d(p)
        self.blocks = nn.ModuleList(Temporal(channels, 2**stage, p) for stage in range(3))
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.elu(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.square().mean(-1).log1p())


DROPS = tuple(
    f"blocks.{block}.{part}{place}" for block in range(3) for part in ("conv", "drop") for place in (1, 2)
)


@sick(
    "TCN with Dropout1d .9",
    family="dropout_capacity",
    rule="ND501",
    layers=("stem", "drop", *DROPS),
    proof=Proof(sick=0.75, twin=0.9),
)
def temporal_channels_dropped(is_faulty: bool) -> Program:
    """Of twelve channels one is left on average, and the stem's are dropped as well; the twin drops none."""
    return by_adam(TCN(0.9 if is_faulty else 0.0), waves(), steps=200, lr=5e-3)


class Stepwise(nn.Module):
    """A GRU cell in a loop of one's own, which drops of its state what it likes before each step."""

    def __init__(self, p: float, width: int = 32) -> None:
        super().__init__()
        self.p = p
        self.cell, self.head = nn.GRUCell(6, width), nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.cell.hidden_size)
        for letter in x.unbind(1):
            state = self.cell(letter, F.dropout(state, self.p, self.training))
        return self.head(state)


@sick(
    "naive dropout inside a GRU",
    family="dropout_capacity",
    rule="ND501",
    also=("vanishing_gradient", "exploding_gradient"),
    layers=("", "cell"),
    proof=Proof(sick=0.5, twin=0.92),
)
def state_dropped_at_each_step(is_faulty: bool) -> Program:
    """Half of the state is dropped, anew at each of twelve steps: what was read first does not live to the end."""
    return by_adam(Stepwise(0.5 if is_faulty else 0.0), recall(12), steps=250, lr=1e-2)


class Dense(nn.Module):
    """A layer of a DenseNet: BatchNorm, ReLU, convolution, dropout, beside all that came before."""

    def __init__(self, channels: int, growth: int, p: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.drop(self.conv(self.norm(x).relu()))], 1)


class DenseNet(nn.Module):
    """A stem of stride 2, a dense block, a last BatchNorm, the mean of all places, a classifier."""

    def __init__(self, p: float, growth: int = 8, depth: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, growth, 3, 2, padding=1)
        self.block = nn.Sequential(*(Dense(growth * (1 + place), growth, p) for place in range(depth)))
        self.norm, self.head = nn.BatchNorm2d(growth * (1 + depth)), nn.Linear(growth * (1 + depth), 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.stem(x))).relu().mean((2, 3)))


DENSE = (
    *(f"block.{place}.drop" for place in range(5)),
    *(f"block.{place}.norm" for place in range(1, 5)),
    "norm",
)


@sick(
    "DenseNet, dropout .7 in front of each BN",
    family="dropout_bn_order",
    rule="ND503",
    also=("bn_drift",),
    layers=DENSE,
    proof=Proof(sick=0.88, twin=0.93),
)
def dense_dropout_before_bn(is_faulty: bool) -> Program:
    """What a dense layer drops, every later BatchNorm reads: all learn a variance that evaluation lacks."""
    return by_adam(DenseNet(0.7 if is_faulty else 0.0), digits(image=True), steps=150, lr=5e-3)


class Tabular(nn.Module):
    """Columns, some of which are dropped, two hidden layers, a regression."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.mask, self.stem = nn.Dropout(p), nn.Linear(6, 64)
        self.body, self.price = nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.mish(self.stem(self.mask(x)))
        return self.price(F.mish(self.body(x)))


@sick(
    "seven columns of ten dropped",
    family="dropout_capacity",
    rule="ND501",
    layers=("mask", "stem"),
    proof=Proof(sick=0.4, twin=0.85),
)
def columns_dropped(is_faulty: bool) -> Program:
    """Dropout of .7 stands before the first layer of a table of six columns, which only say much together."""
    train, test = surface()
    model = Tabular(0.7 if is_faulty else 0.0)
    optimizer = torch.optim.RMSprop(model.parameters(), 3e-3)
    return Program(model, shuffled(train, 250), test, optimizer, squared_error, r_squared)


class Noise(nn.Module):
    """Adds Gaussian noise while training, as a layer of Keras does."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training else x


def noisy(std: float, width: int = 48, depth: int = 4) -> nn.Sequential:
    """Stages of Linear, noise, BatchNorm and GELU, and a classifier."""
    stages = [
        nn.Sequential(nn.Linear(width if place else 64, width), Noise(std), nn.BatchNorm1d(width), nn.GELU())
        for place in range(depth)
    ]
    return nn.Sequential(*stages, nn.Linear(width, 10))


@sick(
    "noise in front of a BatchNorm",
    family="bn_drift",
    rule="ND401",
    also=("dropout_bn_order", "dropout_capacity"),
    layers=tuple(f"{stage}.{place}" for stage in range(4) for place in (1, 2)),
    twin_follows=("ND401",),
    proof=Proof(sick=0.88, twin=0.94),
)
def noise_before_bn(is_faulty: bool) -> Program:
    """Noise of 3 was chosen for inputs and put in front of each BatchNorm, whose variances now are the noise's."""
    return by_adam(noisy(3.0 if is_faulty else 0.05), digits(), steps=250)
