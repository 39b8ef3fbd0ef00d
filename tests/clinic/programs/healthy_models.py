"""Healthy programs of unusual kinds: flows, diffusion, graphs, codebooks, reservoirs, written weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from ..case import Program, healthy
from ..data import Batch, Split, digits, parted, pictures, shuffled, waves
from .sick_copies import classifies, regresses


class Written(nn.Module):
    """The last column tells the task; a hypernetwork writes the weights of a small net for it."""

    def __init__(self, inputs: int = 4, width: int = 12, tasks: int = 8) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        self.task = nn.Embedding(tasks, 16)
        self.base = nn.ParameterList([torch.randn(inputs, width) / inputs**0.5, torch.randn(width, 1) / 3])
        self.first, self.second = nn.Linear(16, inputs * width), nn.Linear(16, width)
        for writer in (self.first, self.second):
            nn.init.normal_(writer.weight, std=1e-3)
            nn.init.zeros_(writer.bias)

    def forward(self, x: Tensor) -> Tensor:
        task = self.task(x[:, -1].long())
        first = self.base[0] + self.first(task).view(-1, self.inputs, self.width)
        hidden = torch.tanh(torch.einsum("ni,niw->nw", x[:, :-1], first))
        return torch.einsum("nw,nwo->no", hidden, self.base[1] + self.second(task).unsqueeze(-1))


def many_tasks(samples: int = 3000, tasks: int = 8, seed: int = 31) -> tuple[Split, Split]:
    """Four columns and the number of a task; each task has a smooth target of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 4, generator=generator)
    task = torch.randint(tasks, (samples,), generator=generator)
    ways = torch.randn(tasks, 4, generator=generator)
    y = torch.sin((x * ways[task]).sum(1)) + x[:, 0]
    return parted(torch.cat([x, task[:, None].float()], 1), (y - y.mean()) / y.std())


@healthy("weights written by a hypernetwork", traps=("symmetry", "init_scale", "not_trained"), above=0.8)
def hypernetwork() -> Program:
    """The layers that write weights begin a thousand times smaller than usual, so that all tasks start alike."""
    model = Written()
    return regresses(model, many_tasks(), AdamW(model.parameters(), 1e-2), steps=300)


class Coupling(nn.Module):
    """Half of a point scales and shifts the other half, by nothing at first."""

    def __init__(self, is_first: bool, width: int = 32) -> None:
        super().__init__()
        self.is_first = is_first
        self.net = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 2))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.chunk(2, 1) if self.is_first else x.flip(1).chunk(2, 1)
        log_scale, shift = self.net(kept).chunk(2, 1)
        log_scale = torch.tanh(log_scale)
        pair = (kept, moved * log_scale.exp() + shift)
        return torch.cat(pair if self.is_first else pair[::-1], 1), log_scale.squeeze(1)


