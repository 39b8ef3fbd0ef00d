"""Healthy programs with units that are seldom on, equal weights at the start, or branches that begin at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, RMSprop

from ..case import Program, cross_entropy, healthy
from ..data import Batch, digits, pictures, rows, sentences, surface, text
from .sick_copies import classifies, letters_out, regresses
from .unit_networks import Layer, ResNet


class Rare(nn.Module):
    """One wide hidden layer and a classifier, ReLU as a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


def unlike_rates(model: Rare, hidden: float, output: float) -> SGD:
    """Momentum with one rate for the hidden layer and another for the classifier."""
    rates = ((model.fc1, hidden), (model.fc2, output))
    return SGD([{"params": part.parameters(), "lr": lr} for part, lr in rates], momentum=0.9)


@healthy("2,048 units, seldom on", traps=("dead_units",), above=0.94)
def wide_and_sparse() -> Program:
    """Each bias begins where its unit is on for one image in thirty: a wide and sparse layer, on purpose."""
    train, test = digits()
    model = Rare(2048)
    with torch.no_grad():
        model.fc1.bias -= torch.quantile(model.fc1(train.x), 29 / 30, dim=0)
    return classifies(model, (train, test), unlike_rates(model, 3e-3, 0.1), steps=200)


@healthy("units of one class each", traps=("dead_units", "init_scale"), above=0.94)
def class_units() -> Program:
    """Hidden units begin as templates of single images, and are on for what looks like their image alone."""
    train, test = digits()
    model = Rare(120)
    templates = train.x[:120] / train.x[:120].norm(dim=1, keepdim=True)
    model.fc1.weight.data.copy_(templates)
    nn.init.constant_(model.fc1.bias, -6.0)
    return classifies(model, (train, test), unlike_rates(model, 5e-3, 0.2))


@healthy("zero gamma in residual blocks", traps=("symmetry", "init_scale", "dead_units"), above=0.94)
def zero_gamma() -> Program:
    """The last BatchNorm of each block begins with weight zero, as torchvision does it."""
    model = ResNet(3)
    for block in model.layer1:
        nn.init.zeros_(block.bn2.weight)
    return classifies(model, digits(image=True), SGD(model.parameters(), 0.05, momentum=0.9), steps=120)


@healthy("Fixup", traps=("symmetry", "init_scale", "vanishing_gradient"), above=0.9)
def fixup() -> Program:
    """No norms: the last convolution of each block and the classifier begin at zero instead."""
    model = ResNet(4, norm=lambda channels: nn.Identity())
    for block in model.layer1:
        nn.init.kaiming_normal_(block.conv1.weight)
        nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(model.fc.weight)
    return classifies(model, digits(image=True), Adam(model.parameters(), 5e-3), steps=150)


class Gated(nn.Module):
    """A branch times a number that begins at zero (ReZero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.alpha = nn.Linear(width, width), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * F.relu(self.linear(x))


@healthy("ReZero, sixteen layers", traps=("vanishing_gradient", "init_scale", "symmetry"), above=0.7)
def rezero() -> Program:
    """Every branch is multiplied by zero at the start, so nothing flows into its weights for one step."""
    tower = nn.Sequential(*(Gated(32) for _ in range(16)))
    model = nn.Sequential(nn.Linear(6, 32), tower, nn.Linear(32, 1))
    return regresses(model, surface(), AdamW(model.parameters(), 5e-3), steps=250)


class TiedLanguageModel(nn.Module):
    """A GRU whose embedding is its output layer as well."""

    def __init__(self, letters: int = 16, width: int = 32) -> None:
        super().__init__()
        self.wte = nn.Embedding(letters, width)
        nn.init.normal_(self.wte.weight, std=0.1)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.lm_head = nn.Linear(width, letters, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.lm_head(self.rnn(self.wte(tokens))[0])


@healthy("tied language model", traps=("symmetry", "init_scale"), above=0.72)
def tied_language_model() -> Program:
    """One matrix is embedding and output; it begins small, as it should."""
    model = TiedLanguageModel()
    return letters_out(model, text(length=12), Adam(model.parameters(), 1e-2))


class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's matrix, transposed; all functions."""

    def __init__(self, code: int = 24) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(code, 64))
        nn.init.xavier_uniform_(self.weight)
        self.bias_in, self.bias_out = nn.Parameter(torch.zeros(code)), nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.leaky_relu(F.linear(x, self.weight, self.bias_in)), self.weight.t(), self.bias_out)


