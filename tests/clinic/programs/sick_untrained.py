"""Parts that do not learn: left out, cut off, frozen by accident, or put back after each step."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, Proof, one_update, sick
from ..data import Batch, digits, rows, shuffled
from .networks import pretrained
from .sick_rates import Autoencoder, reconstructed, reconstruction


@sick(
    "optimizer holds the decoder only",
    family="not_trained",
    rule="ND606",
    layers=("encoder", "encoder.fc", "encoder.code"),
    proof=Proof(sick=0.5, twin=0.65),
)
def decoder_only(is_faulty: bool) -> Program:
    """The optimizer of an autoencoder was given ``model.decoder.parameters()``: the code stays random."""
    train, test = digits()
    model = Autoencoder(code=8)
    trained = model.decoder if is_faulty else model
    optimizer = torch.optim.Adam(trained.parameters(), 5e-3)
    return Program(model, shuffled(train, 250), test, optimizer, reconstruction, reconstructed)


class Backbone(nn.Module):
    """Two narrow convolutions and a pooled embedding; features may be cut from the graph."""

    def __init__(self, is_cut: bool) -> None:
        super().__init__()
        self.is_cut = is_cut
        self.backbone = nn.ModuleDict(
            {"conv1": nn.Conv2d(1, 8, 3, padding=1), "conv2": nn.Conv2d(8, 12, 3, padding=1, stride=2)}
        )
        self.neck, self.head = nn.Linear(12 * 4, 32), nn.Linear(32, 10)

    def features(self, x: Tensor) -> Tensor:
        """What the backbone sees."""
        x = F.relu(self.backbone["conv1"](x))
        return F.max_pool2d(F.relu(self.backbone["conv2"](x)), 2).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.is_cut:
            x = x.detach()
        return self.head(F.relu(self.neck(x)))


@sick(
    "features detached",
    family="not_trained",
    rule="ND605",
    layers=("backbone", "backbone.conv1", "backbone.conv2"),
    proof=Proof(sick=0.9, twin=0.94),
)
def detached_features(is_faulty: bool) -> Program:
    """A ``detach()`` once put in to plot the features was never taken out: the backbone stays random."""
    train, test = digits(image=True)
    model = Backbone(is_cut=is_faulty)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    return Program(model, shuffled(train, 200), test, optimizer)


class Adapter(nn.Module):
    """A pretrained layer, a new bottleneck behind it, a new head."""

    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.Tanh())
        self.neck, self.head = nn.Linear(64, rank), nn.Linear(rank, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.neck(self.body(x))))


@sick(
    "new neck frozen with the body",
    family="not_trained",
    rule="ND605",
    layers=("neck",),
    proof=Proof(sick=0.75, twin=0.82),
)
def frozen_neck(is_faulty: bool) -> Program:
    """The loop that freezes the body ran over the whole model; only the head was thawed, not the new neck."""
    train, test = digits()
    model = Adapter()
    pretrained(nn.Sequential(model.body, nn.Linear(64, 10)), train, 60)
    for parameter in model.parameters() if is_faulty else model.body.parameters():
        parameter.requires_grad = False
    for parameter in model.head.parameters():
        parameter.requires_grad = True
    optimizer = torch.optim.Adam([*model.neck.parameters(), *model.head.parameters()], 1e-2)
    return Program(model, shuffled(train, 250), test, optimizer)


class TwoViews(nn.Module):
    """The upper and the lower half of a digit, each with an encoder of its own; one may be without a graph."""

    def __init__(self, is_learning: bool, width: int = 4) -> None:
        super().__init__()
        self.is_learning = is_learning
        self.upper = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, width))
        self.lower = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, width))
        self.fusion, self.head = nn.Linear(2 * width, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.is_learning and torch.is_grad_enabled()):
            upper = self.upper(x[:, :32])
        return self.head(F.relu(self.fusion(torch.cat([upper, self.lower(x[:, 32:])], 1))))


@sick(
    "one branch under no_grad",
    family="not_trained",
    rule="ND605",
    layers=("upper", *(f"upper.{place}" for place in range(3))),
    proof=Proof(sick=0.9, twin=0.93),
)
def branch_without_graph(is_faulty: bool) -> Program:
    """One of two encoders runs under ``no_grad``, left over from when it was a pretrained one."""
    train, test = digits()
    model = TwoViews(is_learning=not is_faulty)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    return Program(model, shuffled(train, 300), test, optimizer)


class Gated(nn.Module):
    """A GRU over rows, a narrow projection of its last output, a classifier."""

    def __init__(self, width: int = 32, narrow: int = 4) -> None:
        super().__init__()
        self.encoder = nn.GRU(8, width, batch_first=True)
        self.project, self.classifier = nn.Linear(width, narrow), nn.Linear(narrow, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.tanh(self.project(self.encoder(x)[0][:, -1])))


@sick(
    "rate of a group rounds to zero",
    family="not_trained",
    rule="ND606",
    layers=("encoder", "project"),
    proof=Proof(sick=0.7, twin=0.85),
)
def rate_of_zero(is_faulty: bool) -> Program:
    """Rates by depth were divided as integers: all groups but the last have a rate of 0."""
    train, test = rows()
    model = Gated()
    parts, groups = (model.encoder, model.project, model.classifier), []
    for place, part in enumerate(parts, start=1):
        share = place // len(parts) if is_faulty else place / len(parts)
        groups.append({"params": part.parameters(), "lr": 2e-2 * share})
    return Program(model, shuffled(train, 250), test, torch.optim.Adam(groups))


def restoring_update(program: Program, batch: Batch, kept: dict[str, Tensor], part: str) -> Tensor:
    """A step, after which a part gets weights that were kept."""
    loss = one_update(program, batch)
    program.model.get_submodule(part).load_state_dict(kept)
    return loss


class Deepened(nn.Module):
    """Pixels to three numbers to classes, through hidden layers with SiLU as a function."""

    def __init__(self, narrow: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"fc": nn.Linear(64, 64), "out": nn.Linear(64, narrow)})
        self.hidden, self.head = nn.Linear(narrow, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder["out"](F.silu(self.encoder["fc"](x)))
        return self.head(F.silu(self.hidden(code)))


@sick(
    "best weights loaded after each step",
    family="not_trained",
    rule="ND606",
    layers=("encoder", "encoder.fc", "encoder.out"),
    twin_follows=("ND606",),
    proof=Proof(sick=0.7, twin=0.85),
)
def overwritten_encoder(is_faulty: bool) -> Program:
    """The encoder gets its "best so far" back after each step, which is what it began with; twin: its own."""
    train, test = digits()
    model = Deepened()
    program = Program(model, shuffled(train, 250), test, torch.optim.Adam(model.parameters(), 5e-3))
    own = model.encoder.state_dict()
    if is_faulty:
        own = {name: value.clone() for name, value in own.items()}
    program.update = partial(restoring_update, kept=own, part="encoder")
    return program
