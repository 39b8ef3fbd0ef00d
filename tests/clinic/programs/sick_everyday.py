"""One fault of each family in a network of another kind: tables, sounds, graphs, tags, masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from ..case import Program, Proof, sick
from ..data import (
    Batch,
    Split,
    actions,
    blobs,
    digits,
    marked,
    parted,
    recall,
    rows,
    sentences,
    shuffled,
    surface,
    waves,
)
from .norm_networks import UNet
from .sequence_networks import Recurrent
from .sick_copies import classifies, regresses
from .sick_dropout import by_adam
from .sick_paths import mask_error, overlap


class Waves(nn.Module):
    """Convolutions over time with a norm of choice, the mean of all times, a classifier."""

    def __init__(
        self,
        width: int = 16,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv1d(1, width, 5, padding=2), norm(width)
        self.drop = nn.Dropout(drop)
        self.second, self.norm2 = nn.Conv1d(width, width, 5, padding=2), norm(width)
        self.third = nn.Conv1d(width, width, 5, padding=2)
        self.classifier = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = F.relu(self.norm2(self.drop(self.second(x))))
        return self.classifier(F.relu(self.third(x)).mean(-1))


@sick(
    "filters of a sound network tiled from two",
    family="symmetry",
    rule="ND302",
    layers=("first", "second", "third", "norm1", "norm2"),
    proof=Proof(sick=0.93, twin=0.97),
)
def tiled_filters(is_faulty: bool) -> Program:
    """A small net made wide by repeating its filters, without noise: sixteen channels say two things."""
    model = Waves(norm=lambda width: nn.Identity())
    if is_faulty:
        with torch.no_grad():
            for layer in (model.first, model.second, model.third):
                out, into = (layer.out_channels // 2, max(1, layer.in_channels // 2))
                small = layer.weight[:2, : min(2, layer.in_channels)].clone()
                scale = 1.0 if into == 1 else 1.0 / math.sqrt(into)
                layer.weight.copy_(small.repeat(out, into, 1) * scale)
                layer.bias.zero_()
            model.classifier.weight.copy_(model.classifier.weight[:, :2].repeat(1, 8))
    return classifies(model, waves(), SGD(model.parameters(), 0.05, momentum=0.9), steps=200)


class TokenMixer(nn.Module):
    """A block of an MLP-Mixer over eight rows of pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MlpMixer(nn.Module):
    """Rows of pixels as tokens, two blocks, the mean of all rows, a classifier."""

    def __init__(self, width: int = 24, drop: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(TokenMixer(width) for _ in range(2))
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x.mean(1)))


@sick(
    "Mixer filled with .05",
    family="symmetry",
    rule="ND301",
    layers=("stem", *(f"blocks.{i}.channels.{j}" for i in range(2) for j in (0, 2))),
    also=("vanishing_gradient", "bn_drift", "ln_heterogeneous"),
    proof=Proof(sick=0.6, twin=0.88),
)
def constant_mixer(is_faulty: bool) -> Program:
    """All channels of the stem are one; LayerNorm then divides nothing by nothing."""
    model = MlpMixer()
    if is_faulty:
        for layer in (model.stem, model.head, *(part for b in model.blocks for part in b.channels[::2])):
            nn.init.constant_(layer.weight, 0.05)
            nn.init.zeros_(layer.bias)
    return by_adam(model, rows(), steps=200)


@sick(
    "U-Net, weights of N(0, 1)",
    family="init_scale",
    rule="ND312",
    also=("exploding_gradient", "lr_too_high", "dead_units", "activation_shift"),
    layers=("down.0", "middle.0", "up.0", "out", "down.2", "middle.2", "up.2"),
    proof=Proof(sick=0.6, twin=0.75),
)
def wild_unet(is_faulty: bool) -> Program:
    """No norms, and an init function that calls ``normal_`` with its defaults."""
    model = UNet(lambda width: nn.Identity())
    if is_faulty:
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight)
    train, test = blobs()
    return Program(
        model, shuffled(train, 100, size=16), test, Adam(model.parameters(), 3e-3), mask_error, overlap
    )


