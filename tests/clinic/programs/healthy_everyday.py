"""Good trainings of networks of other kinds: tables, sounds, tags, pairs, quantiles."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from ..case import Program, healthy
from ..data import Batch, Split, cipher, digits, ratings, rows, sentences, shuffled, surface, waves
from .sick_copies import classifies, letters_out, regresses
from .sick_dropout import by_adam
from .sick_everyday import MlpMixer, Waves


class Squeezed(nn.Module):
    """An inverted bottleneck of an EfficientNet: wide, depthwise, gated by what all places say, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 3 * width
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.SiLU()
        )
        self.squeeze, self.excite = nn.Conv2d(wide, 4, 1), nn.Conv2d(4, wide, 1)
        self.project = nn.Sequential(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.depthwise(self.expand(x))
        gate = self.excite(F.silu(self.squeeze(inner.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.project(inner * gate)


@healthy("gated bottlenecks, RMSprop", traps=("saturation", "dead_units", "bn_drift"), above=0.92)
def efficient() -> Program:
    """Two gated bottlenecks under RMSprop with momentum, dropout before the classifier."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.SiLU()),
        *(Squeezed(12), nn.MaxPool2d(2), Squeezed(12)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48, 10)),
    )
    optimizer = RMSprop(model.parameters(), 2e-3, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5)
    return classifies(model, digits(image=True), optimizer, steps=140)


@healthy("ResNeXt, Nesterov", traps=("bn_small_batch", "activation_shift"), above=0.92)
def grouped() -> Program:
    """ResNeXt in small: four groups, a shortcut, SGD with Nesterov momentum and a cosine."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reduce, self.bn1 = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
            self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
            self.bn2 = nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.bn2(self.grouped(F.relu(self.bn1(self.reduce(x))))))

    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), Block(), nn.MaxPool2d(2), Block()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)),
    )
    train, test = digits(image=True)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batches = shuffled(train, 260, size=16)
    return Program(model, batches, test, optimizer, scheduler=CosineAnnealingLR(optimizer, T_max=260))


