"""Parameters that a model holds without having registered them, and nobody steps."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import nndiag
from nndiag.observe.unregistered import Unregistered


class Holder(nn.Module):
    """A registered layer, and others in an attribute of any kind."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.held = held

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        layers = self.held.values() if isinstance(self.held, (dict, nn.ModuleDict)) else self.held
        for layer in layers:
            x = x * layer if isinstance(layer, nn.Parameter) else layer(x)
        return x


def layer() -> nn.Linear:
    return nn.Linear(4, 4, bias=False)


@pytest.mark.parametrize(
    ("held", "names"),
    [
        (lambda: [layer(), layer()], ["held[0].weight", "held[1].weight"]),
        (lambda: (layer(),), ["held[0].weight"]),
        (lambda: {"a": layer()}, ["held['a'].weight"]),
        (lambda: [nn.Parameter(torch.ones(4))], ["held[0]"]),
        (lambda: nn.ModuleList([layer()]), []),
        (lambda: nn.ModuleDict({"a": layer()}), []),
        (lambda: [layer().requires_grad_(False)], []),
        (lambda: [torch.relu], []),
    ],
)
def test_what_gets_gradients_and_is_not_registered_is_named(
    held: Callable[[], Any], names: list[str]
) -> None:
    outer = nn.Sequential(Holder(held()))
    seen = Unregistered(outer)
    assert seen.still() == {}  # no gradient yet
    outer(torch.ones(2, 4)).sum().backward()
    assert list(seen.still()) == [f"0.{name}" for name in names]


@pytest.mark.parametrize("through_data", [False, True])
def test_what_somebody_steps_is_not(through_data: bool) -> None:
    model = Holder([layer()])
    seen = Unregistered(model)
    model(torch.ones(2, 4)).sum().backward()
    assert seen.still() == {"held[0].weight": 16}
    weight = model.held[0].weight
    with torch.no_grad():
        (weight.data if through_data else weight).sub_(0.1 * weight.grad)
    assert seen.still() == {}
    assert seen.still() == {}


def test_what_is_registered_elsewhere_is_not() -> None:
    model = Holder([])
    model.held = [model.stem]
    seen = Unregistered(model)
    model(torch.ones(2, 4)).sum().backward()
    assert seen.still() == {}


def test_what_two_attributes_hold_is_named_once() -> None:
    model = Holder([layer()])
    model.same = model.held
    seen = Unregistered(model)
    model(torch.ones(2, 4)).sum().backward()
    assert seen.still() == {"held[0].weight": 16}


def test_containers_with_code_of_their_own_are_left_alone() -> None:
    class Untouchable(list[nn.Module]):
        def __iter__(self) -> Iterator[nn.Module]:
            raise AssertionError("somebody walked through it")

    assert Unregistered(Holder(Untouchable([layer()]))).still() == {}


def test_nothing_is_kept_alive() -> None:
    model = Holder([layer()])
    seen, kept = Unregistered(model), weakref.ref(model.held[0].weight)
    model(torch.ones(2, 4)).sum().backward()
    seen.still()
    del model
    gc.collect()
    assert kept() is None
    assert seen.still() == {}


@pytest.mark.parametrize(
    ("stepped_from", "status"),
    [(None, "active"), (0, None), (30, "resolved")],
    ids=["never", "always", "late"],
)
def test_a_run_says_it_once_it_is_sure(stepped_from: int | None, status: str | None) -> None:
    model = Holder([layer()])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with nndiag.Monitor(model, optimizer=optimizer, every_n_train_steps=5, console=False) as monitor:
        for step in range(62):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if stepped_from is not None and step >= stepped_from:
                with torch.no_grad():
                    model.held[0].weight.sub_(0.01 * model.held[0].weight.grad)
            monitor.step(loss)
    found = [finding for top in monitor.report.findings for finding in top.walk() if finding.rule == "ND606"]
    assert [finding.status for finding in found] == ([] if status is None else [status])
    if status == "active":
        assert found[0].severity == "warning"
        assert "held[0].weight get gradients" in found[0].message
        assert "nn.ModuleList" in found[0].recommendation