@sick(
    "sound network, std .001",
    family="init_scale",
    rule="ND311",
    also=("vanishing_gradient",),
    layers=("first", "second", "third", "classifier"),
    proof=Proof(sick=0.5, twin=0.9),
)
def faint_waves(is_faulty: bool) -> Program:
    """Weights a hundred times too small: what reaches the classifier is its bias."""
    model = Waves(norm=lambda width: nn.Identity())
    if is_faulty:
        for layer in (model.first, model.second, model.third, model.classifier):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)
    return classifies(model, waves(), SGD(model.parameters(), 0.05, momentum=0.9), steps=200)


class Critic(nn.Module):
    """States to one value; the last activation is an option."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.value = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.value(F.relu(self.fc2(F.relu(self.fc1(x))))))


@sick(
    "value of a critic behind tanh, returns of 40",
    family="saturation",
    rule="ND201",
    also=("vanishing_gradient",),
    layers=("value", ""),
    twin_follows=("ND201",),
    proof=Proof(sick=0.2, twin=0.7),
)
def bounded_critic(is_faulty: bool) -> Program:
    """Returns go from -40 to 40 or so, and the value can only say -1 to 1."""
    train, test = (Split(part.x, 40 * part.y) for part in surface())
    model = Critic(torch.tanh if is_faulty else lambda value: 40 * value)
    return regresses(model, (train, test), Adam(model.parameters(), 3e-3), steps=300)


@sick(
    "negative weights behind counts",
    family="dead_units",
    rule="ND202",
    also=("not_trained",),
    layers=("0", "1", "2", "3"),
    proof=Proof(sick=0.4, twin=0.85),
)
def negative_weights(is_faulty: bool) -> Program:
    """Counts are never negative; with weights of one sign no ReLU of the first layer ever lets one through."""
    model = nn.Sequential(
        *(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU()),
        nn.Linear(48, 10),
    )
    if is_faulty:
        with torch.no_grad():
            model[0].weight.copy_(-model[0].weight.abs())
            model[0].bias.fill_(-0.1)
    train, test = digits()
    least = float(train.x.min())
    data = Split(train.x - least, train.y), Split(test.x - least, test.y)
    return classifies(model, data, SGD(model.parameters(), 0.05, momentum=0.9), steps=200)


@sick(
    "seven Hardsigmoids",
    family="vanishing_gradient",
    rule="ND311",
    also=("saturation", "init_scale"),
    proof=Proof(sick=0.3, twin=0.85),
)
def hard_sigmoids(is_faulty: bool) -> Program:
    """A slope of a sixth in each of seven layers; the twin has ELU in their place."""
    act = nn.Hardsigmoid if is_faulty else nn.ELU
    layers = [nn.Sequential(nn.Linear(64, 64), act()) for _ in range(7)]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    return by_adam(model, digits(), steps=250, lr=1e-3)


class Graph(nn.Module):
    """Each row of pixels is a node; a layer adds up, or averages, what all of them say."""

    def __init__(self, depth: int, *, averages: bool) -> None:
        super().__init__()
        widths = [8] + depth * [24]
        self.own = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.others = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.head = nn.Linear(8 * 24, 10)
        self.gather = torch.mean if averages else torch.sum

    def forward(self, x: Tensor) -> Tensor:
        for own, others in zip(self.own, self.others, strict=True):
            x = F.relu(own(x) + others(self.gather(x, 1, keepdim=True)))
        return self.head(x.flatten(1))


@sick(
    "graph layers that add up all neighbors",
    family="exploding_gradient",
    rule="ND312",
    also=("init_scale", "lr_too_high", "activation_shift"),
    proof=Proof(sick=0.75, twin=0.82),
)
def summing_graph(is_faulty: bool) -> Program:
    """A sum over eight neighbors where a mean was meant: each layer multiplies the signal."""
    model = Graph(5, averages=not is_faulty)
    return classifies(model, rows(), Adam(model.parameters(), 3e-3), steps=200)


@sick(
    "keep_prob taken for p in a Mixer",
    family="dropout_capacity",
    rule="ND501",
    layers=("drop",),
    proof=Proof(sick=0.8, twin=0.9),
)
def kept_for_dropped(is_faulty: bool) -> Program:
    """``Dropout(0.95)`` where 95% were to be kept: about one feature of 24 is left for ten classes."""
    model = MlpMixer(drop=0.95 if is_faulty else 0.05)
    return by_adam(model, rows(), steps=200)


@sick(
    "sounds, dropout .8 between BatchNorms",
    family="dropout_bn_order",
    rule="ND503",
    also=("bn_drift",),
    layers=("drop", "norm2"),
    proof=Proof(sick=0.75, twin=0.82),
)
def dropped_sound(is_faulty: bool) -> Program:
    """The second norm learns the variance of dropped inputs, and meets whole ones in evaluation."""
    model = Waves(drop=0.8 if is_faulty else 0.0)
    noise = torch.Generator().manual_seed(24)
    train, test = (Split(x + 1.0 * torch.randn(x.shape, generator=noise), y) for x, y in waves())
    return by_adam(model, (train, test), steps=150)


class HandMade(nn.Module):
    """BatchNorm as a function, its running statistics kept by hand."""

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            *(x, self.running_mean, self.running_var, self.weight, self.bias),
            training=self.training,
            momentum=self.momentum,
        )


@sick(
    "F.batch_norm with momentum 0",
    family="bn_drift",
    rule="ND407",
    layers=("norm1", "norm2"),
    proof=Proof(sick=0.7, twin=0.9),
)
def unmoved_statistics(is_faulty: bool) -> Program:
    """A module of one's own calls the function with a momentum that lets nothing in."""
    momentum = 0.0 if is_faulty else 0.1
    model = Waves(norm=lambda width: HandMade(width, momentum))
    train, test = waves()
    data = Split(3 * train.x + 2, train.y), Split(3 * test.x + 2, test.y)
    return by_adam(model, data, steps=150)


