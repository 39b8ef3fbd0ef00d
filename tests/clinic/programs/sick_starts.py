"""Weights of a wrong size or all alike at the start, in networks of many kinds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from ..case import Program, Proof, sick
from ..data import Batch, Split, digits, parted, ratings, shuffled, waves
from .sick_copies import classifies, regresses


class Factors(nn.Module):
    """A score for a user and an item: how well their factors agree, and two offsets."""

    def __init__(self, users: int = 60, items: int = 40, width: int = 32) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.offsets = nn.ParameterDict({"user": torch.zeros(users), "item": torch.zeros(items)})

    def forward(self, pair: Tensor) -> Tensor:
        user, item = pair.unbind(1)
        offset = self.offsets["user"][user] + self.offsets["item"][item]
        return torch.einsum("nd,nd->n", self.users(user), self.items(item)) + offset


@sick(
    "factors of a recommender from N(0, 1)",
    family="init_scale",
    rule="ND312",
    layers=("users", "items"),
    proof=Proof(sick=0.0, twin=0.9),
)
def unscaled_factors(is_faulty: bool) -> Program:
    """Embeddings are left at their default, N(0, 1): the first scores are noise, far larger than the ratings."""
    model = Factors()
    for table in (model.users, model.items):
        nn.init.normal_(table.weight, std=1.0 if is_faulty else 0.1)
    return regresses(model, ratings(), Adam(model.parameters(), 1e-2), steps=250)


class Sine(nn.Module):
    """A layer of a SIREN: the sine of omega times a linear map."""

    def __init__(self, inputs: int, width: int, omega: float) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(inputs, width), omega

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


class Siren(nn.Module):
    """Places in a picture to its brightness."""

    def __init__(self, width: int = 48, depth: int = 3, omega: float = 8.0) -> None:
        super().__init__()
        self.net = nn.Sequential(*(Sine(width if place else 2, width, omega) for place in range(depth)))
        self.out = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x))


def picture(samples: int = 3000, seed: int = 21) -> tuple[Split, Split]:
    """Places in a square from -1 to 1 and the brightness there: rings and stripes."""
    x = 2 * torch.rand(samples, 2, generator=torch.Generator().manual_seed(seed)) - 1
    y = torch.sin(9 * x.norm(dim=1)) + torch.cos(6 * x[:, 0] + 3 * x[:, 1])
    return parted(x, y)


@sick(
    "SIREN without the division by omega",
    family="init_scale",
    rule="ND312",
    also=("exploding_gradient",),
    layers=("net.1", "net.1.linear", "net.2", "net.2.linear"),
    proof=Proof(sick=0.3, twin=0.85),
)
def undivided_siren(is_faulty: bool) -> Program:
    """Inner weights of a sine network are to be divided by omega; without it the picture is noise."""
    model = Siren()
    for layer in model.net[1:]:
        bound = math.sqrt(6 / layer.linear.in_features) / layer.omega
        if is_faulty:
            bound *= layer.omega
        nn.init.uniform_(layer.linear.weight, -bound, bound)
    return regresses(model, picture(), Adam(model.parameters(), 1e-3), steps=250)


class Dilated(nn.Module):
    """A plain temporal network: dilated convolutions with ReLU as a function, no residuals, no norms."""

    def __init__(self, depth: int = 8, width: int = 24) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width if place else 1, width, 3, padding=2 ** (place % 3), dilation=2 ** (place % 3))
            for place in range(depth)
        )
        self.classify = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.classify(x.amax(-1))


@sick(
    "std of 2 / fan_in without the root",
    family="init_scale",
    rule="ND311",
    also=("vanishing_gradient",),
    layers=tuple(f"convs.{place}" for place in range(8)),
    proof=Proof(sick=0.4, twin=0.85),
)
def no_root(is_faulty: bool) -> Program:
    """He's initialization by hand, where the variance was taken for the standard deviation."""
    model = Dilated()
    for conv in model.convs:
        variance = 2 / conv.weight[0].numel()
        nn.init.normal_(conv.weight, std=variance if is_faulty else math.sqrt(variance))
        nn.init.zeros_(conv.bias)
    return classifies(model, waves(), SGD(model.parameters(), 0.01, momentum=0.9))


class Density(nn.Module):
    """A mixture density network: weights, centers and widths of eight Gaussians for each input."""

    def __init__(self, width: int = 48, parts: int = 8) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.shares, self.centers = nn.Linear(width, parts), nn.Linear(width, parts)
        self.widths = nn.Linear(width, parts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.trunk(x)
        return self.shares(x).log_softmax(-1), self.centers(x), F.softplus(self.widths(x)) + 0.05


def surprise(model: nn.Module, batch: Batch) -> Tensor:
    """How unlikely the targets are."""
    share, center, width = model(batch.x)
    parts = torch.distributions.Normal(center, width).log_prob(batch.y[:, None])
    return -(share + parts).logsumexp(-1).mean()


@torch.no_grad()
def likelihood(model: nn.Module, test: Split) -> float:
    """Mean log density of the test targets."""
    return -float(surprise(model, Batch(*test)))


def branches(samples: int = 2000, seed: int = 22) -> tuple[Split, Split]:
    """A number, and one of two it may stand for: one above zero or its negative."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 1, generator=generator)
    side = torch.randint(2, (samples,), generator=generator) * 2 - 1
    y = side * (0.8 + 0.5 * torch.sin(2 * x[:, 0]))
    return parted(x, y + 0.1 * torch.randn(samples, generator=generator))


@sick(
    "mixture of one Gaussian",
    family="symmetry",
    rule="ND301",
    layers=("shares", "centers", "widths"),
    proof=Proof(sick=-0.8, twin=-0.2),
)
def equal_components(is_faulty: bool) -> Program:
    """All heads of a mixture density network begin at zero: its eight components are one, and stay so."""
    train, test = branches()
    model = Density()
    if is_faulty:
        for head in (model.shares, model.centers, model.widths):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
    optimizer = Adam(model.parameters(), 5e-3)
    return Program(model, shuffled(train, 200), test, optimizer, surprise, likelihood)


class Filters(nn.Module):
    """A bank of filters, a depthwise smoothing that is learned as well, four quarters, a zero classifier."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.bank = nn.Conv2d(1, channels, 3, padding=1)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        nn.init.constant_(self.smooth.weight, 1 / 9)
        nn.init.zeros_(self.smooth.bias)
        self.head = nn.Linear(4 * channels, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.smooth(F.leaky_relu(self.bank(x))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


@sick(
    "one blur in all filters",
    family="symmetry",
    rule="ND301",
    layers=("bank", "smooth"),
    proof=Proof(sick=0.8, twin=0.93),
)
def same_blur(is_faulty: bool) -> Program:
    """The filters were to begin near a blur; copied by broadcasting, without noise, they are one filter."""
    model = Filters()
    if is_faulty:
        blur = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        model.bank.weight.data[:] = blur
        nn.init.zeros_(model.bank.bias)
    return classifies(model, digits(image=True), Adam(model.parameters(), 1e-2))
