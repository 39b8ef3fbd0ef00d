"""Units, heads, experts and embeddings that begin as copies and stay so."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from ..case import Program, Proof, r_squared, sick
from ..data import Batch, Split, cipher, digits, pictures, ratings, shuffled, text
from .healthy_traps import next_letter
from .networks import pretrained
from .sequence_networks import LanguageModel
from .unit_networks import Autoencoder, PoolingAttention, Reader, Vgg, vgg_names


def fill(module: nn.Module, value: float) -> None:
    """Sets every parameter of a module to one value."""
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)


def classifies(
    model: nn.Module, data: tuple[Split, Split], optimizer: Optimizer, steps: int = 200
) -> Program:
    """Cross entropy, shuffled batches."""
    return Program(model, shuffled(data[0], steps), data[1], optimizer)


def letters_out(
    model: nn.Module, data: tuple[Split, Split], optimizer: Optimizer, steps: int = 200
) -> Program:
    """Cross entropy at every place, batches of 32."""
    return Program(model, shuffled(data[0], steps, size=32), data[1], optimizer, next_letter)


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """The usual loss of a regression."""
    return F.mse_loss(model(batch.x).squeeze(-1), batch.y)


def regresses(model: nn.Module, data: tuple[Split, Split], optimizer: Optimizer, steps: int = 200) -> Program:
    """Squared error, shuffled batches, R2."""
    return Program(model, shuffled(data[0], steps), data[1], optimizer, squared_error, r_squared)


@sick(
    "VGG filled with a constant",
    family="symmetry",
    rule="ND301",
    layers=vgg_names(2, "conv1", "conv2"),
    proof=Proof(sick=0.65, twin=0.9),
)
def constant_vgg(is_faulty: bool) -> Program:
    """An init function sets all weights to .03 and all biases to 0, the classifier's too: one channel each."""
    model = Vgg()
    if is_faulty:
        for layer in (*model.convs, model.head):
            nn.init.constant_(layer.weight, 0.03)
            nn.init.zeros_(layer.bias)
    return classifies(model, digits(image=True), Adam(model.parameters(), 3e-3))


@sick(
    "LSTM filled with a constant",
    family="symmetry",
    rule="ND301",
    layers=("rnn",),
    proof=Proof(sick=0.5, twin=0.72),
)
def constant_lstm(is_faulty: bool) -> Program:
    """All parameters of a language model but its embedding are .1: its 32 cells are one."""
    model = LanguageModel(nn.LSTM)
    if is_faulty:
        fill(model.rnn, 0.1)
        fill(model.decoder, 0.1)
    return letters_out(model, text(length=12), Adam(model.parameters(), 1e-2))


