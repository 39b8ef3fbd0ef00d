"""Networks with nested names for the programs about copies, scales, tails and units that are off."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Act = Callable[[Tensor], Tensor]


class Stage(nn.Module):
    """Two convolutions, each with a norm that may be none, the activation as a function, and a pooling."""

    def __init__(self, inputs: int, width: int, act: Act, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.act = act
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 3, padding=1), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return F.max_pool2d(self.act(self.norm2(self.conv2(x))), 2)


class Vgg(nn.Module):
    """Stages that halve the image, and a classifier: ``backbone.stages.0.conv1``."""

    def __init__(
        self,
        widths: tuple[int, ...] = (8, 16),
        act: Act = F.relu,
        norm: Callable[[int], nn.Module] = lambda channels: nn.Identity(),
    ) -> None:
        super().__init__()
        inputs = (1, *widths)
        stages = (Stage(a, b, act, norm) for a, b in zip(inputs, widths, strict=False))
        self.backbone = nn.ModuleDict({"stages": nn.Sequential(*stages)})
        self.head = nn.Linear(widths[-1] * (8 >> len(widths)) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone["stages"](x).flatten(1))

    @property
    def convs(self) -> list[nn.Conv2d]:
        """The convolutions in order."""
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]


def vgg_names(stages: int, *parts: str) -> tuple[str, ...]:
    """Names of stages and of such parts of them."""
    names = (f"backbone.stages.{place}" for place in range(stages))
    return tuple(name + part for name in names for part in ("", *(f".{part}" for part in parts)))


class FeedForward(nn.Module):
    """Wider and narrow again."""

    def __init__(self, width: int, hidden: int, act: Act) -> None:
        super().__init__()
        self.act = act
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Layer(nn.Module):
    """Pre-norm attention by torch's module, then a feed-forward part."""

    def __init__(self, width: int, heads: int, hidden: int, act: Act) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ffn = FeedForward(width, hidden, act)

    def forward(self, x: Tensor, is_padding: Tensor | None = None) -> Tensor:
        seen = self.norm1(x)
        x = x + self.attention(seen, seen, seen, is_padding, need_weights=False)[0]
        return x + self.ffn(self.norm2(x))


class Reader(nn.Module):
    """Letters and their places in, layers of attention, a letter out at every place."""

    def __init__(
        self, length: int, letters: int, width: int = 32, hidden: int = 64, depth: int = 1, act: Act = F.gelu
    ) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(Layer(width, 4, hidden, act) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.letters(tokens) + self.places(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Autoencoder(nn.Module):
    """64 pixels to a code and back, tanh as modules."""

    def __init__(self, hidden: int = 32, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, code))
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.Tanh(), nn.Linear(hidden, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class PoolingAttention(nn.Module):
    """Sixteen patches of an 8 x 8 image; a learned query per head tells where to look; no way around it."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(1, width, 2, stride=2), nn.Parameter(torch.randn(16, width))
        self.query = nn.Parameter(torch.randn(1, 1, width))
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.gelu(self.patches(x).flatten(2).transpose(1, 2) + self.places)
        query = self.query.expand(len(x), -1, -1)
        return self.mlp(self.pool(query, tokens, tokens, need_weights=False)[0].squeeze(1))


class Residual(nn.Module):
    """A basic block of a ResNet: two convolutions with norms, ReLU as modules, the input added."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), norm(width)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(x + self.scale * branch)


class ResNet(nn.Module):
    """A stem that halves the image, blocks of one width, the mean of four quarters, a classifier."""

    def __init__(self, depth: int, width: int = 12, norm: Callable[[int], nn.Module] = nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, stride=2, padding=1), norm(width), nn.ReLU())
        self.layer1 = nn.Sequential(*(Residual(width, norm) for _ in range(depth)))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer1(self.stem(x))).flatten(1))
