"""Healthy networks that naive thresholds accuse: no finding at warning or above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import Attention, Tokens, drawn, scaled, stack
from .runs import Batch, Run, batches, classify, watch
from .test_symmetry_cases import (
    LowRank,
    Recurrent,
    Residual,
    Spatial,
    Transformer,
    constant_biases,
    filled,
    zeroed,
)

STEPS = 26


class Pretrained(nn.Module):
    """A frozen backbone with a batch norm in eval mode, and a linear probe on top."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU()).requires_grad_(False)
        self.probe = nn.Linear(32, 10)

    def train(self, mode: bool = True) -> Pretrained:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.probe(self.backbone(x))


class Decoder(nn.Module):
    """A small causal language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(20, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        nn.init.normal_(self.embed.weight, std=0.02)
        self.n1, self.attention, self.n2 = nn.LayerNorm(32), Attention(causal=True), nn.LayerNorm(32)
        self.up, self.down, self.norm = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)
        self.head = nn.Linear(32, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.place
        h = h + self.attention(self.n1(h))
        return self.head(self.norm(h + self.down(F.gelu(self.up(self.n2(h))))))


class Code(nn.Module):
    """A wide sparse autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = F.relu(self.encode(x))
        return self.decode(code), code


class Experts(nn.Module):
    """Ten units, each of which is on for one class only."""

    def __init__(self) -> None:
        super().__init__()
        self.detect, self.head = nn.Linear(64, 10), nn.Linear(10, 10)
        x, y = batches(1, 512)[0]
        centers = torch.stack([x[y == label].mean(0) for label in range(10)])
        with torch.no_grad():
            self.detect.weight.copy_(centers / centers.norm(dim=1, keepdim=True))
            self.detect.bias.fill_(-3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.detect(x)))


class Padded(nn.Module):
    """Tokens of which half the samples lack the last three; the mean is over real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mha, self.head = (
            nn.Linear(8, 32),
            nn.MultiheadAttention(32, 4, batch_first=True),
            nn.Linear(32, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        pad = torch.zeros(len(x), 8, dtype=torch.bool)
        pad[::2, 5:] = True
        h = self.stem(x.view(-1, 8, 8).masked_fill(pad[..., None], 0))
        h = h + self.mha(h, h, h, key_padding_mask=pad, need_weights=False)[0]
        return self.head(h.masked_fill(pad[..., None], 0).sum(1) / (~pad).sum(1, keepdim=True))


class SingleKey(nn.Module):
    """Queries that look at a memory of one token: their softmax has nothing to choose."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mha, self.head = (
            nn.Linear(8, 32),
            nn.MultiheadAttention(32, 4, batch_first=True),
            nn.Linear(32, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.view(-1, 8, 8))
        return self.head((h + self.mha(h, h[:, :1], h[:, :1], need_weights=False)[0]).mean(1))


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 32)
        self.offset = nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x)) @ self.fc.weight + self.offset


def reconstruct(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[0])


def sparse(model: nn.Module, batch: Batch) -> Tensor:
    output, code = model(batch[0])
    return F.mse_loss(output, batch[0]) + 0.02 * code.mean()


def language(model: nn.Module, batch: Batch) -> Tensor:
    tokens = batch[0]
    return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def sentences(steps: int, size: int = 32) -> list[Batch]:
    """A walk on a ring of 20 tokens, of which only 15 occur."""
    generator = torch.Generator().manual_seed(5)
    starts = torch.randint(15, (steps, size, 1), generator=generator)
    moves = torch.randint(1, 3, (steps, size, 8), generator=generator).cumsum(2)
    return [(tokens, tokens[:, 0]) for tokens in (starts + moves) % 15]


def bags(steps: int) -> list[Batch]:
    """Bags of ten words; most of the vocabulary never occurs."""
    generator = torch.Generator().manual_seed(6)
    labels = torch.randint(10, (steps, 64), generator=generator)
    words = labels[..., None] * 4 + torch.randint(4, (steps, 64, 10), generator=generator)
    return list(zip(words, labels, strict=True))


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(1000, 32, padding_idx=0), nn.Linear(32, 10)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words).mean(1))