class Packed(nn.Module):
    """Padded letters into a bidirectional GRU that sees no padding; attention over places; a class out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 16, padding_idx=0)
        self.gru = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.score = nn.Linear(48, 1)
        self.out = nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x > 0).sum(1)
        packed = pack_padded_sequence(self.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        weight = self.score(torch.tanh(states)).masked_fill((x == 0)[..., None], -1e9).softmax(1)
        return self.out((weight * states).sum(1))


@healthy("packed GRU with attention", traps=("saturation", "vanishing_gradient", "not_trained"), above=0.8)
def packed() -> Program:
    """Scores of padding are -1e9; sequences are packed."""
    model = Packed()
    return classifies(model, sentences(), Adam(model.parameters(), 5e-3), steps=200)


class TextCnn(nn.Module):
    """Kim's network: windows of three widths, the largest over time, dropout .5."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 16, padding_idx=0)
        self.windows = nn.ModuleList(nn.Conv1d(16, 32, size, padding=size // 2) for size in (1, 3, 5))
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(96, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x).transpose(1, 2)
        return self.out(self.drop(torch.cat([F.relu(w(x)).amax(-1) for w in self.windows], 1)))


@healthy("text windows, max over time", traps=("dropout_capacity", "dead_units", "symmetry"), above=0.5)
def windows() -> Program:
    """Adadelta was the recipe; Adam here. Most places of a window are never the largest."""
    model = TextCnn()
    return classifies(model, sentences(), Adam(model.parameters(), 3e-3), steps=250)


class Recommender(nn.Module):
    """Embeddings of user and item, joined, through a perceptron; and their product beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(60, 12), nn.Embedding(40, 12)
        self.deep = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.out = nn.Linear(28, 1)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        user, item = self.user(x[:, 0]), self.item(x[:, 1])
        return self.out(torch.cat([user * item, self.deep(torch.cat([user, item], 1))], 1))


@healthy("neural factors of a recommender", traps=("init_scale", "symmetry", "vanishing_gradient"), above=0.6)
def recommender() -> Program:
    """Small embeddings whose product is smaller still at the start."""
    model = Recommender()
    return regresses(model, ratings(), Adam(model.parameters(), 1e-2, weight_decay=1e-5), steps=400)


@healthy("three quantiles of a target", traps=("lr_too_high", "vanishing_gradient"), above=0.6)
def quantiles() -> Program:
    """The pinball loss of the tenth, fifth and ninth decile; the metric is R2 of the middle one."""
    model = nn.Sequential(
        *(nn.Linear(6, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.SiLU()),
        nn.Linear(64, 3),
    )
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(model: nn.Module, batch: Batch) -> Tensor:
        error = batch.y[:, None] - model(batch.x)
        return torch.maximum(levels * error, (levels - 1) * error).mean()

    @torch.no_grad()
    def median_r2(model: nn.Module, test: Split) -> float:
        residual = test.y - model(test.x)[:, 1]
        return float(1 - residual.square().mean() / test.y.var(correction=0))

    train, test = surface()
    optimizer = AdamW(model.parameters(), 5e-3)
    return Program(model, shuffled(train, 300), test, optimizer, pinball, median_r2)


class Dilated(nn.Module):
    """A residual block over time: two weight-normalized causal convolutions with a gap between their taps."""

    def __init__(self, width: int, gap: int) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.gap = gap
        self.first = norm(nn.Conv1d(width, width, 3, dilation=gap))
        self.second = norm(nn.Conv1d(width, width, 3, dilation=gap))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(F.relu(self.first(F.pad(x, (2 * self.gap, 0)))))
        return F.relu(x + self.drop(F.relu(self.second(F.pad(y, (2 * self.gap, 0))))))


@healthy(
    "temporal convolutions, weight norm",
    traps=("dead_units", "dropout_capacity", "exploding_gradient"),
    above=0.9,
)
def temporal() -> Program:
    """Three residual blocks without BatchNorm, gradients clipped; the last time answers."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv1d(1, 16, 1)
            self.blocks = nn.Sequential(*(Dilated(16, gap) for gap in (1, 2, 4)))
            self.out = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.blocks(self.stem(x))[..., -1])

    def clipped(program: Program, batch: Batch) -> Tensor:
        loss = program.loss(program.model, batch)
        program.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(program.model.parameters(), 0.5)
        program.optimizer.step()
        return loss

    model = Last()
    program = by_adam(model, waves(), steps=200, lr=4e-3)
    program.update = clipped
    return program


@healthy(
    "SimCLR with a BatchNorm projector",
    traps=("bn_noniid_batch", "not_trained", "vanishing_gradient"),
    above=0.75,
)
def contrast() -> Program:
    """Two noisy views of each digit are one another's answer; the metric asks the nearest neighbor."""
    model = nn.Sequential()
    model.encoder = nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 48))
    model.projector = nn.Sequential(
        nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32, bias=False), nn.BatchNorm1d(32)
    )
    train, test = digits()
    noise = torch.Generator().manual_seed(31)

    def nt_xent(model: nn.Module, batch: Batch) -> Tensor:
        draw = [0.4 * torch.randn(batch.x.shape, generator=noise) for _ in range(2)]
        z = F.normalize(model(torch.cat([batch.x + d for d in draw])), dim=1)
        similarity = (z @ z.T / 0.3).fill_diagonal_(-1e4)
        answer = torch.arange(len(z)).roll(len(z) // 2)
        return F.cross_entropy(similarity, answer)

    @torch.no_grad()
    def neighbors(model: nn.Module, split: Split) -> float:
        known, asked = (F.normalize(model.encoder(part.x), dim=1) for part in (train, split))
        return float((train.y[(asked @ known.T).argmax(1)] == split.y).double().mean())

    optimizer = AdamW(model.parameters(), 2e-3)
    return Program(model, shuffled(train, 150), test, optimizer, nt_xent, neighbors)


@healthy("MLP-Mixer with warm-up", traps=("symmetry", "dropout_capacity", "ln_heterogeneous"), above=0.9)
def mixer() -> Program:
    """Warm-up for thirty steps, then a fall to zero."""
    train, test = rows()
    model = MlpMixer(drop=0.1)
    optimizer = AdamW(model.parameters(), 5e-3, weight_decay=0.05)
    rate = LambdaLR(optimizer, lambda step: min((step + 1) / 30, max(0.0, (220 - step) / 190)))
    return Program(model, shuffled(train, 220), test, optimizer, scheduler=rate)


@healthy("sounds under BatchNorm, AdamW", traps=("bn_drift", "dead_units", "activation_shift"), above=0.9)
def sounds() -> Program:
    """Three convolutions over time, the rate of a cosine."""
    train, test = waves()
    model = Waves(width=24)
    optimizer = AdamW(model.parameters(), 5e-3)
    return Program(
        model, shuffled(train, 150), test, optimizer, scheduler=CosineAnnealingLR(optimizer, T_max=150)
    )


class Translator(nn.Module):
    """An encoder and a decoder as torch makes them, post-norm, with teacher forcing."""

    def __init__(self, letters: int = 24, width: int = 32) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, width)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        self.core = nn.Transformer(width, 4, 1, 1, 64, dropout=0.05, batch_first=True)
        self.out = nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        source = self.letters(x) + self.places
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.out(self.core(source, source, tgt_mask=mask))


@healthy("encoder and decoder of torch", traps=("saturation", "vanishing_gradient", "lr_too_high"), above=0.6)
def translator() -> Program:
    """Each letter is replaced by a table of its place; cross attention has little to do."""
    model = Translator()
    return letters_out(model, cipher(), Adam(model.parameters(), 3e-3), steps=250)


@healthy("plain perceptron under Adam, nothing special", traps=("activation_shift", "dead_units"), above=0.92)
def plain() -> Program:
    """What a beginner writes."""
    model = nn.Sequential(*(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)))
    return by_adam(model, digits(), steps=200, lr=1e-3)


@healthy(
    "long and thin perceptron with BatchNorm",
    traps=("vanishing_gradient", "bn_drift", "symmetry"),
    above=0.88,
)
def thin() -> Program:
    """Twelve layers of 24 units under SGD."""
    layers = [
        nn.Sequential(nn.Linear(64 if i == 0 else 24, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU())
        for i in range(12)
    ]
    model = nn.Sequential(*layers, nn.Linear(24, 10))
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    return classifies(model, digits(), optimizer, steps=250)
