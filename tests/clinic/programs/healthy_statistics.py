"""Healthy: norms, noise and labels that look odd and are right."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..case import Program, healthy
from ..data import Batch, Split, digits, parted, shuffled
from .networks import pretrained
from .norm_networks import ResNet, Vision
from .sick_averages import Stages
from .sick_dropout import by_adam, rebuilt


class GhostNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics are of 16 samples at a time, however many there are."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return torch.cat([super(GhostNorm, self).forward(part) for part in x.split(16)])


@healthy("BatchNorm over ghost batches", traps=("bn_small_batch", "bn_drift", "bn_noniid_batch"), above=0.93)
def ghost_batches() -> Program:
    """Batches of 128 are normalized 16 samples at a time, for the noise of it; buffers move eight times a step."""
    train, test = digits(image=True)
    model = Stages(GhostNorm)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    return Program(model, shuffled(train, 110, size=128), test, optimizer)


@healthy("cumulative BatchNorm", traps=("bn_drift",), above=0.92)
def cumulative() -> Program:
    """With momentum None the running statistics are the mean of all batches so far; the rate falls to nothing."""
    train, test = digits(image=True)
    model = Stages(partial(nn.BatchNorm2d, momentum=None))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    return Program(model, shuffled(train, 250, size=48), test, optimizer, scheduler=schedule)


def mixed(data: Split, steps: int, alpha: float = 0.4) -> list[Batch]:
    """Batches of weighted means of two samples and of their labels, one weight a batch."""
    weight = torch.distributions.Beta(alpha, alpha).sample((steps,))
    batches = []
    for (x, y), share in zip(shuffled(data, steps), weight, strict=True):
        y, turned = F.one_hot(y, 10).float(), torch.randperm(len(x))
        batches.append(Batch(share * x + (1 - share) * x[turned], share * y + (1 - share) * y[turned]))
    return batches


@healthy("mixup with BatchNorm", traps=("bn_drift", "bn_noniid_batch", "lr_too_high"), above=0.93)
def mixup() -> Program:
    """Images are mixed in pairs, one weight for a whole batch: their contrast, and the loss, go up and down."""
    train, test = digits(image=True)
    model = ResNet(width=10)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Program(model, mixed(train, 130), test, optimizer)


def alarms(samples: int = 6000, seed: int = 31) -> tuple[Split, Split]:
    """Twelve standard columns; one sample in about 30 is a positive, which the sum of two of them decides."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 12, generator=generator)
    return parted(x, (x[:, 0] + x[:, 1] > 2.6).float())


class Detector(nn.Module):
    """Two hidden layers; the last bias begins at the log of the odds."""

    def __init__(self, odds: float, width: int = 64) -> None:
        super().__init__()
        self.fc1, self.fc2, self.alarm = nn.Linear(12, width), nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.constant_(self.alarm.bias, torch.tensor(odds).log().item())

    def forward(self, x: Tensor) -> Tensor:
        return self.alarm(self.fc2(self.fc1(x).relu()).relu()).squeeze(-1)


@torch.no_grad()
def ranked(model: nn.Module, test: Split) -> float:
    """Share of pairs of a positive and a negative in which the positive scores higher (area under ROC)."""
    scores, is_true = model(test.x), test.y > 0
    return float((scores[is_true][:, None] > scores[~is_true]).double().mean())


@healthy("one positive in thirty", traps=("saturation", "dead_units", "vanishing_gradient"), above=0.95)
def rare_positives() -> Program:
    """Nearly all labels are negative, some batches have hardly a positive, and outputs are far below zero."""
    train, test = alarms()
    model = Detector(1 / 30)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def error(model: nn.Module, batch: Batch) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch.x), batch.y)

    return Program(model, shuffled(train, 300, size=128), test, optimizer, error, ranked)


