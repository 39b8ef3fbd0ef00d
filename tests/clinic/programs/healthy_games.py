"""Healthy programs of other kinds of learning: games, generation, comparison, many tasks, many experts."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, accuracy, cross_entropy, healthy, one_update
from ..data import Batch, Split, digits, pixels, rescaled, shuffled
from .sick_values import Siamese, Variational, adam, contrastive, evidence, paired, redrawn, told_apart


def ring(samples: int, points: int = 4) -> Tensor:
    """Samples near a few points on a circle of radius 1."""
    angle = 2 * torch.pi * torch.randint(points, (samples,)) / points
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(samples, 2)


def perceptron(inputs: int, outputs: int, width: int, activation: type[nn.Module]) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        *(nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation()),
        nn.Linear(width, outputs),
    )


class Adversaries(nn.Module):
    """A generator of points in the plane and a judge of them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = perceptron(4, 2, 64, nn.ReLU)
        self.discriminator = perceptron(2, 1, 64, nn.SiLU)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def adversarial_update(program: Program, batch: Batch) -> Tensor:
    """A step of the judge, then one of the generator."""
    model, (for_generator, for_judge) = program.model, program.optimizer
    fake = model.generator(torch.randn(len(batch.x), 4))
    real, drawn = model.discriminator(batch.x), model.discriminator(fake.detach())
    for_judge.zero_grad()
    judged = F.softplus(-real).mean() + F.softplus(drawn).mean()
    judged.backward()
    for_judge.step()
    for_generator.zero_grad()
    F.softplus(-model.discriminator(fake)).mean().backward()
    for_generator.step()
    return judged


@torch.no_grad()
def near_the_ring(model: nn.Module, test: Split) -> float:
    """Share of points drawn within .35 of a true one, times the share of true ones that have such a point."""
    distance = torch.cdist(model(torch.randn(500, 4)), test.x)
    return float((distance.amin(1) < 0.35).double().mean() * (distance.amin(0) < 0.35).double().mean())


@healthy("GAN on a ring", traps=("activation_shift", "lr_too_high", "vanishing_gradient"), above=0.5)
def gan() -> Program:
    """Two nets with optimizers of their own: their losses go up and down, and neither goes to zero."""
    model = Adversaries()
    optimizers = [
        torch.optim.Adam(model.generator.parameters(), 2e-3, betas=(0.0, 0.9)),
        torch.optim.Adam(model.discriminator.parameters(), 4e-3, betas=(0.0, 0.9)),
    ]
    x, probe = ring(4096), ring(200)
    batches = shuffled(Split(x, torch.zeros(len(x))), 300, size=128)
    test = Split(probe, torch.zeros(len(probe)))
    return Program(model, batches, test, optimizers, metric=near_the_ring, update=adversarial_update)


@healthy("VAE", traps=("vanishing_gradient", "dead_units", "saturation"), above=0.5)
def variational_autoencoder() -> Program:
    """Noise in the code, always-white margins, probabilities near 0 and 1."""
    train, test = (Split(1 - part.x / 16, part.y) for part in pixels())
    model = Variational(code=12)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    return Program(model, shuffled(train, 250), test, optimizer, partial(evidence, eps=1e-6), redrawn)


@healthy("siamese towers", traps=("symmetry", "vanishing_gradient"), above=0.88)
def siamese() -> Program:
    """One tower sees both images of a pair; pairs that are far enough apart give no gradient."""
    train, test = digits()
    pairs, probe = paired(train, 4000), paired(test, 400)
    model = Siamese(1e-6)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return Program(model, shuffled(pairs, 250), probe, optimizer, contrastive, told_apart)


CELLS, ACTIONS = 12, 2