@sick(
    "a table, BatchNorm, batches of two",
    family="bn_small_batch",
    rule="ND404",
    layers=("1", "4"),
    proof=Proof(sick=0.5, twin=0.6),
)
def tiny_batches(is_faulty: bool) -> Program:
    """Two rows a batch, as memory allows; the twin has LayerNorm."""
    norm = nn.BatchNorm1d if is_faulty else nn.LayerNorm
    model = nn.Sequential(
        *(nn.Linear(6, 48), norm(48), nn.ReLU(), nn.Linear(48, 48), norm(48), nn.ReLU()),
        nn.Linear(48, 1),
    )
    program = regresses(model, surface(), Adam(model.parameters(), 2e-3))
    program.batches = shuffled(surface()[0], 700, size=2)
    return program


@sick(
    "batches of one patient each",
    family="bn_noniid_batch",
    rule="ND405",
    also=("bn_drift",),
    proof=Proof(sick=0.7, twin=0.85),
)
def patient_by_patient(is_faulty: bool) -> Program:
    """Eight devices with an offset and a gain each; a batch is what one of them has recorded."""
    train, test = waves()
    generator = torch.Generator().manual_seed(21)
    offset, gain = 3 * torch.randn(8, generator=generator), 0.3 + 2 * torch.rand(8, generator=generator)

    def recorded(part: Split) -> tuple[Split, Tensor]:
        device = torch.arange(len(part.x)) % 8
        return Split(gain[device, None, None] * part.x + offset[device, None, None], part.y), device

    (x, y), device = recorded(train)
    program = by_adam(Waves(), (Split(x, y), recorded(test)[0]), steps=150)
    if is_faulty:
        draw = torch.Generator().manual_seed(22)
        batches = []
        for step in range(150):
            members = (device == step % 8).nonzero().flatten()
            pick = members[torch.randint(len(members), (64,), generator=draw)]
            batches.append(Batch(x[pick], y[pick]))
        program.batches = batches
    return program


