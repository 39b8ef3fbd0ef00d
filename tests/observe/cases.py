"""Training programs that are hard to replay, one habit each, and what the probe has to make of them."""

from __future__ import annotations

import collections
import itertools
import random
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from . import programs as p
from .programs import classify, network, perceptron

Optimize = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SGD: Optimize = partial(torch.optim.SGD, lr=0.05)

BATCH, FEATURES, CLASSES = 8, 16, 4
STACKED = 2 * BATCH
"""Samples the probe is asked for: two batches, where they can be stacked."""

Step = Callable[..., "Tensor | Iterator[tuple[str, Tensor]]"]
"""``step(model, x, y)``: the loss, or in turn the losses of the model's parts, each with its optimizer."""


@dataclass(frozen=True, eq=False)
class Case:
    """One program.

    Attributes:
        name: For the test's id.
        build: Makes the model.
        step: One training step.
        rows: Samples that are replayed in the end; None where the recorded batch stays whole.
        refused: The code of the refusal.
        pinned: Parts of the paths of state that is held.
        stale: Calls whose input is frozen.
        notes: Parts of what is noted.
        glue: Whether operations between calls may be recorded.
        optimize: Makes an optimizer.
        dtype: Of the inputs.
    """

    name: str
    build: Callable[[], nn.Module]
    step: Step = classify
    rows: int | None = STACKED
    refused: str | None = None
    pinned: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    glue: bool = True
    optimize: Optimize = SGD
    dtype: torch.dtype = torch.float32


