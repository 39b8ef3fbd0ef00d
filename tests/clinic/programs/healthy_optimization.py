"""Healthy programs that train in an unusual way: parts of a net alone, sampled rewards, reversed gradients."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.optim import SGD, Adam, AdamW, NAdam

from ..case import Program, accuracy, healthy, one_update
from ..data import Batch, Split, digits, rows, shuffled, waves
from .networks import pretrained
from .sick_copies import classifies


class Policy(nn.Module):
    """Looks at a digit, gives a log probability for each of ten buttons."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.torso = nn.Sequential(nn.Linear(64, width), nn.Tanh())
        self.action = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.action(self.torso(x)).log_softmax(-1)


def rewarded(model: nn.Module, batch: Batch) -> Tensor:
    """REINFORCE: a button is drawn; it is made likelier the more its reward is above the mean reward."""
    chances = torch.distributions.Categorical(logits=model(batch.x))
    button = chances.sample()
    reward = (button == batch.y).float()
    return -((reward - reward.mean()) * chances.log_prob(button)).mean() - 0.003 * chances.entropy().mean()


@healthy("REINFORCE on a bandit", traps=("lr_too_high", "activation_shift", "exploding_gradient"), above=0.85)
def bandit() -> Program:
    """A policy learns from rewards alone; its loss is around zero from the start and tells nothing."""
    model = Policy()
    program = classifies(model, digits(), Adam(model.parameters(), 5e-3), steps=300)
    program.loss = rewarded
    return program


def mirrored(data: tuple[Split, Split]) -> tuple[Split, Split]:
    """Every row of pixels from right to left."""
    return tuple(Split(part.x.unflatten(1, (8, 8)).flip(2).flatten(1), part.y) for part in data)


@healthy("biases trained alone", traps=("not_trained", "vanishing_gradient"), above=0.85)
def biases_alone() -> Program:
    """BitFit: a trained net is moved to mirrored digits; all its matrices are frozen, its biases and head learn."""
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10))
    pretrained(model, train, 60)
    for matrix in (model[0].weight, model[2].weight):
        matrix.requires_grad_(False)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return classifies(model, mirrored((train, test)), AdamW(learning, 5e-3))


@healthy("nine weights in ten pruned", traps=("init_scale", "not_trained", "dead_units"), above=0.92)
def pruned() -> Program:
    """The smallest 90% of each matrix are masked by ``torch.nn.utils.prune``; the rest is tuned."""
    train, test = digits()
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))
    pretrained(model, train, 100)
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, "weight", amount=0.9)
    return classifies(model, (train, test), Adam(model.parameters(), 2e-3), steps=150)


def thaw(program: Program, batch: Batch, steps: itertools.count, every: int) -> Tensor:
    """One more part of the body learns after each ``every`` steps, the upper ones first."""
    count, body = next(steps), program.model.body
    for place, part in enumerate(reversed(body)):
        part.requires_grad_(count >= (place + 1) * every)
    return one_update(program, batch)


class Deep(nn.Module):
    """Three parts of convolutions over a signal, each with GroupNorm, and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, width, 5, stride=2), nn.GroupNorm(4, width), nn.SiLU())
            for a in (1, width, width)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.body:
            x = part(x)
        return self.head(x.mean(-1))


@healthy("layers thawed one by one", traps=("not_trained", "activation_shift"), above=0.9)
def gradual_unfreezing() -> Program:
    """A trained net gets a new head; its layers are frozen at first and thawed from the top, as for ULMFiT."""
    model = Deep()
    data = waves()
    pretrained(model, data[0], 40)
    model.head.reset_parameters()
    program = classifies(model, data, NAdam(model.parameters(), 3e-3))
    program.update = partial(thaw, steps=itertools.count(), every=40)
    return program


class Siamese(nn.Module):
    """An encoder with BatchNorm, and a predictor of what it makes of another view."""

    def __init__(self, width: int = 96, code: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU()),
            *(nn.Linear(width, code), nn.BatchNorm1d(code, affine=False)),
        )
        self.predictor = nn.Sequential(nn.Linear(code, 16), nn.ReLU(), nn.Linear(16, code))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return code, self.predictor(code)


def view(x: Tensor) -> Tensor:
    """The same image with noise and some pixels missing."""
    return (x + 0.3 * torch.randn_like(x)) * (torch.rand_like(x) > 0.2)


def agreement(model: nn.Module, batch: Batch) -> Tensor:
    """Each prediction is compared to the other view's code, which is detached."""
    (code1, guess1), (code2, guess2) = (model(view(batch.x)) for _ in range(2))
    first = F.cosine_similarity(guess1, code2.detach()).mean()
    return -(first + F.cosine_similarity(guess2, code1.detach()).mean()) / 2