@healthy("tied autoencoder", traps=("symmetry",), above=0.75)
def tied_autoencoder() -> Program:
    """Encoder and decoder share a matrix: used twice, copied nowhere."""
    model = TiedAutoencoder()
    return regresses(model, pictures(), RMSprop(model.parameters(), 3e-3))


class Sparse(nn.Module):
    """Each sample goes to the one expert its router likes best."""

    def __init__(self, experts: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.router = nn.Linear(64, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 64)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        shares = self.router(x).softmax(-1)
        weights, choice = shares.max(-1)
        load = F.one_hot(choice, len(self.experts)).float().mean(0)
        self.unbalance = len(self.experts) * (load * shares.mean(0)).sum()
        y = torch.zeros_like(x)
        for place, expert in enumerate(self.experts):
            mine = (choice == place).nonzero().flatten()
            y = y.index_add(0, mine, weights[mine, None] * expert(x[mine]))
        return x + y


def balanced(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy, and a price on experts that get more than their share."""
    return cross_entropy(model, batch) + 0.1 * model.moe.unbalance


@healthy("experts, one a sample", traps=("dead_units", "symmetry", "vanishing_gradient"), above=0.9)
def sparse_experts() -> Program:
    """Eight experts of which each sees about an eighth of the samples, as a second loss asks them to."""
    model = nn.Sequential()
    model.add_module("moe", Sparse())
    model.add_module("norm", nn.LayerNorm(64))
    model.add_module("head", nn.Linear(64, 10))
    program = classifies(model, digits(), AdamW(model.parameters(), 3e-3))
    program.loss = balanced
    return program


class Padded(nn.Module):
    """Sentences of unlike length: padding is masked in attention and left out of the mean."""

    def __init__(self, letters: int = 12, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters + 1, width, padding_idx=0)
        self.layer = Layer(width, heads=4, hidden=64, act=F.relu)
        self.head = nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        is_padding = tokens == 0
        x = self.layer(self.embed(tokens), is_padding)
        kept = (~is_padding).unsqueeze(-1)
        return self.head((x * kept).sum(1) / kept.sum(1))


@healthy("padded sentences", traps=("symmetry", "dead_units", "saturation"), above=0.75)
def padded_sentences() -> Program:
    """A third of all places is padding: rows that are equal, embedded at zero, and seen by nobody."""
    model = Padded()
    return classifies(model, sentences(), AdamW(model.parameters(), 3e-3))


class Separable(nn.Module):
    """A depthwise convolution that begins as a mean, then a pointwise one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)
        nn.init.constant_(self.depthwise.weight, 1 / 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.pointwise(self.depthwise(x)))


@healthy("depthwise means", traps=("symmetry",), above=0.9)
def depthwise_means() -> Program:
    """Every depthwise filter begins at 1/9, each on a channel of its own: equal, but no copies."""
    stem = nn.Conv2d(1, 16, 3, stride=2, padding=1)
    body = nn.Sequential(Separable(16, 24), Separable(24, 32))
    model = nn.Sequential(stem, nn.ReLU(), body, nn.Flatten(), nn.Linear(32 * 16, 10))
    return classifies(model, digits(image=True), Adam(model.parameters(), 1e-2), steps=150)


class Modulated(nn.Module):
    """A feed-forward part that a condition scales, shifts and gates, all from zero (adaLN-zero)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(condition)).chunk(3, -1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class Conditioned(nn.Module):
    """The first row of an image conditions how the others are read."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.condition, self.embed = nn.Linear(16, width), nn.Linear(48, width)
        self.blocks = nn.ModuleList(Modulated(width) for _ in range(3))
        self.final = nn.Linear(width, 10)
        nn.init.zeros_(self.final.weight)

    def forward(self, x: Tensor) -> Tensor:
        condition, x = self.condition(x[:, :2].flatten(1)), self.embed(x[:, 2:].flatten(1))
        for block in self.blocks:
            x = block(x, condition)
        return self.final(x)


@healthy("adaLN-zero", traps=("symmetry", "init_scale", "vanishing_gradient"), above=0.9)
def zero_modulation() -> Program:
    """Gates, scales, shifts and the last layer begin at zero; it takes steps until all of it moves."""
    model = Conditioned()
    return classifies(model, rows(), AdamW(model.parameters(), 3e-3))
