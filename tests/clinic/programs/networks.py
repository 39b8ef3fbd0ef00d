"""The networks of the programs, half of them with functional activations, as in much real code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import cross_entropy
from ..data import Split, shuffled


class Perceptron(nn.Module):
    """64-64-32-10, ReLU as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x)))))


def stack(depth: int, width: int, activation: type[nn.Module], inputs: int = 64) -> nn.Sequential:
    """``depth`` hidden layers and a classifier; the Linear layers are at even places."""
    parts: list[nn.Module] = []
    for place in range(depth):
        parts += [nn.Linear(width if place else inputs, width), activation()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


class Deep(nn.Module):
    """Hidden layers of one width; the activation is a function."""

    def __init__(self, depth: int, width: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.hidden = nn.ModuleList(nn.Linear(width if place else 64, width) for place in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.head(x)


class Convolutional(nn.Module):
    """Two convolutions on 8 x 8 images and a classifier, ReLU as a function; norms are optional."""

    def __init__(self, norm: Callable[[int], nn.Module] = lambda channels: nn.Identity()) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1), norm(16)
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.head(x.flatten(1))


class Adapted(nn.Module):
    """LoRA: a frozen Linear and a low-rank correction whose second factor begins at zero."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class SparseCode(nn.Module):
    """A wide ReLU code, kept at hand for its penalty, and a classifier that reads it."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(64, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.code = F.relu(self.encoder(x))
        return self.head(self.code)


class Probed(nn.Module):
    """A linear head on a frozen backbone that stays in eval mode, whatever the mode of the whole."""

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone.requires_grad_(False), nn.Linear(features, 10)
        self.train()

    def train(self, mode: bool = True) -> Probed:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


class Block(nn.Module):
    """A causal transformer block, pre-norm, attention and GELU as functions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        """Causal self-attention."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A GPT: letters and places in, two blocks, a head of its own."""

    def __init__(self, length: int, letters: int = 16, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.letters(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def pretrained(model: nn.Module, data: Split, steps: int) -> nn.Module:
    """The same model after a training that nobody watches."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for batch in shuffled(data, steps, seed=11):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    return model
