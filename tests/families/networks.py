"""Network parts with the habits an observer can trip over."""

from __future__ import annotations

import random
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint
from torchmetrics import MeanMetric


class LastPosition(nn.Module):
    """Takes the last position of a sequence, out of a recurrent layer's tuple if need be."""

    def forward(self, x: Tensor | tuple[Tensor, ...]) -> Tensor:
        """[N, S, C] to [N, C]."""
        sequence = x[0] if isinstance(x, tuple) else x
        return sequence[:, -1]


class Tokens(nn.Module):
    """Makes token ids of real numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape, integers from 0 to 9."""
        return (x.abs() * 3).long().clamp(0, 9)


class FunctionalAttention(nn.Module):
    """Self-attention whose dropout is an argument of a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, C] to the same."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.2 if self.training else 0.0)
        return x + self.out(mixed)


class TupleAttention(nn.Module):
    """Multi-head attention over embedded tokens: its layers return tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        """[N, S] to [N, C]."""
        x = self.embedding(ids)
        mixed, _ = self.attention(x, x, x)
        return mixed.mean(dim=1)


class TiedTokens(nn.Module):
    """The same weight where tokens come in and where they go out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """[N, S] to [N, 10]."""
        return self.head(torch.tanh(self.embedding(ids)).mean(dim=1))


class Packed(nn.Module):
    """A recurrent layer that is given, and returns, a packed sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(width, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, C] to [N, 8]; samples differ in length."""
        lengths = (x[:, 0, 0].abs() * 3).long().clamp(max=x.shape[1] - 1) + 1
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        padded, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return padded.sum(dim=1) / lengths[:, None]


class Wrapping(nn.Module):
    """Returns its output in a container, and takes what such a layer returned.

    Args:
        width: Units.
        wrap: Makes the container.
        unwrap: Takes the tensor out of it.
    """

    def __init__(self, width: int, wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.wrap, self.unwrap = wrap, unwrap

    def forward(self, x: Any) -> Any:
        """[N, C], perhaps wrapped, to the same, wrapped."""
        return self.wrap(torch.tanh(self.layer(x if isinstance(x, Tensor) else self.unwrap(x))))


class Unwrapped(nn.Linear):
    """A head that opens the container it is given."""

    def __init__(self, width: int, unwrap: Callable[[Any], Tensor]) -> None:
        super().__init__(width, 1)
        self.unwrap = unwrap

    def forward(self, x: Any) -> Tensor:
        """A container of [N, C] to [N, 1]."""
        return super().forward(self.unwrap(x))


class Vectorized(nn.Module):
    """Written for one sample, and mapped over the batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] to the same."""
        return torch.vmap(self.inner, randomness="different")(x)


class Noisy(nn.Module):
    """Adds noise of a generator of its own, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.Generator().manual_seed(7)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + 0.1 * torch.randn(x.shape, generator=self.noise)


class Checkpointed(nn.Module):
    """A block whose forward runs again during backward."""

    def __init__(self, width: int, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.block = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(0.3), nn.BatchNorm1d(width), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] to the same."""
        return checkpoint(self.block, x, use_reentrant=self.use_reentrant)


class FunctionalOnly(nn.Module):
    """Not one submodule: parameters and functions."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(hidden, inputs) / inputs**0.5)
        self.second = nn.Parameter(torch.randn(1, hidden) / hidden**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, 1]."""
        hidden = F.layer_norm(F.relu(F.linear(x, self.first)), self.first.shape[:1])
        return F.linear(F.dropout(hidden, 0.3, self.training), self.second)


class ResidualInPlace(nn.Module):
    """In-place addition and activation, as in residual networks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        y = self.norm(self.convolution(x))
        y += x
        return self.activation(y)


class PythonStateful(nn.Module):
    """Keeps state in Python attributes: a counter, a history, two generators of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.calls = 0
        self.recent: deque[float] = deque(maxlen=4)
        self.coin = random.Random(7)
        self.noise = torch.Generator().manual_seed(7)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] to the same."""
        self.calls += 1
        self.recent.append(float(x.detach().mean()))
        scale = 1 + 0.01 * self.calls + 0.1 * sum(self.recent) + 0.1 * self.coin.random()
        return torch.tanh(self.layer(x)) * scale + 0.01 * torch.randn(x.shape, generator=self.noise)


class SelfWriting(nn.Module):
    """Writes its own parameters and a queue in forward, as constraints and momentum encoders do."""

    queue: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.clamped = nn.Linear(width, width)
        self.rebound = nn.Linear(width, width)
        self.follower = nn.Linear(width, width).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(4, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] to the same."""
        with torch.no_grad():
            self.clamped.weight.clamp_(-0.2, 0.2)
            self.follower.weight.mul_(0.9).add_(self.clamped.weight, alpha=0.1)
            self.queue.copy_(torch.cat([self.queue[1:], x.detach().mean(0, keepdim=True)]))
        self.rebound.weight.data = self.rebound.weight.data * 0.99
        return torch.tanh(self.rebound(self.clamped(x))) + self.follower(x) + self.queue.mean(0)


class CountingMetric(nn.Module):
    """A metric updated in forward, whose value scales the output."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = MeanMetric()

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        self.metric.update(x.detach().abs().mean())
        return x * (1 + 0.1 * self.metric.compute())


class Failing(nn.Linear):
    """Raises in the fifth pass in train mode."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] to [N, outputs]."""
        self.calls += self.training
        if self.calls == 5:
            raise KeyError("of the user's")
        return super().forward(x)


class Kept(nn.Linear):
    """Remembers, weakly, the very tensor it returned."""

    returned: weakref.ref[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] to the same."""
        y = torch.tanh(super().forward(x))
        self.returned = weakref.ref(y)
        return y


class Witness(nn.Module):
    """Notes what a bit-exact run can still hide: replaced, retained, kept or written activations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kept = Kept(width, width)
        self.head = nn.Linear(width, 1)
        self.notes: list[tuple[bool, ...]] = []
        self.previous: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] to [N, 1]."""
        alive = sum(reference() is not None for reference in self.previous)
        y = self.kept(x)
        if self.training:
            same = self.kept.returned is not None and self.kept.returned() is y
            self.notes.append((same, y.retains_grad, y._version == 0, alive == 0))
            self.previous.append(weakref.ref(y))
        return self.head(y)