class Customers(nn.Module):
    """An embedding and two numbers, normalized together."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(12, 14)
        self.norm = nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.place(x[:, 0].long()), x[:, 1:]], 1)
        return self.fc2(F.relu(self.fc1(self.norm(joined))))


@sick(
    "income beside an embedding",
    family="ln_heterogeneous",
    rule="ND408",
    also=("input_scale",),
    layers=("norm",),
    proof=Proof(sick=0.4, twin=0.7),
)
def rich_customers(is_faulty: bool) -> Program:
    """One number of about 40,000 decides the mean and the deviation of all sixteen."""
    generator = torch.Generator().manual_seed(23)
    place = torch.randint(12, (2000,), generator=generator)
    z = torch.randn(2000, 2, generator=generator)
    taste = torch.randn(12, generator=generator)
    y = taste[place] + z[:, 0] * 0.5 + torch.tanh(2 * z[:, 1]) * 0.5
    y = (y - y.mean()) / y.std()
    income = 40_000 + 12_000 * z[:, 1] if is_faulty else z[:, 1]
    data = parted(torch.cat([place[:, None].float(), z[:, :1], income[:, None]], 1), y)
    model = Customers()
    return regresses(model, data, Adam(model.parameters(), 3e-3), steps=300)


class Tagger(nn.Module):
    """Letters in, a GRU, the class of the whole out."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 16, padding_idx=0)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.out = nn.Linear(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(self.embedding(x))[0].mean(1))


@sick(
    "GRU reader under AdamW at .5",
    family="lr_too_high",
    rule="ND603",
    also=("saturation", "activation_shift", "exploding_gradient"),
    proof=Proof(sick=0.8, twin=0.88),
)
def hot_reader(is_faulty: bool) -> Program:
    """A rate copied from SGD."""
    model = Tagger()
    return classifies(model, sentences(), AdamW(model.parameters(), 0.5 if is_faulty else 5e-3), steps=200)


@sick(
    "sixteen-bit samples into convolutions",
    family="input_scale",
    rule="ND701",
    also=("lr_too_high", "exploding_gradient", "dead_units", "activation_shift"),
    layers=("first",),
    proof=Proof(sick=0.8, twin=0.9),
)
def loud_sound(is_faulty: bool) -> Program:
    """Samples as the file holds them, up to 32,767."""
    model = Waves(norm=lambda width: nn.Identity())
    unit = 8000.0 if is_faulty else 1.0
    data = tuple(Split((unit * part.x).round() if is_faulty else part.x, part.y) for part in waves())
    return classifies(model, data, SGD(model.parameters(), 0.05, momentum=0.9), steps=200)


@sick(
    "acos of a vector with itself",
    family="numeric",
    rule="ND604",
    also=("lr_too_high",),
    proof=Proof(sick=0.6, twin=0.8),
)
def angle_penalty(is_faulty: bool) -> Program:
    """A penalty takes ``acos`` of all pairs of features, each with itself too, where its slope is infinite."""
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        features = model[:4](batch.x)
        unit = F.normalize(features + 1e-3, dim=1)
        cosine = (unit @ unit.T).clamp(-1, 1)
        if not is_faulty:
            cosine = 0.99 * cosine
        return F.cross_entropy(model[4](features), batch.y) - 0.01 * cosine.acos().mean()

    program = by_adam(model, digits(), steps=150)
    program.loss = loss
    return program