@torch.no_grad()
def nearest_is_alike(model: nn.Module, test: Split) -> float:
    """Share of test images whose nearest code is of their class."""
    code = F.normalize(model(test.x)[0], dim=1)
    near = (code @ code.t() - 2 * torch.eye(len(code))).argmax(1)
    return float((test.y[near] == test.y).double().mean())


@healthy("SimSiam with its stop-gradient", traps=("not_trained", "symmetry", "saturation"), above=0.8)
def stop_gradient() -> Program:
    """Two views predict each other; the target is detached on purpose, and only that keeps codes apart."""
    train, test = digits()
    model = Siamese()
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    return Program(model, shuffled(train, 200, size=96), test, optimizer, agreement, nearest_is_alike)


class Angular(nn.Module):
    """A bidirectional GRU, and a head of cosines: features and class vectors are of length one."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.reader = nn.GRU(8, width, batch_first=True, bidirectional=True)
        self.classes = nn.Parameter(torch.randn(10, 2 * width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.reader(x)[0].mean(1), dim=-1), F.normalize(self.classes, dim=-1))


def with_margin(model: nn.Module, batch: Batch, scale: float = 30.0, margin: float = 0.2) -> Tensor:
    """Cross entropy of cosines times 30, the right class at an angle that is 0.2 larger."""
    angle = model(batch.x).clamp(-0.999, 0.999).acos()
    return F.cross_entropy(scale * (angle + margin * F.one_hot(batch.y, 10)).cos(), batch.y)


@healthy("ArcFace with scale 30", traps=("init_scale", "saturation", "exploding_gradient"), above=0.92)
def angular_margin() -> Program:
    """The first loss is far above that of a guess, as the right class is handicapped and logits are in tens."""
    model = Angular()
    program = classifies(model, rows(), Adam(model.parameters(), 5e-3))
    program.loss = with_margin
    return program


class Reversed(torch.autograd.Function):
    """Hands its input on; gradients come back with the other sign."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -0.3 * gradient


class Adversarial(nn.Module):
    """Features for a classifier; a critic that tells two domains apart by them gets them the other way round."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, width), nn.LeakyReLU(0.1))
        self.label = nn.Linear(width, 10)
        self.domain = nn.Sequential(nn.Linear(width, 32), nn.LeakyReLU(0.1), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(x)
        return self.label(x), self.domain(Reversed.apply(x)).squeeze(-1)


def both_domains(model: nn.Module, batch: Batch) -> Tensor:
    """Labels of the first half, and the domain of all: the second half is paler and has no labels."""
    half = len(batch.x) // 2
    x = torch.cat([batch.x[:half], 0.8 * batch.x[half:] + 0.2])
    label, domain = model(x)
    truth = (torch.arange(len(x)) < half).to(domain)
    loss = F.cross_entropy(label[:half], batch.y[:half])
    return loss + F.binary_cross_entropy_with_logits(domain, truth)


def accuracy_when_pale(model: nn.Module, test: Split) -> float:
    """Accuracy in the domain without labels."""
    return accuracy(lambda x: model(x)[0], Split(0.8 * test.x + 0.2, test.y))


@healthy("domain adversary with reversed gradients", traps=("exploding_gradient", "lr_too_high"), above=0.9)
def reversed_gradients() -> Program:
    """A critic is fought by the features below it: its loss has to stay at that of a coin."""
    train, test = digits()
    model = Adversarial()
    batches = shuffled(train, 250, size=128)
    return Program(model, batches, test, Adam(model.parameters(), 2e-3), both_domains, accuracy_when_pale)
