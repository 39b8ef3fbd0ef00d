"""What nndiag keeps does not grow with the run, and nothing of the run outlives its step, its fit or its model."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families.outcome import Surroundings, differing, flatten, hook_counts
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import nndiag
from nndiag.statistics import Tails

MOST_BYTES = 100
"""That may stay behind a step, on average."""

Record = Callable[[str, object], None]

QUIET: dict[str, Any] = {"max_overhead": None, "console": False, "strict": True}


def network() -> nn.Sequential:
    """A layer of most kinds that are read."""
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))


@contextlib.contextmanager
def witness() -> Iterator[list[weakref.ref[Tensor]]]:
    """Weak references to all that layers make in training; in the model itself a list would be state of its own."""
    seen: list[weakref.ref[Tensor]] = []

    def remember(module: nn.Module, args: Any, output: Tensor) -> None:
        if torch.is_grad_enabled():
            seen.append(weakref.ref(output))

    handle = nn.modules.module.register_module_forward_hook(remember)
    yield seen
    handle.remove()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, monitor: nndiag.Monitor, steps: int) -> None:
    """Some steps on random batches."""
    for _ in range(steps):
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.step(loss)


def seeded() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """A model and its optimizer."""
    torch.manual_seed(0)
    model = network()
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def bytes_a_step(directory: Path, first: int, last: int, every_n: int) -> float:
    """Growth of Python's memory between two steps of one run with every sink."""
    SummaryWriter(str(directory / "other")).close()  # TensorBoard is loaded before
    model, optimizer = seeded()
    options = {**QUIET, "log_dir": directory, "every_n_train_steps": every_n}
    tracemalloc.start(1)
    try:
        with nndiag.Monitor(model, optimizer=optimizer, **options) as monitor:
            train(model, optimizer, monitor, first)
            before = _traced()
            train(model, optimizer, monitor, last - first)
            return (_traced() - before) / (last - first)
    finally:
        tracemalloc.stop()


def _traced() -> int:
    """Bytes in use when all that can be collected is gone."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_memory_does_not_grow_with_steps(tmp_path: Path, record_property: Record) -> None:
    """What is read seldom fills its short history late; what is read at each visit has long filled it."""
    slope = bytes_a_step(tmp_path, 400, 1200, every_n=100)
    record_property("slope", (1200, slope))
    assert slope < MOST_BYTES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_ten_thousand_steps(tmp_path: Path, record_property: Record) -> None:
    slope = bytes_a_step(tmp_path, 1000, 10_000, every_n=50)
    record_property("slope", (10_000, slope))
    assert slope < MOST_BYTES


def test_growth_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leak: list[bytes] = []
    step = nndiag.Monitor.step

    def leaking(self: nndiag.Monitor, *args: Any) -> None:
        leak.append(bytes(3000 + len(leak)))  # what a run lets go of meanwhile is less
        step(self, *args)

    monkeypatch.setattr(nndiag.Monitor, "step", leaking)
    assert bytes_a_step(tmp_path, 70, 90, every_n=100) > MOST_BYTES


def living() -> list[Tensor]:
    """Every tensor that Python knows of."""
    gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), Tensor)]


def test_no_activation_outlives_its_step() -> None:
    """At visits and between them, and without waiting for the collector."""
    model, optimizer = seeded()
    options = {**QUIET, "every_n_train_steps": 10}
    gc.disable()
    try:
        with witness() as seen, nndiag.Monitor(model, optimizer=optimizer, **options) as monitor:
            for step in range(1, 91):
                train(model, optimizer, monitor, 1)
                assert [ref for ref in seen if ref() is not None] == []
                assert len(seen) == 6 * step
    finally:
        gc.enable()
    assert str(monitor.report.run["probe"]).endswith("samples")


def test_the_number_of_tensors_comes_to_rest() -> None:
    """What a visit leaves behind is replaced by the next one."""
    model, optimizer = seeded()
    with nndiag.Monitor(model, optimizer=optimizer, every_n_train_steps=10, **QUIET) as monitor:
        train(model, optimizer, monitor, 120)
        counts = []
        for _ in range(4):  # each at the same place between two visits
            train(model, optimizer, monitor, 10)
            counts.append(len(living()))
    assert max(counts) - min(counts) <= len(dataclasses.fields(Tails))  # a window of batches moves on


def hooks_of_all_optimizers() -> tuple[int, ...]:
    """Lengths of torch's global tables."""
    tables = (optimizers._global_optimizer_pre_hooks, optimizers._global_optimizer_post_hooks)
    return tuple(len(table) for table in tables)