class Agent(nn.Module):
    """Values of two moves in a corridor, and an older copy that gives the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.online = perceptron(CELLS, ACTIONS, 32, nn.ReLU)
        self.target = perceptron(CELLS, ACTIONS, 32, nn.ReLU)
        self.catch_up()

    def catch_up(self) -> None:
        """Copies the net that learns into the one that gives the targets."""
        self.target.load_state_dict(self.online.state_dict())

    def forward(self, cells: Tensor) -> Tensor:
        return self.online(cells)


def walked(cell: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
    """The next cell, one to the left or to the right, and whether it is the last one."""
    after = (cell + 2 * move - 1).clamp(0, CELLS - 1)
    return after, (after == CELLS - 1).float()


def q_update(program: Program, batch: Batch, steps: itertools.count) -> Tensor:
    """A step of Q-learning on random moves; every twentieth, the target net catches up."""
    model, cell, move = program.model, batch.x, batch.y
    after, is_end = walked(cell, move)
    with torch.no_grad():
        best = model.target(F.one_hot(after, CELLS).float()).amax(1)
    values = model(F.one_hot(cell, CELLS).float()).gather(1, move[:, None]).squeeze(1)
    loss = F.smooth_l1_loss(values, is_end + 0.9 * (1 - is_end) * best)
    program.optimizer.zero_grad()
    loss.backward()
    program.optimizer.step()
    if next(steps) % 20 == 19:
        model.catch_up()
    return loss


@healthy("DQN with a target net", traps=("not_trained", "symmetry", "activation_shift"), above=0.85)
def deep_q() -> Program:
    """The target net is in no optimizer, has no gradient, and moves in jumps: it is a copy of the other."""
    cells, moves = torch.randint(CELLS - 1, (4096,)), torch.randint(ACTIONS, (4096,))
    model = Agent()
    optimizer = torch.optim.Adam(model.online.parameters(), 5e-3)
    every = torch.arange(CELLS - 1)
    test = Split(F.one_hot(every, CELLS).float(), torch.ones_like(every))
    program = Program(model, shuffled(Split(cells, moves), 300), test, optimizer)
    program.update = partial(q_update, steps=itertools.count())
    return program


class ManyTasks(nn.Module):
    """A trunk and three heads: the digit, whether it is even, and a task of former times."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.heads = nn.ModuleDict({"digit": nn.Linear(width, 10), "even": nn.Linear(width, 2)})
        self.heads["former"] = nn.Linear(width, 50)

    def forward(self, x: Tensor, task: str = "digit") -> Tensor:
        return self.heads[task](self.trunk(x))


def taking_turns(model: nn.Module, batch: Batch, tasks: itertools.cycle) -> Tensor:
    """One task a step."""
    task = next(tasks)
    return F.cross_entropy(model(batch.x, task), batch.y if task == "digit" else batch.y % 2)


@healthy("tasks take turns", traps=("not_trained", "vanishing_gradient"), above=0.92)
def many_tasks() -> Program:
    """The head of each task has a gradient at some steps only, and that of a former task never."""
    train, test = digits()
    model = ManyTasks()
    loss = partial(taking_turns, tasks=itertools.cycle(("digit", "digit", "even")))
    return Program(model, shuffled(train, 240), test, torch.optim.Adam(model.parameters(), 3e-3), loss)


