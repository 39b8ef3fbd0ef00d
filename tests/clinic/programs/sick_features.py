"""LayerNorm and RMSNorm across features that are not of one kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, sick
from ..data import Split, digits, shuffled, table
from .sick_dropout import standardized


def with_exposure(data: tuple[Split, Split], *, is_standardized: bool) -> tuple[Split, Split]:
    """Flat digits and the ISO value of the camera, 100 to 3200, or the same standardized, as a 65th number."""
    generator = torch.Generator().manual_seed(9)
    parts = []
    for part in data:
        iso = 100 + 3100 * torch.rand(len(part.x), 1, generator=generator)
        iso = (iso - 1650) / 895 if is_standardized else iso
        parts.append(Split(torch.cat([part.x, iso], 1), part.y))
    return tuple(parts)


class Fused(nn.Module):
    """Image features and a number beside them, concatenated, normalized together, classified."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, width))
        self.fusion = nn.LayerNorm(width + 1)
        self.head = nn.Sequential(nn.Linear(width + 1, 32), nn.GELU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        image, exposure = x[:, :64], x[:, 64:]
        return self.head(self.fusion(torch.cat([self.vision(image), exposure], 1)))


@sick(
    "ISO value beside image features",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("fusion", "head.0"),
    proof=Proof(sick=0.8, twin=0.92),
)
def exposure_beside_features(is_faulty: bool) -> Program:
    """LayerNorm over 24 features of about 1 and one raw number of about 1,650 leaves only that number."""
    train, test = with_exposure(digits(), is_standardized=not is_faulty)
    model = Fused()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    return Program(model, shuffled(train, 200), test, optimizer)


def sensors(samples: int = 1200, length: int = 16) -> tuple[Split, Split]:
    """Six sensors over time, pressure in hPa the first; which of the others oscillates is to be told."""
    generator = torch.Generator().manual_seed(10)
    x = 0.4 * torch.randn(samples, length, 6, generator=generator)
    y = torch.randint(5, (samples,), generator=generator)
    phase = 6.3 * torch.rand(samples, 1, generator=generator)
    x[torch.arange(samples), :, y + 1] += torch.sin(1.5 * torch.arange(length) + phase)
    x = x * torch.tensor([8.0, 1.0, 0.5, 2.0, 1.0, 0.3]) + torch.tensor([1013.0, 0.0, 0.2, -1.0, 0.0, 0.1])
    cut = samples * 4 // 5
    return Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])


def standardized_channels(data: tuple[Split, Split]) -> tuple[Split, Split]:
    """The same series, each sensor with mean 0 and deviation 1."""
    train, test = data
    mean, std = train.x.mean((0, 1)), train.x.std((0, 1))
    return Split((train.x - mean) / std, train.y), Split((test.x - mean) / std, test.y)


class Reader(nn.Module):
    """Each moment of a series: normalized over the sensors by a function, and projected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.proj(F.layer_norm(x, x.shape[-1:])))


class Monitoring(nn.Module):
    """A reader of sensors, a GRU, and a classifier of its last state."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.reader, self.rnn = Reader(width), nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.reader(x))[0][:, -1])


@sick(
    "F.layer_norm on raw sensors",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("", "reader", "reader.proj"),
    proof=Proof(sick=0.6, twin=0.85),
)
def layer_norm_on_sensors(is_faulty: bool) -> Program:
    """Pressure is 1013 and all other sensors are about 1, so each moment looks the same once normalized."""
    train, test = sensors() if is_faulty else standardized_channels(sensors())
    model = Monitoring()
    return Program(model, shuffled(train, 180), test, torch.optim.Adam(model.parameters(), 1e-2))


def which_third(data: tuple[Split, Split]) -> tuple[Split, Split]:
    """The same table; whether the price is low, medium or high is to be told."""
    cuts = data[0].y.quantile(torch.tensor([1 / 3, 2 / 3]))
    return tuple(Split(part.x, torch.bucketize(part.y, cuts)) for part in data)


class Columns(nn.Module):
    """RMSNorm over the columns of a table, then blocks of SiLU with residuals and norms of their own."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm_in, self.stem = nn.RMSNorm(8), nn.Linear(8, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.norm_in(x))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + F.silu(block(norm(x)))
        return self.head(x)


@sick(
    "RMSNorm on unlike columns",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("norm_in", "stem"),
    proof=Proof(sick=0.6, twin=0.85),
)
def rms_norm_on_columns(is_faulty: bool) -> Program:
    """Every row is divided by its largest column, of about 1,000; what decides are two columns of about 1."""
    data = which_third(table())
    train, test = data if is_faulty else standardized(data)
    model = Columns()
    return Program(model, shuffled(train, 200), test, torch.optim.Adagrad(model.parameters(), 0.03))


class Stacked(nn.Module):
    """Two branches at unlike scales, added up in a hidden vector that a LayerNorm then has to even out."""

    def __init__(self, gain: float, width: int = 16) -> None:
        super().__init__()
        self.gain = gain
        self.counts, self.pixels = nn.Linear(8, width), nn.Linear(64, 2 * width)
        self.join = nn.LayerNorm(3 * width)
        self.mix, self.out = nn.Linear(3 * width, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        sums = self.gain * self.counts(x.view(-1, 8, 8).sum(2))
        joined = self.join(torch.cat([sums, self.pixels(x)], -1))
        return self.out(F.gelu(self.mix(joined)))


@sick(
    "two branches of unlike scale",
    family="ln_heterogeneous",
    rule="ND408",
    layers=("join", "mix", "counts"),
    proof=Proof(sick=0.85, twin=0.92),
)
def branches_of_unlike_scale(is_faulty: bool) -> Program:
    """Sums of rows, counted in hundreds, and pixels of about 1 share one LayerNorm; the twin has sums of about 1."""
    train, test = digits()
    model = Stacked(100.0 if is_faulty else 0.2)
    return Program(model, shuffled(train, 120), test, torch.optim.Adam(model.parameters(), 2e-3))
