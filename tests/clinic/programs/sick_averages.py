"""BatchNorm and GroupNorm in rarer places: averaged weights, domains, point clouds, lengths, spectrograms."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, one_update, r_squared, sick
from ..data import Batch, Split, digits, parted, shuffled
from .norm_networks import Norm
from .sick_dropout import by_adam, squared_error
from .sick_statistics import in_order, joined, recoloured


class Stages(nn.Module):
    """Convolutions of stride 2 and norms, the names those of a common backbone; a classifier."""

    def __init__(self, norm: Norm = nn.BatchNorm2d, width: int = 12) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3, 1, 1, bias=False), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), norm(2 * width)
        self.conv3, self.bn3 = nn.Conv2d(2 * width, 2 * width, 3, 2, 1, bias=False), norm(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv1(x)))
        x = F.silu(self.bn2(self.conv2(x)))
        return self.fc(F.silu(self.bn3(self.conv3(x))).mean((2, 3)))


class Averaging(nn.Module):
    """A network that learns, and a copy whose weights follow it; evaluation asks the copy."""

    def __init__(self, online: nn.Module, *, forgets_buffers: bool) -> None:
        super().__init__()
        self.online, self.average = online, copy.deepcopy(online).requires_grad_(False)
        self.forgets_buffers = forgets_buffers

    @torch.no_grad()
    def follow(self, share: float = 0.1) -> None:
        """Moves the copy some way to the network."""
        for mean, weight in zip(self.average.parameters(), self.online.parameters(), strict=True):
            mean.lerp_(weight, share)
        if not self.forgets_buffers:
            for kept, buffer in zip(self.average.buffers(), self.online.buffers(), strict=True):
                kept.copy_(buffer)

    def forward(self, x: Tensor) -> Tensor:
        return self.online(x) if self.training else self.average(x)


def followed(program: Program, batch: Batch) -> Tensor:
    """The usual step; then the copy follows."""
    loss = one_update(program, batch)
    program.model.follow()
    return loss


@sick(
    "weights averaged, BatchNorm not",
    family="bn_drift",
    rule="ND407",
    layers=tuple(f"average.bn{place}" for place in (1, 2, 3)),
    proof=Proof(sick=0.6, twin=0.93),
)
def averaged_without_buffers(is_faulty: bool) -> Program:
    """A moving average of ``parameters()`` leaves buffers out: the copy keeps the statistics of the start."""
    train, test = recoloured(digits(image=True), 0.5, 1.0)
    model = Averaging(Stages(), forgets_buffers=is_faulty)
    optimizer = torch.optim.NAdam(model.online.parameters(), 3e-3)
    return Program(model, shuffled(train, 150), test, optimizer, update=followed)


class DomainNorm(nn.Module):
    """A BatchNorm a domain, each for its part of a batch."""

    def __init__(self, channels: int, *, knows_domain: bool) -> None:
        super().__init__()
        self.knows_domain = knows_domain
        self.photo, self.sketch = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, is_sketch: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out[~is_sketch] = self.photo(x[~is_sketch])
        out[is_sketch] = (self.sketch if self.knows_domain else self.photo)(x[is_sketch])
        return out


class Domains(nn.Module):
    """Two convolutions with norms by domain; the second channel of an image says which domain it is of."""

    def __init__(self, *, knows_domain: bool, width: int = 12) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3, 1, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.norm1 = DomainNorm(width, knows_domain=knows_domain)
        self.norm2 = DomainNorm(2 * width, knows_domain=knows_domain)
        self.head = nn.Linear(2 * width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        image, is_sketch = x[:, :1], x[:, 1, 0, 0] > 0
        x = F.leaky_relu(self.norm1(self.conv1(image), is_sketch))
        x = F.leaky_relu(self.norm2(self.conv2(x), is_sketch))
        return self.head(F.max_pool2d(x, 2).flatten(1))


def with_domain(data: Split, domain: float) -> Split:
    """The same images with a second channel that is constant."""
    return Split(torch.cat([data.x, torch.full_like(data.x, domain)], 1), data.y)


@sick(
    "domain norms, one domain for all",
    family="bn_drift",
    rule="ND401",
    also=("bn_noniid_batch", "not_trained"),
    layers=tuple(f"norm{place}{part}" for place in (1, 2) for part in ("", ".photo", ".sketch")),
    twin_follows=("ND407",),
    proof=Proof(sick=0.75, twin=0.88),
)
def one_domain_for_all(is_faulty: bool) -> Program:
    """The flag of the domain is not passed on: photos and sketches go, one after the other, through one BatchNorm."""
    old = digits(image=True)
    (train, test), (drawn, other) = recoloured(old, 0.3, -3.0), recoloured(old, -1.5, 3.0)
    train = joined([with_domain(train, -1.0), with_domain(drawn, 1.0)])
    test = joined([with_domain(test, -1.0), with_domain(other, 1.0)])
    model = Domains(knows_domain=not is_faulty)
    return by_adam(model, (train, test), steps=150)


def solids(points: int = 48, samples: int = 1500, seed: int = 21) -> tuple[Split, Split]:
    """Point clouds [N, 3, points] on a ball, a box, a tube, a cone, a saddle, each turned about its axis."""
    generator = torch.Generator().manual_seed(seed)
    angle = 6.283 * torch.rand(samples, points, generator=generator)
    z, u = 2 * torch.rand(2, samples, points, generator=generator) - 1
    round_ = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(z)], 1)
    up = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], 1)
    flat = torch.stack([z, u, torch.zeros_like(z)], 1)
    saddle = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z * u], 1)
    box = torch.stack([z, u, angle.cos().sign()], 1)
    shapes = [round_ * (1 - z**2).sqrt()[:, None] + up, box, round_ + up]
    shapes += [round_ * (1 - z[:, None]) / 2 + up, flat + saddle]
    kind = torch.randint(5, (samples,), generator=generator)
    x = torch.stack(shapes, 1)[torch.arange(samples), kind]
    size = 0.7 + 0.6 * torch.rand(samples, 1, 1, generator=generator)
    return parted(size * x + 0.1 * torch.randn(x.shape, generator=generator), kind)


class PointNet(nn.Module):
    """Each point by itself through shared layers, the maximum over all points, a head; BatchNorm throughout."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.points = nn.Sequential(
            *(nn.Conv1d(3, width, 1), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Conv1d(width, 2 * width, 1), nn.BatchNorm1d(2 * width), nn.ReLU()),
        )
        self.fc1, self.bn1 = nn.Linear(2 * width, width), nn.BatchNorm1d(width)
        self.fc2, self.bn2 = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.fc3, self.bn3 = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.fc4 = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.points(x).amax(-1)
        x = self.bn1(self.fc1(x)).relu()
        x = self.bn2(self.fc2(x)).relu()
        return self.fc4(self.bn3(self.fc3(x)).relu())