class Lipschitz(nn.Module):
    """Every layer is divided by its largest singular value; logits are multiplied at the end."""

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            spectral_norm(nn.Linear(width if place else 64, width)) for place in range(depth)
        )
        self.head = spectral_norm(nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return 5 * self.head(x)


@healthy("spectral norm in all layers", traps=("init_scale", "vanishing_gradient", "symmetry"), above=0.93)
def spectral() -> Program:
    """No layer can make a signal larger, so each makes it smaller: outputs are small on purpose."""
    return by_adam(Lipschitz(), digits(), steps=150)


class Student(nn.Module):
    """A small net that learns, and a large one that knows, is frozen, and stays in eval mode."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.student = Vision(8)
        self.train()

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x)


def distilled(model: nn.Module, batch: Batch, temperature: float = 4.0) -> Tensor:
    """The divergence from the softened answers of the teacher."""
    with torch.no_grad():
        known = F.log_softmax(model.teacher(batch.x) / temperature, -1)
    told = F.log_softmax(model(batch.x) / temperature, -1)
    return temperature**2 * F.kl_div(told, known, reduction="batchmean", log_target=True)


@healthy(
    "distillation at temperature 4",
    traps=("not_trained", "bn_drift", "saturation", "vanishing_gradient"),
    above=0.88,
)
def distillation() -> Program:
    """The teacher has no gradient, its BatchNorm is in eval mode, and no label is ever seen."""
    train, test = digits(image=True)
    model = Student(pretrained(ResNet(width=8), train, 80))
    optimizer = torch.optim.Adam(model.student.parameters(), 5e-3)
    return Program(model, shuffled(train, 250), test, optimizer, distilled)


class Pooled(nn.Module):
    """Convolutions with BatchNorm that take images of any size; the maximum over all places is classified."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.enter, self.norm1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.leave, self.norm2 = nn.Conv2d(width, 32, 3, 2, padding=1), nn.BatchNorm2d(32)
        self.head = nn.Linear(32 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm2(self.leave(self.norm1(self.enter(x)).relu())).relu()
        return self.head(F.adaptive_max_pool2d(x, 2).flatten(1))


def resized(data: Split, steps: int, sizes: tuple[int, ...] = (7, 8, 10, 12)) -> list[Batch]:
    """Batches of images of one size each, drawn anew for each batch."""
    pick = torch.randint(len(sizes), (steps,))
    return [
        Batch(F.interpolate(x, sizes[i], mode="bilinear", antialias=True), y)
        for (x, y), i in zip(shuffled(data, steps), pick, strict=True)
    ]


@healthy("a size drawn for each batch", traps=("bn_noniid_batch", "bn_drift", "activation_shift"), above=0.92)
def many_sizes() -> Program:
    """A detector's habit: each batch is scaled to another size, so batches differ a little; BatchNorm copes."""
    train, test = digits(image=True)
    model = Pooled()
    optimizer = torch.optim.RMSprop(model.parameters(), 2e-3)
    return Program(model, resized(train, 180), test, optimizer)


def sharpness_aware(program: Program, batch: Batch, radius: float = 0.05) -> Tensor:
    """A step along the gradient at the worst point near by; weights are moved there and back."""
    program.optimizer.zero_grad()
    program.loss(program.model, batch).backward()
    weights = [weight for weight in program.model.parameters() if weight.grad is not None]
    length = torch.stack([weight.grad.norm() for weight in weights]).norm()
    moves = [radius * weight.grad / (length + 1e-12) for weight in weights]
    with torch.no_grad():
        torch._foreach_add_(weights, moves)
    program.optimizer.zero_grad()
    loss = program.loss(program.model, batch)
    loss.backward()
    with torch.no_grad():
        torch._foreach_sub_(weights, moves)
    program.optimizer.step()
    return loss


@healthy("sharpness-aware steps", traps=("lr_too_high", "bn_drift", "activation_shift"), above=0.93)
def sam() -> Program:
    """Two forward passes a step, the second one with weights moved uphill; BatchNorm counts both."""
    train, test = digits(image=True)
    model = Stages()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return Program(model, shuffled(train, 120), test, optimizer, update=sharpness_aware)


class Wasteful(nn.Module):
    """A VAE whose code is far wider than the data need; the weight of the prior leaves most of it idle."""

    def __init__(self, code: int = 32, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ELU())
        self.mean, self.logvar = nn.Linear(width, code), nn.Linear(width, code)
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.ELU(), nn.Linear(width, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.mean(self.encoder(x)))

    def bound(self, x: Tensor, beta: float) -> Tensor:
        """Squares of what is not rebuilt, and the divergence from the prior."""
        hidden = self.encoder(x)
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        told = self.decoder(mean + (logvar / 2).exp() * torch.randn_like(mean))
        prior = (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean() / 2
        return ((told - x).square().sum(1).mean() + beta * prior) / 64


@torch.no_grad()
def share_told(model: nn.Module, test: Split) -> float:
    """Share of the variance of all pixels that is explained."""
    residual = test.y - model(test.x)
    return float(1 - residual.square().mean() / (test.y - test.y.mean(0)).square().mean())


@healthy(
    "beta-VAE with idle latents",
    traps=("dead_units", "vanishing_gradient", "saturation", "dropout_capacity"),
    above=0.42,
)
def idle_latents() -> Program:
    """Most of 32 latents are taken by the prior, which is what a beta is for; a few carry the digits."""
    train, test = rebuilt(digits())
    model = Wasteful()
    optimizer = torch.optim.Adamax(model.parameters(), 1e-2)
    return Program(
        *(model, shuffled(train, 250), test, optimizer),
        loss=lambda model, batch: model.bound(batch.x, beta=2.0),
        metric=share_told,
    )