class RealNVP(nn.Module):
    """Couplings that take turns; gives the log density of points."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(place % 2 == 0) for place in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        volume = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, log_scale = coupling(x)
            volume = volume + log_scale
        return volume - x.square().sum(1) / 2 - math.log(2 * math.pi)


def moons(samples: int = 2000, seed: int = 32) -> tuple[Split, Split]:
    """Two half rings that hold each other, of about unit scale; nothing to predict."""
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(samples, generator=generator)
    side = torch.randint(2, (samples,), generator=generator) * 2.0 - 1
    x = torch.stack([side * angle.cos() + side / 2, side * angle.sin() - side / 4], 1)
    return parted(1.2 * x + 0.05 * torch.randn(samples, 2, generator=generator), angle)


def density(model: nn.Module, test: Split) -> float:
    """Mean log density of test points."""
    with torch.no_grad():
        return float(model(test.x).mean())


@healthy("RealNVP", traps=("symmetry", "init_scale", "vanishing_gradient"), above=-1.9)
def normalizing_flow() -> Program:
    """All couplings begin as the identity: their last layers are zero. A normal density has about -2.6."""
    train, test = moons()
    model = RealNVP()
    optimizer = Adam(model.parameters(), 5e-3)
    return Program(
        model, shuffled(train, 250), test, optimizer, lambda net, batch: -net(batch.x).mean(), density
    )


class Reservoir(nn.Module):
    """A random tanh RNN that is never trained, and a readout that is."""

    def __init__(self, width: int = 128, radius: float = 0.9) -> None:
        super().__init__()
        self.reservoir = nn.RNN(1, width, batch_first=True).requires_grad_(False)
        recurrent = torch.randn(width, width)
        self.reservoir.weight_hh_l0.copy_(radius * recurrent / torch.linalg.eigvals(recurrent).abs().max())
        self.reservoir.weight_ih_l0.normal_()
        self.readout = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        states = self.reservoir(x.transpose(1, 2))[0]
        return self.readout(states.square().mean(1))


@healthy("echo state network", traps=("not_trained", "saturation", "vanishing_gradient"), above=0.85)
def reservoir() -> Program:
    """Only the readout learns; the recurrent weights are random for good, as reservoir computing has it."""
    model = Reservoir()
    return classifies(model, waves(), Adam(model.readout.parameters(), 3e-2))


class Denoiser(nn.Module):
    """Noisy points and how noisy they are; the noise out. The last layer begins at zero."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.point, self.time = nn.Linear(2, width), nn.Linear(16, width)
        self.middle, self.out = nn.Linear(width, width), nn.Linear(width, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        phase = x[:, 2:] * 2.0 ** torch.arange(8)
        time = self.time(torch.cat([phase.sin(), phase.cos()], 1))
        return self.out(F.silu(self.middle(F.silu(self.point(x[:, :2]) + time))))


def noisy(samples: int = 4000, seed: int = 33) -> tuple[Split, Split]:
    """Points on a ring under noise of any strength, the strength as third column; the noise is the target."""
    generator = torch.Generator().manual_seed(seed)
    angle = 6.283 * torch.rand(samples, 1, generator=generator)
    time = torch.rand(samples, 1, generator=generator)
    noise = torch.randn(samples, 2, generator=generator)
    ring = 1.4 * torch.cat([angle.cos(), angle.sin()], 1)
    return parted(torch.cat([(1.571 * time).cos() * ring + (1.571 * time).sin() * noise, time], 1), noise)


@torch.no_grad()
def explained(model: nn.Module, test: Split) -> float:
    """Share of the variance of all targets that is explained."""
    return float(1 - F.mse_loss(model(test.x), test.y) / test.y.var(0, correction=0).mean())


def squares(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error of all outputs."""
    return F.mse_loss(model(batch.x), batch.y)


@healthy("denoising by diffusion", traps=("vanishing_gradient", "symmetry", "lr_too_high"), above=0.45)
def diffusion() -> Program:
    """Most noise cannot be told from the picture: the loss stays high and rough although all is learned."""
    train, test = noisy()
    model = Denoiser()
    return Program(model, shuffled(train, 300), test, AdamW(model.parameters(), 3e-3), squares, explained)


def articles(samples: int = 1600, words: int = 400, topics: int = 6, seed: int = 34) -> tuple[Split, Split]:
    """Counts of 400 words in articles of 30 words, [N, 400]: nine in ten are zero; some words hardly occur."""
    generator = torch.Generator().manual_seed(seed)
    chances = torch.distributions.Dirichlet(torch.full((words,), 0.05))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        topic_words = chances.sample((topics,))
    topic = torch.randint(topics, (samples,), generator=generator)
    common = torch.full((words,), 1 / words)
    drawn = torch.multinomial(0.4 * topic_words[topic] + 0.6 * common, 30, True, generator=generator)
    return parted(F.one_hot(drawn, words).sum(1).float(), topic)


@healthy("bag of words", traps=("input_scale", "dead_units", "not_trained"), above=0.9)
def bag_of_words() -> Program:
    """Columns of counts that are zero nearly everywhere, none of them scaled, as is usual for text."""
    model = nn.Sequential(nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 6))
    return classifies(model, articles(), Adam(model.parameters(), 3e-3))


@healthy("GELU, 1,024 wide", traps=("dead_units", "saturation"), above=0.94)
def seldom_on() -> Program:
    """Biases of a wide GELU layer begin at -2: most outputs are close to zero for most images, none for all."""
    model = nn.Sequential(nn.Linear(64, 1024), nn.GELU(), nn.Linear(1024, 10))
    nn.init.normal_(model[0].weight, std=1.4 / 8)
    nn.init.constant_(model[0].bias, -2.0)
    return classifies(model, digits(), SGD(model.parameters(), 0.02, momentum=0.9))


class Quantized(nn.Module):
    """An autoencoder whose codes are replaced by the nearest of a codebook; the gradient goes straight through."""

    def __init__(self, width: int = 64, slots: int = 4, code: int = 4, codes: int = 16) -> None:
        super().__init__()
        self.slots = slots
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, slots * code))
        self.codebook = nn.Embedding(codes, code)
        self.decoder = nn.Sequential(nn.Linear(slots * code, width), nn.SiLU(), nn.Linear(width, 64))

    def forward(self, x: Tensor) -> Tensor:
        soft = self.encoder(x).unflatten(1, (self.slots, -1))
        hard = self.codebook(torch.cdist(soft, self.codebook.weight).argmin(-1))
        self.gap = F.mse_loss(hard, soft.detach()) + 0.25 * F.mse_loss(soft, hard.detach())
        return self.decoder((soft + (hard - soft).detach()).flatten(1))


@healthy(
    "codebook with a straight-through gradient",
    traps=("not_trained", "vanishing_gradient", "dead_units"),
    above=0.5,
)
def codebook() -> Program:
    """VQ-VAE: the choice of a code has no gradient, so the codebook learns by a loss of its own."""
    train, test = pictures()
    model = Quantized()
    optimizer = Adam(model.parameters(), 5e-3)
    batches = shuffled(train, 250)
    return Program(model, batches, test, optimizer, lambda net, b: squares(net, b) + net.gap, explained)


class Graph(nn.Module):
    """Two graph convolutions over one fixed graph."""

    def __init__(self, near: Tensor, inputs: int, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.register_buffer("near", near)
        self.conv1, self.conv2 = nn.Linear(inputs, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.near @ self.conv2(F.relu(self.near @ self.conv1(x)))


def community(nodes: int = 240, classes: int = 4, seed: int = 35) -> tuple[Tensor, Tensor, Tensor]:
    """A graph whose nodes know their own kind, noisy features, and kinds; the graph is normalized."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(classes, (nodes,), generator=generator)
    chance = torch.where(kind[:, None] == kind, 0.12, 0.01)
    edges = (torch.rand(nodes, nodes, generator=generator) < chance).triu(1).float()
    edges = edges + edges.t() + torch.eye(nodes)
    root = edges.sum(1).rsqrt()
    x = F.one_hot(kind, 16) + 0.8 * torch.randn(nodes, 16, generator=generator)
    return root[:, None] * edges * root, x, kind


def labelled(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of the nodes that have a label."""
    return F.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten(), ignore_index=-100)


def accuracy_of_the_rest(model: nn.Module, test: Split) -> float:
    """Accuracy on nodes whose kind was not told."""
    with torch.no_grad():
        is_right, is_asked = model(test.x).argmax(-1) == test.y, test.y >= 0
    return float(is_right[is_asked].double().mean())


@healthy("label propagation by a GCN", traps=("vanishing_gradient", "not_trained", "lr_too_high"), above=0.9)
def graph_convolution() -> Program:
    """One batch, the whole graph, over and over; 24 of 240 nodes have a label, and are soon known by heart."""
    near, x, kind = community()
    model = Graph(near, x.shape[1])
    is_told = torch.arange(len(x)) < 24
    told, rest = (kind.where(asked, -100)[None] for asked in (is_told, ~is_told))
    optimizer = Adam(model.parameters(), 1e-2, weight_decay=5e-4)
    batches = [Batch(x[None], told)] * 150
    return Program(model, batches, Split(x[None], rest), optimizer, labelled, accuracy_of_the_rest)
