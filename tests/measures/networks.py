"""Small networks whose faults are planted by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]


def stack(
    activation: Callable[[], nn.Module], depth: int = 3, width: int = 32, features: int = 64
) -> nn.Sequential:
    """``depth`` hidden layers of one kind, with torch's default initialization, and a head of ten outputs."""
    layers: list[nn.Module] = []
    for inputs in [features] + [width] * (depth - 1):
        layers += [nn.Linear(inputs, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Functional(nn.Module):
    """Two hidden layers whose activation is a function call."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.b(self.function(self.a(x)))))


class Steep(nn.Module):
    """An activation of one's own: tanh(3 x / 2), saturated beyond +-1.452181."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(3 * x) - 1


@torch.no_grad()
def scaled(model: nn.Module, factor: float, *layers: str) -> nn.Module:
    """Multiplies the weight matrices of some layers, or of all."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and (not layers or name.rpartition(".")[0] in layers):
            parameter.mul_(factor)
    return model


@torch.no_grad()
def drawn(model: nn.Module, std: float, *layers: str) -> nn.Module:
    """Draws the weight matrices of some layers, or of all, from N(0, std)."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and (not layers or name.rpartition(".")[0] in layers):
            parameter.normal_(0, std)
    return model


@torch.no_grad()
def silenced(model: nn.Module, layer: str, units: int, bias: float = -100.0) -> nn.Module:
    """Switches the first units of a layer off for good."""
    parameter = model.get_parameter(f"{layer}.bias")
    parameter[:units] = bias
    return model


class Convolutions(nn.Module):
    """Two convolutions on 8 x 8 images and a pooled head."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.act, self.head = nn.ReLU(), nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.c1(x.view(-1, 1, 8, 8)))
        return self.head(self.act(self.c2(h)).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention over eight tokens of eight numbers, by the fused function."""

    def __init__(self, *, causal: bool = False, padded: bool = False, groups: int = 4) -> None:
        super().__init__()
        self.causal, self.padded, self.groups = causal, padded, groups
        self.q, self.k = nn.Linear(32, 32), nn.Linear(32, 8 * groups)
        self.v, self.out = nn.Linear(32, 8 * groups), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (heads, 8)).transpose(1, 2)
            for layer, heads in ((self.q, 4), (self.k, self.groups), (self.v, self.groups))
        )
        mask = padding(x)[:, None, None] if self.padded else None
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.causal, enable_gqa=self.groups < 4
        )
        return self.out(y.transpose(1, 2).flatten(2))


class Projected(nn.Module):
    """``nn.MultiheadAttention``, with one packed projection or three separate ones."""

    def __init__(self, *, separate: bool = False, padded: bool = False) -> None:
        super().__init__()
        self.padded = padded
        self.memory = nn.Linear(32, 16) if separate else nn.Identity()
        size = 16 if separate else None
        self.mha = nn.MultiheadAttention(32, 4, batch_first=True, kdim=size, vdim=size)

    def forward(self, x: Tensor) -> Tensor:
        m = self.memory(x)
        mask = ~padding(x) if self.padded else None
        return self.mha(x, m, m, key_padding_mask=mask, need_weights=False)[0]


def padding(x: Tensor) -> Tensor:
    """[N, T] True for tokens that are real: every second sample has five."""
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[::2, 5:] = False
    return real


class Tokens(nn.Module):
    """A residual attention block between a stem and a pooled head."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(8, 32), attention, nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.view(-1, 8, 8))
        return self.head((h + self.attention(h)).mean(1))
