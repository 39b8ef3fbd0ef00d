"""Networks to train: small enough for a processor, of the kinds that people train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]
BATCHES = 8
"""Batches that are drawn; they come again and again."""


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU(inplace=True)
        self.past: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.past = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W]."""
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        out: Tensor = self.relu2(y + self.past(x))
        return out


class Attention(nn.Module):
    """A block of a small GPT."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop1, self.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C]."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        x = x + self.drop1(self.proj(y.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.drop2(self.mlp(self.norm2(x)))
        return out


class Gpt(nn.Module):
    """Six blocks of width 256."""

    def __init__(self, vocabulary: int, width: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Attention(width, 8, 0.1) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T] tokens."""
        hidden = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        out: Tensor = self.head(self.norm(self.blocks(hidden)))
        return out


class Lstm(nn.Module):
    """Two layers, and a classifier on the last step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, width, 2, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, 64]."""
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


def _stack(inputs: int, width: int, layers: int, classes: int) -> nn.Module:
    parts: list[nn.Module] = []
    for number in range(layers - 1):
        parts += [nn.Linear(inputs if number == 0 else width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width if layers > 1 else inputs, classes))


def _resnet() -> nn.Module:
    sizes = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
    parts: list[nn.Module] = [
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
    ]
    channels = 64
    for width, stride in sizes:
        parts.append(Block(channels, width, stride))
        channels = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def _mlp(width: int = 1024, layers: int = 7, batch: int = 128) -> Workload:
    model = _stack(784, width, layers, 10)
    return Workload(model, lambda g: torch.randn(batch, 784, generator=g), 10)


def _resnet18(batch: int = 32) -> Workload:
    return Workload(_resnet(), lambda g: torch.randn(batch, 3, 32, 32, generator=g), 10)


def _gpt(batch: int = 8, length: int = 128, vocabulary: int = 4096) -> Workload:
    model = Gpt(vocabulary, 256, length)
    draw = lambda g: torch.randint(vocabulary, (batch, length), generator=g)  # noqa: E731
    return Workload(model, draw, vocabulary, rate=3e-4)


def _lstm(batch: int = 64, length: int = 64, width: int = 256) -> Workload:
    return Workload(Lstm(width), lambda g: torch.randn(batch, length, 64, generator=g), 10)


def _toy(layers: int = 1000, width: int = 16, batch: int = 32) -> Workload:
    """As many leaf modules as asked for, half of them activations."""
    model = _stack(width, width, layers // 2, width)
    return Workload(model, lambda g: torch.randn(batch, width, generator=g), width)


class Workload:
    """A model, its batches and its optimizer.

    Args:
        model: What is trained.
        draw: Makes the inputs of one batch.
        classes: Number of classes.
        rate: Learning rate; SGD with momentum, AdamW below 1e-3.
    """

    def __init__(
        self, model: nn.Module, draw: Callable[[torch.Generator], Tensor], classes: int, rate: float = 0.01
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.model = model.train()
        inputs = [draw(generator) for _ in range(BATCHES)]
        shapes = [x.shape if not x.is_floating_point() else x.shape[:1] for x in inputs]
        labels = [torch.randint(classes, shape, generator=generator) for shape in shapes]
        self.batches: list[Batch] = list(zip(inputs, labels, strict=True))
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(model.parameters(), lr=rate)
            if rate < 1e-3
            else torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        )

    def endless(self) -> Iterator[Batch]:
        """The batches, over and over."""
        while True:
            yield from self.batches

    def loss(self, batch: Batch) -> Tensor:
        """Forward pass and loss."""
        output = self.model(batch[0])
        return F.cross_entropy(output.flatten(0, -2), batch[1].flatten())

    def step(self, batch: Batch) -> Tensor:
        """One whole step of training."""
        self.optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()
        return loss


WORKLOADS: Mapping[str, Callable[..., Workload]] = {
    "mlp": _mlp,
    "resnet18": _resnet18,
    "gpt": _gpt,
    "lstm": _lstm,
    "toy": _toy,
}


def make(spec: str, seed: int = 0) -> Workload:
    """A workload from ``toy`` or ``toy:layers=100,width=64``."""
    torch.manual_seed(seed)
    name, _, sizes = spec.partition(":")
    given = dict(part.split("=") for part in sizes.split(",") if part)
    return WORKLOADS[name](**{key: int(value) for key, value in given.items()})