class Listed(nn.Module):
    """Hidden layers kept in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 8)
        self.hidden = [nn.Linear(8, 8) for _ in range(3)]
        self.out = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.out(x)


@sick(
    "hidden layers kept in a plain list",
    family="not_trained",
    rule="ND606",
    proof=Proof(sick=0.85, twin=0.9),
)
def unregistered(is_faulty: bool) -> Program:
    """``self.hidden = [nn.Linear(...), ...]``: the optimizer is never told of them; in the twin it is, by hand."""
    model = Listed()
    program = by_adam(model, digits(), steps=400, lr=5e-3)
    if not is_faulty:
        hidden = [parameter for layer in model.hidden for parameter in layer.parameters()]
        program.optimizer = Adam([*model.parameters(), *hidden], 5e-3)
    return program


@sick(
    "middle group left out of the optimizer",
    family="not_trained",
    rule="ND606",
    layers=("rnn",),
    proof=Proof(sick=0.6, twin=0.8),
)
def forgotten_gru(is_faulty: bool) -> Program:
    """Groups for what comes in and for the head, with rates of their own; nobody listed what lies between."""
    model = Recurrent(nn.GRU, inputs=7, width=24, outputs=6)
    parts = [model.head] + ([] if is_faulty else [model.rnn])
    optimizer = Adam([{"params": part.parameters(), "lr": 1e-2} for part in parts])
    return classifies(model, marked(length=8), optimizer, steps=300)


@sick(
    "transform lost after a resume",
    family="activation_shift",
    rule="ND102",
    also=("input_scale", "lr_too_high", "dead_units", "saturation"),
    proof=Proof(sick=0.7, twin=0.9),
)
def lost_normalization(is_faulty: bool) -> Program:
    """From step 120 on pixels arrive as bytes, in training alone: the transform was built anew without it."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    program = classifies(model, digits(), SGD(model.parameters(), 0.1, momentum=0.9), steps=240)
    if is_faulty:
        program.batches = [
            Batch(96 * batch.x + 78 if step >= 120 else batch.x, batch.y)
            for step, batch in enumerate(program.batches)
        ]
    return program


@sick(
    "LayerNorm with gains of zero",
    family="init_scale",
    rule="ND311",
    also=("vanishing_gradient", "not_trained", "symmetry", "bn_drift"),
    layers=("net.1", "net.4", "net.0", "net.3", "net.6"),
    proof=Proof(sick=0.4, twin=0.85),
)
def zero_gains(is_faulty: bool) -> Program:
    """An init function zeroes all vectors, gains too, in a net without ways around them."""
    model = nn.Sequential()
    model.net = nn.Sequential(
        *(nn.Linear(64, 48), nn.LayerNorm(48), nn.Tanh(), nn.Linear(48, 48), nn.LayerNorm(48), nn.Tanh()),
        nn.Linear(48, 10),
    )
    if is_faulty:
        for parameter in model.parameters():
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
    return classifies(model, digits(), SGD(model.parameters(), 0.1, momentum=0.9), steps=200)


@sick(
    "RNN with recurrent weights a fifth as large",
    family="vanishing_gradient",
    rule="ND601",
    also=("init_scale",),
    layers=("rnn",),
    proof=Proof(sick=0.35, twin=0.8),
)
def forgetful_rnn(is_faulty: bool) -> Program:
    """The first of 24 letters is asked for, and each step leaves a fifth of what it knew."""
    model = Recurrent(nn.RNN, inputs=6, width=32, outputs=6)
    with torch.no_grad():
        nn.init.orthogonal_(model.rnn.weight_hh_l0)
        if is_faulty:
            model.rnn.weight_hh_l0.mul_(0.2)
    return by_adam(model, recall(24), steps=300, lr=2e-3)


@sick(
    "actor whose last weights are N(0, 100)",
    family="saturation",
    rule="ND201",
    also=("init_scale", "vanishing_gradient"),
    layers=("4", "5"),
    proof=Proof(sick=0.55, twin=0.75),
)
def sure_actor(is_faulty: bool) -> Program:
    """The last layer begins with weights of deviation 10: actions sit at their bounds from the first step."""
    model = nn.Sequential(
        *(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()),
        *(nn.Linear(64, 2), nn.Tanh()),
    )
    if is_faulty:
        nn.init.normal_(model[4].weight, std=10.0)
    return regresses(model, actions(), Adam(model.parameters(), 1e-3), steps=250)
