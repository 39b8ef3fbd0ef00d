"""Networks with dropout and normalization in the places where people put them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


def four_groups(channels: int) -> nn.Module:
    """GroupNorm with four groups."""
    return nn.GroupNorm(4, channels)


class Head(nn.Module):
    """A classifier of features with one hidden layer: Linear, ReLU, dropout, Linear."""

    def __init__(self, features: int, width: int, p: float) -> None:
        super().__init__()
        self.hidden, self.drop = nn.Linear(features, width), nn.Dropout(p)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.drop(F.relu(self.hidden(x))))


class Vision(nn.Module):
    """Two convolutions with channel dropout behind each, and a head with a hidden layer."""

    def __init__(
        self, channels: int = 8, *, channel_p: float = 0.0, head_p: float = 0.0, width: int = 32
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(channel_p)),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Dropout2d(channel_p),
        )
        self.head = Head(4 * channels, width, head_p)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class Autoencoder(nn.Module):
    """64-48-code-48-64, dropout on the code as a function."""

    def __init__(self, code: int, p: float) -> None:
        super().__init__()
        self.p = p
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, code))
        self.decoder = nn.Sequential(nn.Linear(code, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(F.dropout(self.encoder(x), self.p, self.training))


class Attending(nn.Module):
    """Rows of pixels as tokens, encoder layers as torch makes them, the mean of all places, a classifier."""

    def __init__(self, p: float, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, width), nn.Parameter(0.5 * torch.randn(8, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=p, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Normed(nn.Module):
    """Hidden layers of one width: dropout, Linear, norm, activation; all but the layers are functions."""

    def __init__(
        self,
        norm: Norm,
        *,
        depth: int = 3,
        width: int = 64,
        inputs: int = 64,
        outputs: int = 10,
        before: float = 0.0,
        after: float = 0.0,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        self.before, self.after, self.activation = before, after, activation
        self.hidden = nn.ModuleList(nn.Linear(width if place else inputs, width) for place in range(depth))
        self.norms = nn.ModuleList(norm(width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = self.activation(norm(layer(F.dropout(x, self.before, self.training))))
            x = F.dropout(x, self.after, self.training)
        return self.head(x)


class Residual(nn.Module):
    """A basic block; its branch is left out for whole samples at random when ``keep`` is below one."""

    def __init__(self, channels: int, norm: Norm, keep: float) -> None:
        super().__init__()
        self.keep = keep
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), norm(channels)

    def branch(self, x: Tensor) -> Tensor:
        """What is added to the input."""
        return self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))

    def forward(self, x: Tensor) -> Tensor:
        added = self.branch(x)
        if self.training and self.keep < 1:
            added = added * (torch.rand(len(x), 1, 1, 1) < self.keep) / self.keep
        return F.relu(x + added)


class ResNet(nn.Module):
    """A stem and two stages on 8 x 8 images; the head reads the mean over all places."""

    def __init__(self, norm: Norm = nn.BatchNorm2d, *, width: int = 16, keep: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), norm(width), nn.ReLU())
        self.stages = nn.ModuleList(Residual(width, norm, keep) for _ in range(2))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(F.max_pool2d(x, 2))
        return self.head(x.flatten(1))


class UNet(nn.Module):
    """Down once, up once, a skip connection: an image in, an image out."""

    def __init__(self, norm: Norm, width: int = 8) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), norm(width), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), norm(2 * width), nn.ReLU())
        self.up = nn.Sequential(nn.Conv2d(3 * width, width, 3, padding=1), norm(width), nn.ReLU())
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        low = self.middle(F.max_pool2d(skip, 2))
        return self.out(self.up(torch.cat([skip, F.interpolate(low, scale_factor=2.0)], 1)))
