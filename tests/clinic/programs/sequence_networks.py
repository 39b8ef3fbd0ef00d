"""Networks that read sequences, for the programs about gradients and steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import Batch


class Recurrent(nn.Module):
    """A recurrent layer of any kind, and a head that reads its last output."""

    def __init__(
        self,
        kind: Callable[..., nn.RNNBase] = nn.RNN,
        inputs: int = 8,
        width: int = 32,
        outputs: int = 10,
        **options: object,
    ) -> None:
        super().__init__()
        self.rnn = kind(inputs, width, batch_first=True, **options)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class LanguageModel(nn.Module):
    """Letters in, a recurrent layer, the next letter out at every place."""

    def __init__(self, kind: Callable[..., nn.RNNBase], letters: int = 16, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.rnn, self.decoder = kind(width, width, batch_first=True), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.rnn(self.embed(tokens))[0])


def next_letter(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy over all places."""
    return F.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten())


class Mixer(nn.Module):
    """A layer of an encoder, attention and GELU as functions; residual connections can be left out."""

    def __init__(self, width: int, heads: int, is_residual: bool) -> None:
        super().__init__()
        self.heads, self.keep = heads, float(is_residual)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over all places."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        x = self.keep * x + self.attend(self.norm1(x))
        return self.keep * x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    """Rows of pixels as tokens, layers of attention, the mean of all places, a classifier."""

    def __init__(self, depth: int, width: int = 32, heads: int = 4, is_residual: bool = True) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, width), nn.Parameter(0.5 * torch.randn(8, width))
        self.layers = nn.ModuleList(Mixer(width, heads, is_residual) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))
