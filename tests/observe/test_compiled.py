"""Compiled models: no graph more than without nndiag, and layers are seen all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from nndiag import compat

from .cases import Case
from .programs import network, perceptron
from .runs import Run, changes, differing, run

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler's own

compiled = partial(torch.compile, backend="aot_eager")


class Block(nn.Module):
    """Functional operations only."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 16] to the same."""
        return x + F.dropout(self.down(F.gelu(self.up(x))), 0.1, self.training)


def normalized() -> nn.Sequential:
    """With buffers and dropout."""
    return perceptron(nn.BatchNorm1d(24), nn.Dropout(0.3))


def wrapped() -> nn.Module:
    return network(lambda m, x: m.net(x), net=compiled(normalized()))


def compiled_in_place() -> nn.Module:
    model = network(lambda m, x: m.net(x), net=network(lambda m, x: m.body(x), body=normalized()))
    model.net.compile(backend="aot_eager")
    return model


def blocks() -> nn.Module:
    return nn.Sequential(compiled(Block()), compiled(Block(), backend="eager"), nn.Linear(16, 4))


def function_around() -> nn.Module:
    """The modules are called inside a compiled function, where nothing is seen."""
    model = network(net=normalized())
    model.__dict__["calculate"] = compiled(lambda x: model.net(x) * 2)
    return model


def function_between() -> nn.Module:
    """A compiled function between two module calls."""
    return network(
        net=normalized(), head=nn.Linear(4, 4), between=torch.compile(lambda h: h.sin() * 2, backend="eager")
    )


SEEN = {
    "wrapped": Case("wrapped", wrapped),
    "in place": Case("in place", compiled_in_place),
    "blocks": Case("blocks", blocks),
}
BLIND = Case("function around", function_around, lambda m, x, y: F.cross_entropy(m.calculate(x), y))
BETWEEN = Case(
    "function between",
    function_between,
    lambda m, x, y: F.cross_entropy(m.head(m.between(m.net(x))), y),
    stale=("head",),
)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first use of the compiler changes the process."""
    run(SEEN["wrapped"])


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """As in a fresh process."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs(case: Case, **options: Any) -> tuple[Run, int]:
    """A run from a cold compiler, and how many graphs it made."""
    torch._dynamo.reset()
    counters.clear()
    result = run(case, **options)
    return result, counters["stats"]["unique_graphs"]


def both(case: Case) -> tuple[Run, int, int]:
    """The watched run; graphs without and with nndiag. Training is the same."""
    bare_run, bare_graphs = graphs(case)
    watched_run, watched_graphs = graphs(case, watched=True)
    assert differing(bare_run.outcome, watched_run.outcome) == {}
    assert not counters["graph_break"]
    return watched_run, bare_graphs, watched_graphs


def dead_claims(result: Run) -> list[str]:
    """Findings that hold a layer's silence against it."""
    assert result.session is not None
    return [f.rule for f in result.session.report().findings if f.rule in ("ND202", "ND605", "ND606")]


@pytest.mark.parametrize("case", SEEN.values(), ids=SEEN.keys())
def test_layers_of_compiled_modules_are_seen_for_no_graph_more(case: Case) -> None:
    result, without, with_ = both(case)
    assert without > 0, "something was compiled"
    assert with_ == without
    assert result.probe.certified
    assert result.probe.n == 16
    assert result.session is not None
    assert result.session.latest is not None
    assert result.session.latest.snapshot is not None
    statistics = result.session.latest.snapshot.statistics
    seen = {key.layer for key in statistics if (key.tap, key.observer) == ("output", "probe")}
    weights = {info.name for info in result.session.latest.layers.values() if info.role == "weight"}
    assert seen >= weights, "each layer with weights, also inside"
    assert not any("_orig_mod" in name for name in weights)
    assert dead_claims(result) == []


def test_functional_operations_inside_are_seen() -> None:
    result, *_ = both(SEEN["blocks"])
    assert result.session is not None
    layers = result.observers.wiring.layers
    assert {"0:gelu", "1:gelu"} <= set(layers)


def test_only_of_what_is_compiled_gradients_are_said_to_be_missing() -> None:
    result, *_ = both(SEEN["blocks"])
    assert result.session is not None
    assert result.session.latest is not None
    assert result.session.latest.snapshot is not None
    gaps = result.session.latest.snapshot.gaps.items()
    assert {gap.layer for gap, why in gaps if why == "compiled"} == {"0.up", "0.down", "1.up", "1.down"}
    (note,) = [note for note in result.session.latest.coverage.notes if "(compiled)" in note]
    assert note.startswith("inside 0, 1 training batches and their gradients are not observed")


def test_inside_of_a_compiled_function_nothing_is_claimed() -> None:
    result, *_ = both(BLIND)
    assert result.probe.refusal is not None
    assert result.probe.refusal.code == "no-call"
    assert result.probe.refusal.reason.endswith("give nndiag the model that torch.compile returns")
    assert dead_claims(result) == []
    assert result.session is not None
    assert any(f.rule == "ND903" for f in result.session.report().findings)


def test_compiled_function_costs_no_graph_more() -> None:
    _, without, with_ = both(BLIND)
    assert with_ == without


def test_compiled_function_between_calls_is_said_to_freeze_what_follows() -> None:
    result, without, with_ = both(BETWEEN)
    assert with_ == without
    assert result.probe.certified
    assert result.probe.stale == {"head"}
    assert dead_claims(result) == []


def test_first_batch_goes_unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that are there when a graph is traced would be part of it."""
    run(SEEN["wrapped"])
    assert compat.compile_backend_in_use()
    result = run(Case("plain", normalized), watched=True)
    assert result.probe._batches == 3, "the second and the third were recorded"
    assert changes(Case("plain", normalized), result.outcome) == {}


def eager_after_all(patch: pytest.MonkeyPatch) -> None:
    """The mutant: the probe does not care about compilation."""
    patch.setattr(compat, "compile_backend_in_use", lambda: False)
    patch.setattr(compat, "is_compiled", lambda root: False)


MUTANTS: dict[str, tuple[Case, Callable[[pytest.MonkeyPatch], None]]] = {
    "mode around compiled code": (SEEN["blocks"], eager_after_all),
}


@pytest.mark.parametrize(("case", "mutate"), MUTANTS.values(), ids=MUTANTS.keys())
def test_mutant_costs_graphs(
    case: Case, mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, without = graphs(case)
    mutate(monkeypatch)
    _, with_ = graphs(case, watched=True)
    assert with_ != without