class Words(nn.Module):
    """The mean of embedded words, a hidden layer, a topic."""

    def __init__(self, words: int, width: int = 32, topics: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.hidden, self.topic = nn.Linear(width, 32), nn.Linear(32, topics)

    def forward(self, tokens: Tensor) -> Tensor:
        is_word = (tokens > 0).unsqueeze(-1)
        x = (self.embedding(tokens) * is_word).sum(1) / is_word.sum(1)
        return self.topic(F.gelu(self.hidden(x)))


def documents(count: int, words: int, topics: int = 5, length: int = 20) -> Split:
    """Padded lists of words; some frequent ones tell the topic, most of the others hardly ever occur."""
    topic = torch.randint(topics, (count,))
    rank = (words ** torch.rand(count, length)).long().clamp(1, words - 1)
    telling = 1 + topic[:, None] * 8 + torch.randint(8, (count, length))
    tokens = torch.where(torch.rand(count, length) < 0.3, telling, rank)
    kept = torch.randint(8, length + 1, (count, 1))
    return Split(tokens * (torch.arange(length) < kept), topic)


@healthy("words that hardly occur", traps=("not_trained", "symmetry", "vanishing_gradient"), above=0.8)
def rare_words() -> Program:
    """3,000 words by Zipf's law: most rows of the embedding get no gradient in most steps, the padding never."""
    train, test = documents(1500, 3000), documents(400, 3000)
    return adam(Words(3000), train, test, steps=200, lr=5e-3)


class Projected(nn.Module):
    """An encoder and a projection onto the unit sphere."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48))
        self.projector = nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(F.relu(self.encoder(x))), dim=1)


def agreement(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    """Two noisy views of an image must find each other among those of all others."""
    first, second = (model(batch.x + 0.3 * torch.randn_like(batch.x)) for _ in range(2))
    return F.cross_entropy(first @ second.T / temperature, torch.arange(len(first)))


@torch.no_grad()
def like_its_neighbor(model: nn.Module, test: Split) -> float:
    """Share of images whose nearest neighbor in the code is of their class."""
    code = model(test.x)
    nearest = (code @ code.T).fill_diagonal_(-2).argmax(1)
    return float((test.y[nearest] == test.y).double().mean())


@healthy("contrast at a low temperature", traps=("saturation", "exploding_gradient"), above=0.87)
def low_temperature() -> Program:
    """Cosines divided by .07: logits of up to 14 from outputs that all have length 1; no labels."""
    train, test = digits()
    model = Projected()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    loss = partial(agreement, temperature=0.07)
    return Program(model, shuffled(train, 200), test, optimizer, loss, like_its_neighbor)


class Mixture(nn.Module):
    """A router sends each sample to two of six experts."""

    def __init__(self, experts: int = 6, width: int = 24) -> None:
        super().__init__()
        self.stem, self.router = nn.Linear(64, 48), nn.Linear(48, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(48, width), nn.SiLU(), nn.Linear(width, 48)) for _ in range(experts)
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        shares = self.router(x).softmax(1)
        self.balance = len(self.experts) * shares.mean(0).square().sum()
        best, chosen = shares.topk(2, dim=1)
        weights = torch.zeros_like(shares).scatter(1, chosen, best / best.sum(1, keepdim=True))
        mixed = torch.zeros_like(x)
        for place, expert in enumerate(self.experts):
            taken = (weights[:, place] > 0).nonzero().flatten()
            mixed = mixed.index_add(0, taken, weights[taken, place, None] * expert(x[taken]))
        return self.head(x + mixed)


def balanced(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy, and a little for experts that are used unequally."""
    return cross_entropy(model, batch) + 0.05 * model.balance


@healthy("mixture of experts", traps=("dead_units", "not_trained", "bn_small_batch"), above=0.94)
def mixture_of_experts() -> Program:
    """Each expert sees a third of a batch, another third at each step, and sometimes hardly any."""
    train, test = digits()
    model = Mixture()
    return Program(
        model, shuffled(train, 200), test, torch.optim.Adam(model.parameters(), 3e-3), balanced, accuracy
    )


class Averaged(nn.Module):
    """A net and the running average of its weights, which answers in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.student = perceptron(64, 10, 64, nn.ReLU)
        self.teacher = perceptron(64, 10, 64, nn.ReLU).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x) if self.training else self.teacher(x)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """Moves each weight of the average a little towards the present one."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new, 1 - keep)


def averaging_update(program: Program, batch: Batch) -> Tensor:
    """A step of the net, after which the average follows."""
    loss = one_update(program, batch)
    follow(program.model.teacher, program.model.student, keep=0.95)
    return loss


@healthy("average of weights", traps=("not_trained", "symmetry", "activation_shift"), above=0.94)
def averaged_weights() -> Program:
    """A frozen copy follows the net at a twentieth of the way a step; pixels go from 0 to 2."""
    train, test = (rescaled(part, 0.0, 8.0) for part in pixels())
    model = Averaged()
    optimizer = torch.optim.Adam(model.student.parameters(), 3e-3)
    return Program(model, shuffled(train, 200), test, optimizer, update=averaging_update)