class Widened(nn.Module):
    """A small convolutional classifier whose inner widths can grow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(1, width, 3, stride=2, padding=1),
                "conv2": nn.Conv2d(width, width, 3, stride=2, padding=1),
            }
        )
        self.classifier = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.features["conv1"](x))
        return self.classifier(F.leaky_relu(self.features["conv2"](x)).flatten(1))


@torch.no_grad()
def net2wider(small: Widened, times: int) -> Widened:
    """The same function with more channels: each is copied, and what it sends on is divided."""
    width = small.classifier.in_features // 4
    large, pick = Widened(width * times), torch.arange(width * times) % width
    for name, inputs in (("conv1", torch.arange(1)), ("conv2", pick)):
        old, new = small.features[name], large.features[name]
        new.weight.copy_(old.weight[pick][:, inputs] / (times if name == "conv2" else 1))
        new.bias.copy_(old.bias[pick])
    weight = small.classifier.weight.view(10, width, 4)[:, pick] / times
    large.classifier.weight.copy_(weight.flatten(1))
    return large


@sick(
    "Net2Net without noise",
    family="symmetry",
    rule="ND301",
    layers=("features", "features.conv1", "features.conv2"),
    proof=Proof(sick=0.9, twin=0.92),
)
def widened_without_noise(is_faulty: bool) -> Program:
    """Two channels became twelve by copying; without noise, twelve they are in name only."""
    train, test = digits(image=True)
    model = net2wider(pretrained(Widened(2), train, 60), times=6)
    if not is_faulty:
        for layer in model.features.values():
            layer.weight.data += 0.1 * torch.randn_like(layer.weight)
    return classifies(model, (train, test), SGD(model.parameters(), 0.1, momentum=0.9), steps=250)


@sick(
    "all heads copied from one",
    family="symmetry",
    rule="ND301",
    layers=("pool", "pool.out_proj"),
    proof=Proof(sick=0.83, twin=0.86),
)
def copied_heads(is_faulty: bool) -> Program:
    """A pooling by attention takes its four heads from a model with one: all look at the same patches."""
    model = PoolingAttention()
    nn.init.normal_(model.pool.in_proj_bias, std=0.1)
    if is_faulty:
        heads = model.pool.in_proj_weight.data.view(3, 4, 4, 16)
        heads[:] = heads[:, :1].clone()
        biases = model.pool.in_proj_bias.data.view(3, 4, 4)
        biases[:] = biases[:, :1].clone()
        out = model.pool.out_proj.weight.data.view(16, 4, 4)
        out[:] = out[:, :1].clone()
    return classifies(model, digits(image=True), AdamW(model.parameters(), 1e-2), steps=250)


@sick(
    "feed-forward filled with a constant",
    family="symmetry",
    rule="ND301",
    layers=("layers.0.ffn", "layers.0.ffn.up"),
    proof=Proof(sick=0.6, twin=0.9),
)
def constant_feed_forward(is_faulty: bool) -> Program:
    """A transformer reads a cipher whose key changes with place; its 128 hidden units begin at .02."""
    model = Reader(16, letters=24, width=16, hidden=128)
    if is_faulty:
        fill(model.layers[0].ffn, 0.02)
    return letters_out(model, cipher(), AdamW(model.parameters(), 1e-2))


class Factors(nn.Module):
    """A recommender: users and items as vectors, the product is the rating."""

    def __init__(self, users: int = 60, items: int = 40, width: int = 8) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        nn.init.normal_(self.users.weight, std=0.3)
        nn.init.normal_(self.items.weight, std=0.3)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(1)


@sick(
    "recommender with constant embeddings",
    family="symmetry",
    rule="ND301",
    layers=("users", "items"),
    proof=Proof(sick=0.5, twin=0.85),
)
def constant_embeddings(is_faulty: bool) -> Program:
    """All vectors begin at .1: their eight columns stay one, and the model knows a single taste."""
    model = Factors()
    if is_faulty:
        fill(model, 0.1)
    return regresses(model, ratings(), Adam(model.parameters(), 3e-2), steps=300)


@sick(
    "autoencoder with constant encoder",
    family="symmetry",
    rule="ND301",
    layers=("encoder.0", "encoder.1"),
    proof=Proof(sick=0.6, twin=0.7),
)
def constant_encoder(is_faulty: bool) -> Program:
    """The encoder begins at .02, the decoder at random: the 32 hidden units of the encoder stay copies."""
    model = Autoencoder()
    if is_faulty:
        fill(model.encoder, 0.02)
    return regresses(model, pictures(), RMSprop(model.parameters(), 3e-3), steps=250)


class Experts(nn.Module):
    """A mixture: a router weighs experts, all of which see every sample."""

    def __init__(self, experts: int = 4, hidden: int = 3) -> None:
        super().__init__()
        self.router = nn.Linear(64, experts)
        nn.init.zeros_(self.router.weight)
        nn.init.zeros_(self.router.bias)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(64, hidden), nn.SiLU(), nn.Linear(hidden, 10)) for _ in range(experts)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return torch.stack([expert(x) for expert in self.experts], -1) @ weights.unsqueeze(-1)


class Mixture(nn.Module):
    """A mixture that answers with one score a class."""

    def __init__(self) -> None:
        super().__init__()
        self.moe = Experts()

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(x).squeeze(-1)


@sick(
    "experts copied from one",
    family="symmetry",
    rule="ND301",
    layers=("moe", "moe.router", "moe.experts", *(f"moe.experts.{place}" for place in range(4))),
    proof=Proof(sick=0.85, twin=0.9),
)
def upcycled_experts(is_faulty: bool) -> Program:
    """Four experts are made from one ("upcycling") under a router at zero: they can never differ."""
    model = Mixture()
    if is_faulty:
        for expert in model.moe.experts:
            expert.load_state_dict(copy.deepcopy(model.moe.experts[0].state_dict()))
    return classifies(model, digits(), Adam(model.parameters(), 5e-3), steps=250)