def test_twenty_runs_leave_nothing_behind(tmp_path: Path) -> None:
    """Half of them watch one optimizer, half whichever steps."""
    model, optimizer = seeded()
    with nndiag.Monitor(model, **QUIET, log_dir=tmp_path / "first") as monitor:  # what is loaded late
        train(model, optimizer, monitor, 1)
    before, hooks = Surroundings.of(model), hook_counts(model, [optimizer])
    everywhere = hooks_of_all_optimizers()
    for run in range(20):
        chosen = optimizer if run % 2 else None
        with nndiag.Monitor(model, optimizer=chosen, **QUIET, log_dir=tmp_path / str(run)) as monitor:
            train(model, optimizer, monitor, 2)
    assert_untouched(before, model)
    assert differing(hooks, hook_counts(model, [optimizer])) == {}
    assert hooks_of_all_optimizers() == everywhere == (0, 0)


def assert_untouched(before: Surroundings, model: nn.Module) -> None:
    """No attribute, function, thread or setting is another one."""
    now = before.changes(model)
    unchanged = Surroundings.of(model).changes(model)
    assert differing(unchanged, now) == {}


class Regression(LightningModule):
    """A network under Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.network(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(module: LightningModule, callback: Any) -> None:
    """Three steps."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.randn(24, 4)), 8))


@pytest.mark.filterwarnings("ignore:.*(many workers|LeafSpec|smaller than the logging interval).*")
def test_twenty_fits_leave_nothing_behind() -> None:
    torch.manual_seed(0)
    module = Regression()
    monitor = nndiag.DiagnosticsMonitor(**QUIET)
    fit(module, monitor)
    before, hooks = Surroundings.of(module), hook_counts(module, [])
    for _ in range(20):
        fit(module, monitor)
    before = Surroundings(
        {key: value for key, value in before.attributes.items() if key[0]},  # Lightning's are of the root
        *(before.functions, before.threads, before.settings),
    )
    changed = before.changes(module)
    assert [changed[name] for name in ("changes/replaced#", "changes/patched#", "changes/threads")] == [
        0,
        0,
        0,
    ]
    assert differing(hooks, hook_counts(module, [])) == {}


@pytest.mark.parametrize("ending", ["closed", "failed"])
def test_a_model_goes_with_its_monitor(ending: str) -> None:
    model, optimizer = seeded()
    with pytest.raises(KeyError) if ending == "failed" else nndiag.Monitor(nn.Linear(1, 1), **QUIET):
        with nndiag.Monitor(model, optimizer=optimizer, **QUIET) as monitor:
            train(model, optimizer, monitor, 4)
            if ending == "failed":
                raise KeyError("of the user's")
    alive = [weakref.ref(each) for each in (model, optimizer, *model.parameters())]
    del model, optimizer, monitor
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)


def test_a_model_goes_before_a_closed_monitor() -> None:
    """Who keeps the monitor for its report keeps no model, and loses nothing that the monitor found."""
    model, optimizer = seeded()
    with nndiag.Monitor(model, optimizer=optimizer, stop_on="warning", **QUIET) as monitor:
        train(model, optimizer, monitor, 4)
        found = monitor.report.to_json(), monitor.should_stop, monitor.state_dict()
    assert found[2]
    alive = [weakref.ref(each) for each in (model, optimizer, *model.parameters(), *model.buffers())]
    del model, optimizer
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)
    monitor.step(0.5)  # one too many changes nothing
    assert differing(flatten(found[2]), flatten(monitor.state_dict())) == {}
    assert monitor.should_stop == found[1]
    assert monitor.report.run["visits"] == 4
    assert monitor.report.readings


def test_a_closed_monitor_says_that_it_watches_no_more() -> None:
    model, optimizer = seeded()
    untouched = hook_counts(model, [optimizer])
    monitor = nndiag.Monitor(model, optimizer=optimizer, **{**QUIET, "strict": False})
    with monitor:
        train(model, optimizer, monitor, 1)
    with monitor:
        train(model, optimizer, monitor, 1)
    assert "make a new monitor" in monitor.guard.causes["the monitor"]
    assert monitor.report.run["visits"] == 1
    assert differing(untouched, hook_counts(model, [optimizer])) == {}
    assert hooks_of_all_optimizers() == (0, 0)
