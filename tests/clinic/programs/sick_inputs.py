"""Inputs in the wrong unit, and codes for missing values that are taken for values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from ..case import Program, Proof, sick
from ..data import Batch, Split, parted, surface
from .sick_copies import classifies, regresses


class Stepped(nn.Module):
    """Residual layers over a row of sensors, SiLU as a function, one number out."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.target = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + F.silu(block(x))
        return self.target(x)


def gappy(value: float, share: float = 0.03) -> tuple[Split, Split]:
    """Six sensors of which some were silent, and what they tell about; the silent ones have one value."""
    generator = torch.Generator().manual_seed(24)
    parts = []
    for part in surface(samples=3000):
        is_silent = torch.rand(part.x.shape, generator=generator) < share
        parts.append(Split(torch.where(is_silent, value, part.x), part.y))
    return parts[0], parts[1]


@sick(
    "9999 where a sensor was silent",
    family="input_scale",
    rule="ND701",
    also=("exploding_gradient",),
    proof=Proof(sick=0.3, twin=0.7),
)
def coded_gaps(is_faulty: bool) -> Program:
    """One reading in 33 is missing and coded 9999, as in old weather data; the twin has the mean there."""
    model = Stepped()
    data = gappy(9999.0 if is_faulty else 0.0)
    return regresses(model, data, Adam(model.parameters(), 3e-3), steps=300)


def bodies(samples: int = 1200, points: int = 32, seed: int = 25) -> tuple[Split, Split]:
    """Points on a sphere, a cube, a cylinder or a cone, turned about the upright axis: [N, points, 3]."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (samples,), generator=generator)
    raw = torch.randn(samples, points, 3, generator=generator)
    angle, height = 3.1416 * raw[..., 0], 2 * torch.rand(samples, points, generator=generator) - 1
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    shapes = (
        raw / raw.norm(dim=-1, keepdim=True),
        raw / raw.abs().amax(-1, keepdim=True),
        torch.cat([circle, height[..., None]], -1),
        torch.cat([circle * (1 - height[..., None]) / 2, height[..., None]], -1),
    )
    x = torch.stack(shapes)[kind, torch.arange(samples)]
    return parted(x + 0.03 * torch.randn(x.shape, generator=generator), kind)


class PointNet(nn.Module):
    """The same small perceptron for each point, the largest of each feature, a classifier."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Conv1d(3, width, 1), nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU())
        self.globally = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.globally(self.local(x.transpose(1, 2)).amax(-1))


def clipped_update(program: Program, batch: Batch) -> Tensor:
    """A step along gradients of norm 1 at most."""
    loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(program.model.parameters(), 1.0)
    program.optimizer.step()
    return loss


@sick(
    "meters for millimeters",
    family="input_scale",
    rule="ND701",
    also=("lr_too_high", "exploding_gradient"),
    proof=Proof(sick=0.7, twin=0.93),
)
def millimeters(is_faulty: bool) -> Program:
    """Point clouds come in millimeters into a recipe for meters, which clips gradients."""
    model = PointNet()
    train, test = bodies()
    if is_faulty:
        train, test = (Split(1000 * part.x, part.y) for part in (train, test))
    program = classifies(model, (train, test), SGD(model.parameters(), 0.05, momentum=0.9))
    program.update = clipped_update
    return program