def pretrained(model: nn.Module, steps: int = 150) -> nn.Module:
    """As somebody else left it."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for batch in batches(steps):
        optimizer.zero_grad()
        classify(model, batch).backward()
        optimizer.step()
    return model


@torch.no_grad()
def normed(*, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(64, 32), nn.BatchNorm1d(32, affine=affine), nn.ReLU()),
        *(nn.Linear(32, 32), nn.LayerNorm(32, elementwise_affine=affine), nn.ReLU(), nn.Linear(32, 10)),
    )


class Trap(NamedTuple):
    build: Callable[[], nn.Module]
    data: Callable[[], list[Any]] = lambda: batches(STEPS)
    loss: Callable[[nn.Module, Any], Tensor] = classify
    lr: float = 3e-3


TRAPS = {
    "zero residual branches": Trap(Transformer),
    "low-rank adapters": Trap(lambda: nn.Sequential(LowRank(64, 32), nn.ReLU(), LowRank(32, 10))),
    "zero head": Trap(lambda: zeroed(stack(nn.ReLU), "6.weight", "6.bias")),
    "zero gain of a norm": Trap(lambda: Spatial(Residual(8), 8)),
    "constant biases": Trap(lambda: constant_biases(stack(nn.ReLU))),
    "depthwise filters": Trap(lambda: Spatial(filled(nn.Conv2d(8, 8, 3, padding=1, groups=8), 0.1), 8)),
    "lstm": Trap(Recurrent),
    "unused rows of an embedding": Trap(Bag, lambda: bags(STEPS)),
    "sparse ReLU": Trap(
        lambda: nn.Sequential(nn.Linear(64, 128), Shifted(1.2), nn.ReLU(), nn.Linear(128, 10)),
        lambda: batches(STEPS, 128),
    ),
    "class-specific units": Trap(Experts, lambda: batches(STEPS, 128)),
    "padded rows": Trap(Padded),
    "rows with a single key": Trap(SingleKey),
    "confident head": Trap(lambda: scaled(pretrained(stack(nn.ReLU)), 10.0, "6"), lr=1e-4),
    "trained weights": Trap(lambda: pretrained(stack(nn.Tanh)), lr=1e-3),
    "tied weights": Trap(Tied, loss=reconstruct),
    "two-dimensional inputs": Trap(
        lambda: nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 10)),
        lambda: batches(STEPS, features=2),
    ),
    "leaky slopes": Trap(lambda: stack(nn.LeakyReLU)),
    "norm without gain": Trap(lambda: normed(affine=False)),
    "bias before batch norm": Trap(lambda: normed(affine=True)),
    "layer norm, batches of one": Trap(
        lambda: nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10)),
        lambda: batches(STEPS, 1),
    ),
    "ReLU, batches of one": Trap(lambda: stack(nn.ReLU, 1), lambda: batches(STEPS, 1), lr=1e-3),
    "wide sparse code": Trap(Code, lambda: batches(STEPS, 128), sparse),
    "frozen backbone": Trap(Pretrained),
    "language model, tied embedding": Trap(Decoder, lambda: sentences(STEPS), language),
    "bf16": Trap(lambda: stack(nn.ReLU).bfloat16(), lambda: [(x.bfloat16(), y) for x, y in batches(STEPS)]),
    "swish and gelu": Trap(
        lambda: nn.Sequential(nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 10))
    ),
    "rectified to six": Trap(lambda: stack(nn.ReLU6)),
}


class Shifted(nn.Module):
    """Subtracts a constant: units behind it are on for few samples."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x - self.by


def trained(trap: Trap) -> Run:
    torch.manual_seed(0)
    model = trap.build().train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    return watch(model, trap.data(), trap.loss, torch.optim.Adam(parameters, lr=trap.lr))


@pytest.mark.parametrize("name", TRAPS)
def test_no_alarm(name: str) -> None:
    assert trained(TRAPS[name]).alarms() == []


def test_accumulated_gradients() -> None:
    """Four micro-batches an update."""
    torch.manual_seed(0)
    model = stack(nn.ReLU)

    def loss(model: nn.Module, micro: list[Batch]) -> Tensor:
        return torch.stack([classify(model, batch) for batch in micro]).mean()

    data = batches(4 * STEPS, 16)
    groups = [data[4 * step : 4 * step + 4] for step in range(STEPS)]
    assert watch(model, groups, loss, torch.optim.Adam(model.parameters(), lr=3e-3)).alarms() == []


def test_rare_units_are_not_dead() -> None:
    """Each unit is on for about one sample in a hundred: among 512 samples that is enough."""
    torch.manual_seed(0)
    model = drawn(nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)), 0.05, "0")
    x = torch.cat([batch[0] for batch in batches(2, 512)])
    with torch.no_grad():
        model[0].bias.copy_(-torch.quantile(x @ model[0].weight.T, 0.99, dim=0))
    run = watch(model, batches(4, 512), optimizer=torch.optim.SGD(model.parameters(), lr=1e-3))
    assert run.reading("upper_tail", "1").value == 0
    assert run.reading("lower_tail", "1").value > 0.98
    assert run.reading("dead_share", "1").value < 0.25
    assert run.alarms() == []


def test_a_warm_up_to_a_high_learning_rate() -> None:
    torch.manual_seed(0)
    model = stack(nn.ReLU)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if optimizer.state:
            schedule.step()
        return classify(model, batch)

    assert watch(model, batches(STEPS), loss, optimizer).alarms() == []


def test_attention_sharpened_by_learning_only_a_little() -> None:
    torch.manual_seed(0)
    model = Tokens(Attention())
    run = watch(model, batches(STEPS), optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))
    assert run.alarms() == []
