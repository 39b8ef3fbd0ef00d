"""Fifteen networks with duplicated units: which heal, which are stuck, which are locked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from .runs import batches, watch

Counts = tuple[int, int, int, int, int]
"""Units, distinct units, locked, stuck, healing."""


def mlp(activation: type[nn.Module], *between: nn.Module) -> nn.Sequential:
    """64 -> 32 -> 10."""
    return nn.Sequential(nn.Linear(64, 32), activation(), *between, nn.Linear(32, 10))


def zeroed(model: nn.Module, *names: str) -> nn.Module:
    """Sets parameters to zero, all of them unless named."""
    return filled(model, 0.0, *names)


@torch.no_grad()
def filled(model: nn.Module, value: float, *names: str) -> nn.Module:
    """Sets weights to a constant and biases to zero."""
    for name, parameter in model.named_parameters():
        if not names or name in names:
            parameter.fill_(value if "weight" in name else 0.0)
    return model


class LowRank(nn.Module):
    """LoRA: a frozen layer and a low-rank correction that begins at zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Linear(inputs, 4, bias=False)
        self.up = nn.Linear(4, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Block(nn.Module):
    """A transformer block whose branches begin at zero."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.f1, self.f2 = nn.Linear(width, 64), nn.Linear(64, width)
        zeroed(self, "attention.out_proj.weight", "attention.out_proj.bias", "f2.weight", "f2.bias")

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.f2(torch.relu(self.f1(self.n2(x))))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.b0, self.b1, self.head = nn.Linear(8, 32), Block(), Block(), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b1(self.b0(self.stem(x.view(-1, 8, 8)))).mean(1))


class Residual(nn.Module):
    """conv, norm, relu, conv and a norm whose gain begins at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(channels)
        self.c2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.b2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.b2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b2(self.c2(torch.relu(self.b1(self.c1(x)))))


class Spatial(nn.Module):
    """A body between a convolution and a pooled head, on 8 x 8 images."""

    def __init__(self, body: nn.Module, channels: int, out: int | None = None) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, channels, 3, padding=1), body
        self.head = nn.Linear(out or channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x.view(-1, 1, 8, 8))))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


class Case(NamedTuple):
    """A network and what is left of its duplicates; layers that are not named have none."""

    build: Callable[[], nn.Module]
    left: dict[str, Counts]


def convolutions() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
    return Spatial(filled(body, 0.05), 8, 16)


CASES = {
    "zero residual branches": Case(Transformer, {}),
    "low-rank adapters": Case(lambda: nn.Sequential(LowRank(64, 32), nn.ReLU(), LowRank(32, 10)), {}),
    "zero gain of a norm": Case(lambda: Spatial(Residual(8), 8), {}),
    "zero head": Case(lambda: zeroed(mlp(nn.ReLU), "2.weight", "2.bias"), {}),
    "constant biases": Case(lambda: constant_biases(mlp(nn.ReLU)), {}),
    "depthwise filters": Case(lambda: Spatial(filled(nn.Conv2d(8, 8, 3, padding=1, groups=8), 0.1), 8), {}),
    "healthy lstm": Case(Recurrent, {}),
    "all zero, relu": Case(lambda: zeroed(mlp(nn.ReLU)), {"0": (32, 1, 0, 32, 0)}),
    "all zero, sigmoid": Case(lambda: zeroed(mlp(nn.Sigmoid)), {"0": (32, 1, 32, 0, 0)}),
    "all constant, tanh": Case(lambda: filled(mlp(nn.Tanh), 0.1), {"0": (32, 1, 32, 0, 0)}),
    "constant lstm": Case(lambda: filled(Recurrent(), 0.1), {"lstm": (12, 1, 12, 0, 0)}),
    "constant convolutions": Case(
        lambda: filled(convolutions(), 0.05),
        {"stem": (8, 1, 8, 0, 0), "body.0": (16, 1, 16, 0, 0), "body.2": (16, 1, 16, 0, 0)},
    ),
    "first layer zero, tanh": Case(lambda: zeroed(mlp(nn.Tanh), "0.weight", "0.bias"), {}),
    "first layer zero, relu": Case(
        lambda: zeroed(mlp(nn.ReLU), "0.weight", "0.bias"), {"0": (32, 1, 0, 32, 0)}
    ),
    "all constant, dropout": Case(lambda: filled(mlp(nn.Tanh, nn.Dropout(0.5)), 0.1), {}),
}


@torch.no_grad()
def constant_biases(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.fill_(0.5)
    return model


@pytest.mark.parametrize("name", CASES)
def test_counts_after_two_updates(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    run = watch(case.build(), batches(3))
    found: dict[str, Counts] = {}
    for reading in run.updates[2].readings:
        if reading.name == "locked_share" and reading.layer is not None:
            d = reading.detail
            counts = (d["units"], d["distinct"], d["locked"], d["stuck"], d["healing"])
            found[reading.layer] = tuple(int(count or 0) for count in counts)  # type: ignore[assignment]
    assert found, "no layer was judged"
    hidden = {layer: counts for layer, counts in found.items() if layer not in ("head", "2", "3")}
    assert {layer: counts for layer, counts in hidden.items() if counts[1] < counts[0]} == case.left


@pytest.mark.parametrize("name", CASES)
def test_only_what_does_not_heal_is_found(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    findings = watch(case.build(), batches(5)).findings()
    expected = {"ND301" if counts[2] else "ND302": layer for layer, counts in case.left.items()}
    for rule in ("ND301", "ND302"):
        assert (rule in findings) == (rule in expected)
        if rule in expected:
            assert set(findings[rule].layers) >= {
                layer for layer, c in case.left.items() if (c[2] > 0) == (rule == "ND301")
            }
            assert findings[rule].severity == "critical"
            assert findings[rule].first_step == 2
