"""Training on a CUDA device with nndiag: bit by bit the same, without waiting for the device between visits.

These tests need a CUDA device: run them with ``pytest -m gpu tests/gpu``. Without one they are skipped. So that two
bare runs are the same, they use deterministic algorithms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from families.outcome import differing
from torch import nn
from torch.nn import functional as F

import nndiag
from nndiag.observe.schedule import Schedule

from .training import (
    BATCH,
    DEVICE,
    NETWORKS,
    STEPS,
    Run,
    attending,
    batches,
    collected,
    no_synchronization,
    perceptron,
    trained,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PRECISIONS = {"single": None, "bfloat16": torch.bfloat16, "half, scaled": torch.float16}


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_exact(train: Callable[..., Run]) -> nndiag.Monitor:
    """A bare run repeats itself, and a watched one differs from it in nothing."""
    bare, again, watched = train(watched=False), train(watched=False), train(watched=True)
    assert differing(dict(bare.values), dict(again.values)) == {}
    assert differing(dict(bare.values), dict(watched.values)) == {}
    assert watched.monitor is not None
    assert watched.monitor.guard.faults == {}
    return watched.monitor


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS.keys())
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_training_is_exact(make: Callable[[], nn.Module], precision: torch.dtype | None) -> None:
    monitor = assert_exact(partial(trained, make, precision=precision))
    assert str(monitor.report.run["probe"]).endswith("samples")


def test_deterministic_algorithms_are_no_obstacle() -> None:
    """Histograms, counts and cumulative sums have no deterministic kernel on a device: none is used."""
    report = assert_exact(partial(trained, attending)).report
    assert not [note for note in report.coverage.notes if "deterministic" in note]
    assert not [entry for entry in report.coverage if "deterministic" in entry.reason]


def test_gradients_are_read_without_the_scale() -> None:
    runs = [trained(perceptron, watched=True, precision=p).monitor for p in (None, torch.float16)]
    single, half = (
        {r.layer: r.value for r in run.report.readings if r.tag == "nndiag/gradient_flow/gradient_norm"}
        for run in runs
        if run is not None
    )
    assert single.keys() == half.keys()
    assert all(half[layer] == pytest.approx(single[layer], rel=0.5) for layer in single)


def test_no_step_waits_for_the_device_between_visits() -> None:
    """At a visit the device is waited for once training's own work of that step is queued, and never else."""
    torch.manual_seed(0)
    model = perceptron().to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data, schedule = batches() * 4, Schedule(50)
    with nndiag.Monitor(model, optimizer=optimizer, max_overhead=None, console=False, strict=True) as monitor:
        for step, (x, y) in enumerate(data):
            with no_synchronization():  # the stream's hooks are in place at visits and in the first 32 steps
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            if schedule.is_visit(step):
                finish(optimizer, monitor, loss, y)
                continue
            with no_synchronization():
                finish(optimizer, monitor, loss, y)
    assert len(data) > 32
    assert monitor.report.run["visits"] == sum(schedule.is_visit(step) for step in range(len(data)))


def finish(optimizer: Any, monitor: nndiag.Monitor, loss: torch.Tensor, labels: torch.Tensor) -> None:
    """The rest of a step."""
    optimizer.step()
    optimizer.zero_grad()
    monitor.step(loss, labels=labels)


def test_synchronization_is_noticed() -> None:
    with no_synchronization(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=DEVICE).item()


def graphed(model: nn.Module) -> nn.Module:
    """Its forward and backward passes are replayed from graphs."""
    sample = torch.randn(BATCH, 8, 16, device=DEVICE)
    return torch.cuda.make_graphed_callables(model, (sample,))  # type: ignore[no-any-return]


def test_graphed_module_is_exact() -> None:
    assert_exact(partial(trained, attending, prepare=graphed))


def test_compiled_module_with_graphs_is_exact() -> None:
    compiled = partial(torch.compile, mode="reduce-overhead")
    monitor = assert_exact(partial(trained, attending, prepare=compiled))
    assert str(monitor.report.run["probe"]).endswith("samples")
    torch._dynamo.reset()


def captured(*, watched: bool) -> Run:
    """The whole step, its update included, is one graph that was captured before the monitor came."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, capturable=True)
    data = batches()
    x, y = (tensor.clone() for tensor in data[0])
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        loss = step()
    losses = []
    settings: dict[str, Any] = {
        "every_n_train_steps": 1,
        "max_overhead": None,
        "console": False,
        "strict": True,
    }
    monitor = nndiag.Monitor(model, optimizer=optimizer, **settings)
    if watched:
        monitor.__enter__()
    for new_x, new_y in data:
        x.copy_(new_x)
        y.copy_(new_y)
        graph.replay()
        losses.append(loss.detach().clone())
        if watched:
            monitor.step(loss, labels=y)
    if watched:
        monitor.__exit__(None, None, None)
    return Run(collected(model, optimizer, losses), monitor)


def test_captured_step_is_exact_and_nothing_is_claimed_of_it() -> None:
    report = assert_exact(captured).report
    assert report.run["probe"] == "refused: no-call"
    assert report.run["visits"] >= 4
    assert [f.rule for f in report.findings if f.rule in ("ND202", "ND605", "ND606")] == []


def test_random_streams_of_the_device_are_part_of_what_is_compared() -> None:
    values = trained(perceptron, watched=False).values
    torch.rand(1, device=DEVICE)
    state = torch.cuda.get_rng_state_all()[0]
    assert not torch.equal(values["device rng/0"], state)
    assert len([path for path in values if path.startswith("losses/")]) == STEPS
