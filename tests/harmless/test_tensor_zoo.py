"""Whatever a layer is given, returns or holds: the training is the same to the bit, and every layer accounted for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harmless.kinds import CONTAINERS, DTYPES, KINDS, OTHERS, Make, quiet
from harmless.training import Run, differing, trained
from nndiag.observe import schedule

NOT_FOR_ALL = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, IndexError)
"""What torch's functions raise when they are given what they cannot take."""

ATTRIBUTES = ("list", "dict", "model output", "circular", "opaque object", "generator", "random generator")
HELD = (*(kind for kind in KINDS if kind not in {**CONTAINERS, **OTHERS}), *ATTRIBUTES)
"""Tensors as parameters and buffers too; of the rest, what a sandbox treats in different ways."""

ALIKE = frozenset(DTYPES) - {"float16", "bfloat16", "complex64", "bool", "int64", "float8_e4m3fn", "qint8"}
ALIKE |= {
    "sparse csc",
    "sparse bsr",
    "channels last 3d",
    "every second",
    "nan",
    "infinite",
    "denormal",
    "alias",
}
ALIKE |= {
    "ordered dict",
    "mapping subclass",
    "dataclass",
    "namespace",
    "ragged packed sequence",
    "bytes",
    "shape",
}
"""Kinds that are treated as another one is, away from a layer's output."""


def most(kinds: Iterable[str]) -> list[Any]:
    """Parameters of a test; what is alike is for long runs."""
    return [pytest.param(k, marks=pytest.mark.slow) if k in ALIKE else k for k in kinds]


FUNCTIONS = (torch.relu, F.dropout, lambda x: F.layer_norm(x, (4,)), lambda x: F.linear(x, torch.eye(4)))


class Passing:
    """Gives back what it is given."""

    def forward(self, value: Any, *rest: Any) -> Any:
        return value


class PassingLinear(Passing, nn.Linear):
    """A layer with weights."""


class PassingReLU(Passing, nn.ReLU):
    """An activation."""


class PassingLayerNorm(Passing, nn.LayerNorm):
    """A normalization of samples."""


class PassingBatchNorm(Passing, nn.BatchNorm1d):
    """A normalization of batches."""


class PassingDropout(Passing, nn.Dropout):
    """A dropout."""


class PassingGRU(Passing, nn.GRU):
    """A recurrent layer."""


class PassingAttention(Passing, nn.MultiheadAttention):
    """An attention layer."""


def every_role() -> nn.ModuleDict:
    """One layer of each role, none of which touches what it is given."""
    return nn.ModuleDict(
        {
            "linear": PassingLinear(4, 4),
            "relu": PassingReLU(),
            "layer_norm": PassingLayerNorm(4),
            "batch_norm": PassingBatchNorm(4),
            "dropout": PassingDropout(),
            "gru": PassingGRU(4, 4),
            "attention": PassingAttention(4, 2),
        }
    )


def weight_of(value: Any) -> Tensor | float:
    """A part in the loss for what carries a gradient, so that gradients of its kind flow back through it."""
    if not isinstance(value, Tensor) or not value.requires_grad or value.is_leaf:
        return 0.0
    if hasattr(value, "to_local"):
        value = value.to_local()
    if value.is_nested:
        value = torch.cat([part.reshape(-1) for part in value.unbind()])
    dense = value.to_dense() if value.layout != torch.strided else value
    size = dense.abs() if dense.is_complex() else dense
    return size.float().as_subclass(Tensor).nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1).sum()


class Inner(nn.Module):
    """Layers of every role that pass the odd value on, beside an ordinary network that learns.

    Args:
        make: Makes the odd value of a layer's output; None: the network is called with it.
    """

    def __init__(self, make: Make | None = None) -> None:
        super().__init__()
        self.make = make
        self.trunk, self.roles = nn.Linear(4, 4), every_role()
        self.norm, self.act, self.head = nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor, odd: Any = None) -> Tensor:
        hidden = self.trunk(x)
        if self.make is not None:
            with quiet():
                odd = self.make(hidden)
        for name, layer in self.roles.items():
            odd = layer(odd, odd, odd) if name == "attention" else layer(odd)
        for function in FUNCTIONS if self.make is not None else ():
            with contextlib.suppress(*NOT_FOR_ALL), quiet():
                function(odd)
        with quiet():
            part = weight_of(odd)
            if hasattr(odd, "__next__"):  # whoever looked into it before would have used it up
                part = sum(row.sum() for row in odd)
        return self.head(self.act(self.norm(hidden))).square().mean() + 0.01 * part