CASES = (
    # what is called, and what happens in between
    Case(
        "gan with manual optimization",
        lambda: network(
            generator=nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16)),
            critic=nn.Sequential(nn.Linear(16, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1)),
        ),
        p.adversarial,
    ),
    Case(
        "alternating gan",
        lambda: network(generator=nn.Linear(16, 16), critic=nn.Linear(16, 1), turns=[0]),
        p.alternating,
        rows=BATCH,
    ),
    Case("variational glue", p.bottleneck, p.variational),
    Case("variational without glue", p.bottleneck, p.variational, rows=BATCH, stale=("decoder",), glue=False),
    Case("siamese", p.headed, p.twice),
    Case("methods", p.Halves, lambda m, x, y: F.cross_entropy(m.decode(m.encode(x)), y)),
    Case(
        "batch size baked in between calls",
        p.headed,
        lambda m, x, y: F.cross_entropy(m.head(m.net(x).view(len(x), 4)), y),
        rows=None,
    ),
    Case(
        "forward called directly",
        lambda: network(lambda m, x: m.net(x), net=perceptron(nn.Dropout(0.2))),
        lambda m, x, y: F.cross_entropy(m.forward(x), y),
    ),
    Case(
        "in-place glue",
        lambda: network(net=perceptron(), head=nn.Linear(4, 4), scale=nn.Parameter(torch.ones(4))),
        p.in_place,
    ),
    Case("in-place without glue", p.headed, p.shifted, rows=BATCH, stale=("head",), glue=False),
    Case(
        "views of outputs",
        lambda: network(rnn=nn.LSTM(4, 8, batch_first=True), head=nn.Linear(8, 4)),
        p.views,
    ),
    Case("through numpy", p.headed, p.through_numpy, notes=("leaves torch through numpy()",)),
    Case(
        "autograd function",
        p.headed,
        lambda m, x, y: F.cross_entropy(m.head(p.Double.apply(m.net(x))), y),
    ),
    Case(
        "checkpoint non-reentrant",
        lambda: network(
            lambda m, x: m.last(checkpoint(m.block, x, use_reentrant=False)),
            block=nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Dropout(0.2), nn.ReLU()),
            last=nn.Linear(24, 4),
        ),
    ),
    Case(
        "checkpoint reentrant",
        lambda: network(
            lambda m, x: m.last(checkpoint(m.block, x.requires_grad_(), use_reentrant=True)),
            block=nn.Sequential(nn.Linear(16, 24), nn.Dropout(0.2), nn.ReLU()),
            last=nn.Linear(24, 4),
        ),
    ),
    Case(
        "checkpoint around a call",
        lambda: network(net=perceptron(nn.Dropout(0.2)), head=nn.Linear(4, 4)),
        lambda m, x, y: F.cross_entropy(m.head(checkpoint(m.net, x, use_reentrant=False)), y),
    ),
    Case(
        "parametrized norms",
        lambda: nn.Sequential(
            *(parametrizations.spectral_norm(nn.Linear(16, 24)), nn.ReLU()),
            parametrizations.weight_norm(nn.Linear(24, 4)),
        ),
    ),
    Case(
        "old norms of weights",
        p.old_norms,
        pinned=("weight",),
    ),
    # Python state
    Case("counter", lambda: network(p.counting, layer=nn.Linear(16, 4), count=0), pinned=("count",)),
    Case(
        "containers",
        lambda: network(
            p.collecting, layer=nn.Linear(16, 4), sums=[], numbers={}, recent=collections.deque(maxlen=3)
        ),
        pinned=("sums", "numbers", "recent"),
    ),
    Case(
        "nested cache",
        lambda: network(
            p.caching,
            layer=nn.Linear(16, 4),
            cache=types.SimpleNamespace(layers=[[]], totals=[[torch.zeros(())]], calls=0),
        ),
        rows=None,
        pinned=("cache.layers", "cache.totals", "cache.calls"),
    ),
    Case(
        "iterator attribute",
        lambda: network(
            lambda m, x: m.layer(x) * (1 + 0.01 * next(m.numbers)),
            layer=nn.Linear(16, 4),
            numbers=itertools.count(),
        ),
        refused="unrestorable-state",
    ),
    Case("closure", p.closing_over, pinned=("closure",)),
    Case("closure cell", p.rebinding_closure, pinned=("closure",)),
    Case("module global", p.global_state, pinned=("global COUNTS",)),
    Case("class attribute", p.class_state, pinned=("Counted.calls",)),
    Case("default argument", p.default_state, pinned=("default",)),
    Case("function attribute", p.held_function, pinned=("closure",)),
    Case(
        "slots",
        lambda: network(p.slotted, layer=nn.Linear(16, 4), state=p.Slotted()),
        pinned=("state.calls",),
    ),
    Case(
        "dictionary of classes",
        lambda: network(
            p.choosing, first=nn.Linear(16, 8), last=nn.Linear(8, 4), count=0, choices=p.Classes(relu=nn.ReLU)
        ),
        pinned=("count",),
    ),
    Case(
        "containers of the user's own",
        lambda: network(p.own_containers, layer=nn.Linear(16, 4), memory=p.Memory(), past=p.Past()),
        pinned=("memory", "past"),
    ),
    Case(
        "ordered cache",
        lambda: network(
            p.ordering, layer=nn.Linear(16, 4), cache=collections.OrderedDict(a=1.0, b=2.0, c=3.0)
        ),
    ),
    Case("two names for a list", p.aliased, pinned=("past",)),
    Case("backward in forward", lambda: network(p.backward_inside, layer=nn.Linear(16, 4))),
    Case(
        "own generators",
        lambda: network(
            p.own_generators,
            layer=nn.Linear(16, 4),
            torch_noise=torch.Generator().manual_seed(3),
            coin=random.Random(3),
            numpy_noise=np.random.default_rng(3),
        ),
    ),
    Case("hooks with closures", p.hooked, pinned=("closure",)),
    Case("carried state", p.Carrying, rows=None, pinned=("carried",)),
    Case(
        "carried state as argument",
        lambda: network(rnn=nn.LSTM(4, 8, batch_first=True), head=nn.Linear(8, 4), carried=None),
        p.recurrent_argument,
        rows=BATCH,
    ),
    Case(
        "metric in forward",
        lambda: network(p.metric_inside, layer=nn.Linear(16, 4), mean=torchmetrics.MeanMetric()),
        rows=None,
        pinned=("mean.",),
    ),
    Case(
        "metric in step",
        lambda: network(
            net=perceptron(),
            accuracy=torchmetrics.classification.MulticlassAccuracy(4),
            outputs=torchmetrics.CatMetric(),
        ),
        p.measured,
        notes=("accuracy is a metric",),
    ),
    Case("logging in forward", p.Logging),
    # parameters and buffers that are written
    Case("rebound parameter", lambda: network(p.rebinding, layer=nn.Linear(16, 4))),
    Case("clamped parameter", lambda: network(p.clamping, layer=nn.Linear(16, 4))),
    Case(
        "clamped after the update",
        lambda: network(net=network(p.clamping, layer=nn.Linear(16, 4))),
        lambda m, x, y: iter([("net", classify(m.net, x, y))]),
    ),
    Case("momentum encoder and queue", p.Contrast, rows=None, pinned=("queue", "place")),
    Case("lazy", p.lazy),
    Case("frozen batch norm", p.frozen),
    # chance and choice
    Case("python and numpy randomness", lambda: network(p.tossing, **p.two_layers())),
    Case(
        "randomness in evaluation",
        lambda: network(lambda m, x: m.last(F.dropout(m.left(x), 0.3)), **p.two_layers()),
        rows=None,
    ),
    Case("control flow", lambda: network(p.branching, **p.two_layers())),
    # arguments and outputs
    Case(
        "loss in the output",
        lambda: network(p.with_loss, net=perceptron()),
        lambda m, x, y: m(inputs=x, labels=y)["loss"],
    ),
    Case(
        "iterator as argument",
        lambda: network(lambda m, xs: sum(m.layer(x) for x in xs), layer=nn.Linear(16, 4)),
        lambda m, x, y: F.cross_entropy(m(part for part in (x, x + 1)), y),
        refused="iterator-argument",
    ),
    Case(
        "dataclass as argument",
        lambda: network(lambda m, bundle: m.layer(bundle.x) * bundle.factor, layer=nn.Linear(16, 4)),
        lambda m, x, y: F.cross_entropy(m(p.Bundle(x, 3)), y),
    ),
    Case(
        "packed sequence",
        lambda: network(rnn=nn.GRU(4, 8, batch_first=True), head=nn.Linear(8, 4)),
        p.packed,
        rows=None,
    ),
    Case(
        "input written in place",
        lambda: network(lambda m, x: m.layer(x.clamp_(-1, 1).add_(0.1)), layer=nn.Linear(16, 4)),
    ),
    Case(
        "autograd in forward",
        lambda: network(p.differentiating, layer=nn.Linear(16, 4), mix=nn.Parameter(torch.randn(16, 4))),
    ),
    # axes
    Case(
        "time first inside",
        lambda: network(p.transposing, rnn=nn.GRU(4, 8), head=nn.Linear(8, 4)),
    ),
    Case("time first outside", lambda: network(rnn=nn.GRU(4, 8), head=nn.Linear(8, 4)), p.time_first),
    Case(
        "square mask",
        lambda: network(block=nn.TransformerEncoderLayer(2, 1, 4, batch_first=True), head=nn.Linear(2, 4)),
        p.square_mask,
    ),
    # layers that mix samples
    Case(
        "batch norm without running statistics",
        lambda: perceptron(nn.BatchNorm1d(24, track_running_stats=False)),
        rows=None,
    ),
    Case("routed experts", p.experts),
    Case(
        "experts of limited capacity",
        lambda: network(
            p.limited,
            first=nn.Linear(16, 8),
            gate=nn.Linear(8, 1),
            expert=nn.Linear(8, 8),
            last=nn.Linear(8, 4),
        ),
        rows=None,
    ),
    Case(
        "mean over the batch",
        lambda: network(lambda m, x: m.last(m.left(x) + m.left(x).mean(0)), **p.two_layers()),
        rows=None,
    ),
    Case(
        "graph",
        lambda: network(
            lambda m, x, e: m.last(F.relu(m.left(x).index_add(0, e[0], m.left(x)[e[1]]))), **p.two_layers()
        ),
        p.ring,
        rows=None,
    ),
    # kinds of modules, and of training
    Case("scripted", lambda: network(lambda m, x: m.net(x), net=p.scripted(perceptron(nn.Dropout(0.2))))),
    Case(
        "scripted child",
        lambda: nn.Sequential(p.scripted(nn.Sequential(nn.Linear(16, 24), nn.ReLU())), nn.Linear(24, 4)),
    ),
    Case(
        "functional calls",
        lambda: network(net=perceptron(), other=perceptron()),
        p.functional_calls,
        notes=("functorch",),
    ),
    Case(
        "unregistered module",
        p.unregistered,
        lambda m, x, y: F.cross_entropy(m.last(m.hidden[0](x)), y),
    ),
    Case(
        "loss module and teacher",
        lambda: network(
            net=perceptron(), teacher=perceptron().requires_grad_(False), criterion=nn.CrossEntropyLoss()
        ),
        p.distilled,
    ),
    Case("bfloat16", lambda: perceptron(nn.Dropout(0.2)).bfloat16(), dtype=torch.bfloat16),
    Case(
        "lbfgs",
        lambda: perceptron(nn.Dropout(0.2)),
        optimize=partial(torch.optim.LBFGS, max_iter=3),
    ),
)

BY_NAME = {case.name: case for case in CASES}