@sick(
    "PointNet with batches of three",
    family="bn_small_batch",
    rule="ND404",
    layers=("bn1", "bn2", "bn3", "fc1", "fc2", "fc3"),
    proof=Proof(sick=0.8, twin=0.93),
)
def three_clouds(is_faulty: bool) -> Program:
    """Behind the maximum over points each statistic is of three numbers; in front of it, of 144."""
    train, test = solids()
    model = PointNet()
    batches = shuffled(train, 300, size=3 if is_faulty else 48)
    return Program(model, batches, test, torch.optim.Adam(model.parameters(), 2e-3))


def series(window: int = 24, samples: int = 3000, seed: int = 23) -> tuple[Split, Split]:
    """Windows of a load, of slow and fast waves, [N, 1, window] in order of time, and the value that comes next."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples + window) / 24
    load = 2 * torch.sin(time / 6) + torch.sin(time / 1.7) + 0.5 * torch.sin(6.283 * time)
    load = (load + 0.1 * torch.randn(len(time), generator=generator)) / 1.6
    return parted(load.unfold(0, window, 1)[:-1, None], load[window:])


class Forecast(nn.Module):
    """Two convolutions over time, each with a BatchNorm, and the next value."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(1, width, 5, stride=2), nn.BatchNorm1d(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 3, stride=2), nn.BatchNorm1d(width)
        self.value = nn.Linear(4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.value(self.norm2(self.conv2(x)).relu().flatten(1))


@sick(
    "windows of a series, not shuffled",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.7, twin=0.9),
)
def windows_in_order(is_faulty: bool) -> Program:
    """A batch is a day or two of one series: BatchNorm takes away its level, which was to be forecast."""
    train, test = series()
    order = torch.arange(len(train.x)) if is_faulty else torch.randperm(len(train.x))
    batches = in_order(train, order, 200)
    model = Forecast()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Program(model, batches, test, optimizer, squared_error, r_squared)


def spectrograms(
    *, is_power: bool, bands: int = 12, length: int = 20, samples: int = 1200, seed: int = 22
) -> tuple[Split, Split]:
    """Tones in noise and hum, [N, bands, length]: as power, or its logarithm, standardized band by band."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(samples, bands, length, generator=generator)
    level[:, 0] += 7 + torch.randn(samples, 1, generator=generator)
    kind = torch.randint(8, (samples,), generator=generator)
    level[torch.arange(samples), kind + 2] += 1.0
    if not is_power:
        level = (level - level.mean((0, 2), keepdim=True)) / level.std((0, 2), keepdim=True)
    return parted(level.exp() if is_power else level, kind)


class Listening(nn.Module):
    """One GroupNorm over all bands and times, two convolutions over time, the mean, a classifier."""

    def __init__(self, bands: int = 12, width: int = 32) -> None:
        super().__init__()
        self.norm, self.conv1 = nn.GroupNorm(1, bands), nn.Conv1d(bands, width, 3, padding=1)
        self.conv2, self.head = nn.Conv1d(width, width, 3, padding=1), nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv1(self.norm(x)))
        return self.head(F.gelu(self.conv2(x)).mean(-1))


@sick(
    "GroupNorm on a power spectrogram",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("norm", "conv1"),
    proof=Proof(sick=0.6, twin=0.9),
)
def power_spectrogram(is_faulty: bool) -> Program:
    """Power was to be turned into decibels: as it is, the hum of the mains is all that the norm leaves."""
    data = spectrograms(is_power=is_faulty)
    return by_adam(Listening(), data, steps=150)


class Signal(nn.Module):
    """Six convolutions, each with a GroupNorm and a SiLU, the mean of all places, a classifier."""

    def __init__(self, eps: float, width: int = 16) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width if place else 1, width, 3, 1 + place % 2, padding=1) for place in range(6)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(4, width, eps) for _ in range(6))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.silu(norm(conv(x)))
        return self.head(x.flatten(1))


@sick(
    "eps 1e5 in each GroupNorm",
    family="vanishing_gradient",
    rule="ND311",
    also=("init_scale",),
    layers=tuple(f"{part}.{place}" for part in ("norms", "convs") for place in range(6)),
    proof=Proof(sick=0.4, twin=0.9),
)
def eps_of_the_wrong_sign(is_faulty: bool) -> Program:
    """1e5 for 1e-5: every norm divides by 316 whatever comes, and nothing is left of an image after a few."""
    train, test = digits(image=True)
    model = Signal(1e5 if is_faulty else 1e-5)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    return Program(model, shuffled(train, 200), test, optimizer)