class Holding(nn.Module):
    """Holds the odd value as parameters, buffers and an attribute of layers that have it for their own.

    Args:
        make: Makes the value.
        trainable: Whether parameters ask for a gradient, and are stepped.
    """

    def __init__(self, make: Make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.roles = nn.Linear(4, 4), every_role()
        self.head = nn.Linear(4, 3)
        with quiet():
            self._hold(make(torch.randn(8, 4)))

    def _hold(self, value: Any) -> None:
        self.held = value
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            del self.held
            value = value.detach()
            for name, layer in self.roles.items():
                layer.register_buffer(f"odd_{name}", value)
                for key in [k for k, p in layer._parameters.items() if p is not None]:
                    with contextlib.suppress(*NOT_FOR_ALL):
                        layer._parameters[key] = nn.Parameter(value, requires_grad=False)
            norm = self.roles["batch_norm"]
            norm._buffers["running_mean"] = norm._buffers["running_var"] = value

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.trunk(x)
        for layer in self.roles.values():
            hidden = layer(hidden, hidden, hidden)
        return self.head(hidden).square().mean()


def assert_harmless(bare: Run, watched: Run) -> None:
    """No exception came; nothing differs; no fault was swallowed; each layer has a value or a reason."""
    assert differing(bare, watched) == []
    monitor = watched.monitor
    assert monitor is not None
    assert monitor.guard.causes == {}
    coverage = monitor.report.coverage
    assert all(entry.reason for entry in coverage if entry.status != "measured")
    accounted = {entry.layer for entry in coverage}
    assert {"trunk", "head", *(f"roles.{name}" for name in every_role())} <= accounted
    assert monitor.report.to_json()


@pytest.fixture(autouse=True)
def _kind_recorded(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """For who counts them."""
    if hasattr(request.node, "callspec"):
        record_property("zoo", request.node.callspec.params["kind"])


@pytest.fixture(autouse=True)
def _three_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first two steps and the last."""
    monkeypatch.setattr(schedule, "START_UP", frozenset({0, 1}))


@pytest.fixture(autouse=True)
def _one_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process group of one, for the kind that needs it."""
    if "distributed" not in request.node.name:
        yield
        return
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def ordinary(x: Tensor) -> tuple[Tensor]:
    """A batch as it is."""
    return (x,)


def odd(make: Make, x: Tensor) -> tuple[Tensor, Any]:
    """A batch, and the odd value made of it."""
    with quiet():
        return x, make(x)


@pytest.mark.parametrize("kind", KINDS)
def test_as_output_and_input_of_layers(kind: str) -> None:
    bare, watched = (trained(partial(Inner, KINDS[kind]), ordinary, watched=w) for w in (False, True))
    assert_harmless(bare, watched)


@pytest.mark.parametrize("kind", most(KINDS))
def test_as_input_of_the_network(kind: str) -> None:
    arguments = partial(odd, KINDS[kind])
    bare, watched = (trained(Inner, arguments, watched=w) for w in (False, True))
    assert_harmless(bare, watched)


@pytest.mark.parametrize("kind", most(HELD))
def test_as_parameter_buffer_or_attribute(kind: str) -> None:
    bare, watched = (trained(partial(Holding, KINDS[kind]), ordinary, watched=w) for w in (False, True))
    assert_harmless(bare, watched)


def test_the_zoo_is_large() -> None:
    assert len(KINDS) - len(CONTAINERS) - len(OTHERS) >= 40
    assert len(CONTAINERS) + len(OTHERS) >= 20
