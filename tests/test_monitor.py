"""Monitor in a plain loop: it watches whatever is trained, and never gets in the way."""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nndiag

QUIET: dict[str, Any] = {"every_n_train_steps": 1, "max_overhead": None, "console": False}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return torch.optim.SGD(model.parameters(), lr=0.05)


def perceptron() -> nn.Sequential:
    """Two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    """The same data each time."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(count)
    ]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, monitor: Any, data: Iterable[Any]
) -> list[float]:
    """One pass over the data; the losses."""
    losses = []
    for x, y in data:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if monitor is not None:
            monitor.step(loss, labels=y)
    return losses


def bare_losses() -> list[float]:
    """Without nndiag."""
    model = perceptron()
    return train(model, sgd(model), None, batches())


def hooks_on(model: nn.Module) -> int:
    """Hooks on all submodules."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(vars(each)[table]) for each in model.modules() for table in tables)


def gradients_read(report: nndiag.Report) -> bool:
    """Whether the optimizer step was seen."""
    return report.run["visits"] > 0  # type: ignore[operator]


@pytest.mark.parametrize("given", ["optimizer", "sequence", "nothing"])
def test_optimizer_may_be_given_or_found(given: str) -> None:
    model = perceptron()
    optimizer = sgd(model)
    choice = {"optimizer": optimizer, "sequence": [optimizer], "nothing": None}[given]
    with nndiag.Monitor(model, optimizer=choice, strict=True, **QUIET) as monitor:
        losses = train(model, optimizer, monitor, batches())
    assert losses == bare_losses()
    assert monitor.report.run["last_step"] == 5
    assert monitor.report.run["visits"] == 5  # steps 0, 1, 2, 3 and 5
    assert hooks_on(model) == 0
    assert len(optimizer._optimizer_step_pre_hooks) == 0


def test_an_optimizer_of_another_model_is_ignored() -> None:
    model, other = perceptron(), nn.Linear(2, 2)
    with nndiag.Monitor(model, measures=["saturation"], strict=True, **QUIET) as monitor:
        for _ in range(3):
            other(torch.ones(1, 2)).sum().backward()
            sgd(other).step()
    assert monitor.report.run["visits"] == 0
    assert monitor.report.status == "ok"


class Wrapping(torch.optim.Optimizer):
    """As Accelerate's: an optimizer that never called its base class."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def test_a_wrapped_optimizer_is_looked_into() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with nndiag.Monitor(model, optimizer=Wrapping(optimizer), console=False, strict=True) as monitor:
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
        monitor.step()
    assert monitor.guard.faults == {}
    assert "update_ratio" in {reading.name for reading in monitor.report.readings}


def test_several_optimizers() -> None:
    model = perceptron()
    optimizers = [sgd(model[0]), torch.optim.Adam(model[4].parameters())]
    with nndiag.Monitor(model, optimizer=optimizers, strict=True, **QUIET) as monitor:
        for x, y in batches():
            nn.functional.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            monitor.step()
    assert monitor.report.run["visits"] == 5


@pytest.mark.parametrize("closure", [False, True])
def test_zero_grad_may_come_first(closure: bool) -> None:
    """Gradients are read when the optimizer steps, wherever ``zero_grad`` stands."""

    def readings(order: str) -> list[tuple[str, str | None, float]]:
        model = perceptron()
        optimizer = sgd(model)
        with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
            for x, y in batches():
                if order == "zero first":
                    optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                if order == "zero last":
                    optimizer.zero_grad()
                monitor.step(loss if closure else None)
        return [(r.tag, r.layer, r.value) for r in monitor.report.readings if r.measure != "run"]

    assert readings("zero first") == readings("zero last") != []


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.SGD])
def test_closure_optimizers(make: Callable[..., torch.optim.Optimizer]) -> None:
    def losses(watch: bool) -> list[float]:
        model = perceptron()
        optimizer = make(model.parameters(), lr=0.05)
        monitor = nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) if watch else None
        found = []
        if monitor:
            monitor.__enter__()
        for x, y in batches():

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                found.append(loss.item())
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]
            if monitor:
                monitor.step()
        if monitor:
            monitor.__exit__(None, None, None)
            assert monitor.report.run["visits"] == 5
        return found

    assert losses(True) == losses(False)


def watch_until(error: BaseException) -> tuple[nndiag.Monitor, nn.Module, torch.optim.Optimizer]:
    """Four steps, one more forward pass, then the error, inside the block."""
    model = perceptron()
    optimizer = sgd(model)
    monitor = nndiag.Monitor(model, optimizer=optimizer, **QUIET)
    with contextlib.suppress(type(error)), monitor:
        train(model, optimizer, monitor, batches(4))
        model(batches()[0][0])
        raise error
    return monitor, model, optimizer


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_exception_inside_leaves_a_report_and_no_hook(error: BaseException) -> None:
    monitor, model, optimizer = watch_until(error)
    assert monitor.report.run["visits"] == 4
    assert hooks_on(model) == 0
    assert len(optimizer._optimizer_step_pre_hooks) == 0


def test_exception_inside_is_the_one_raised() -> None:
    with pytest.raises(ValueError, match="mine"), nndiag.Monitor(perceptron(), **QUIET):
        raise ValueError("mine")


def test_model_without_anything_to_observe() -> None:
    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with nndiag.Monitor(Empty(), strict=True, **QUIET) as monitor:
        for _ in range(3):
            monitor.step()
    assert monitor.report.status == "ok"
    assert monitor.report.findings == () or all(f.severity == "info" for f in monitor.report.findings)
    assert monitor.report.to_markdown()


@pytest.mark.parametrize(
    "loss", [None, 0.5, torch.tensor(0.5), torch.tensor([0.5, 1.0]), torch.tensor(1j), "x"], ids=str
)
def test_loss_of_any_kind(loss: Any) -> None:
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        for x, y in batches(3):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            monitor.step(loss)
    assert monitor.report.run["visits"] == 3


LABELS = {
    "class ids": torch.tensor([0, 1, 2, 0]),
    "floats": torch.rand(4),
    "one-hot": torch.eye(4),
    "negative": torch.tensor([-100, 0, 1, -100]),
    "empty": torch.tensor([], dtype=torch.long),
    "bool": torch.tensor([True, False]),
    "list": [0, 1, 2],
    "text": "labels",
    "complex": torch.tensor([1j]),
    "sparse": torch.eye(3).to_sparse(),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind(kind: str) -> None:
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        for x, y in batches(3):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            monitor.step(labels=LABELS[kind])
    assert monitor.report.run["visits"] == 3


def test_gradient_scaler() -> None:
    def losses(watch: bool) -> tuple[list[float], list[Any]]:
        model = perceptron()
        optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", init_scale=1024.0)
        monitor = nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET)
        found = []
        if watch:
            monitor.__enter__()
        for x, y in batches():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            found.append(loss.item())
            if watch:
                monitor.step(loss)
        if watch:
            monitor.__exit__(None, None, None)
        return found, list(monitor.report.readings)

    assert losses(True)[0] == losses(False)[0]


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_small_batches(rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        for _ in range(5):
            model(torch.ones(rows, 4)).sum().backward()
            optimizer.step()
            monitor.step(labels=torch.zeros(rows, dtype=torch.long))
    assert monitor.report.run["visits"] == 4


def test_batches_of_changing_size() -> None:
    model = perceptron()
    optimizer = sgd(model)
    data = [(torch.randn(rows, 4), torch.zeros(rows, dtype=torch.long)) for rows in (8, 2, 5, 16, 3, 8)]
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        train(model, optimizer, monitor, data)
    assert monitor.report.run["visits"] == 5


def test_step_without_training_and_training_without_step() -> None:
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        monitor.step()
        monitor.step()
        train(model, optimizer, None, batches(3))
        monitor.step()
    assert isinstance(monitor.report, nndiag.Report)
    assert hooks_on(model) == 0


def test_step_outside_the_block_is_harmless() -> None:
    model = perceptron()
    optimizer = sgd(model)
    monitor = nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET)
    assert train(model, optimizer, monitor, batches()) == bare_losses()
    with monitor:
        pass
    train(model, optimizer, monitor, batches(2))
    assert hooks_on(model) == 0
    assert len(optimizer._optimizer_step_pre_hooks) == 0


def test_validation_between_steps_is_not_training() -> None:
    def readings(validate: bool) -> list[tuple[str, str | None, float]]:
        model = perceptron()
        optimizer = sgd(model)
        with nndiag.Monitor(model, optimizer=optimizer, probe=False, strict=True, **QUIET) as monitor:
            for x, y in batches():
                if validate:
                    model.eval()
                    with torch.no_grad():
                        model(1000 * x)
                    model.train()
                train(model, optimizer, monitor, [(x, y)])
        return [(r.tag, r.layer, r.value) for r in monitor.report.readings if r.measure != "run"]

    assert readings(True) == readings(False)


def test_files_only_where_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        train(model, optimizer, monitor, batches(3))
    assert os.listdir(tmp_path) == []
    with nndiag.Monitor(
        model, optimizer=optimizer, log_dir=tmp_path / "run", strict=True, **QUIET
    ) as monitor:
        train(model, optimizer, monitor, batches(3))
    assert (tmp_path / "run" / "nndiag.jsonl").exists()
    assert os.listdir(tmp_path) == ["run"]


def test_environment_switches_everything_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNDIAG", "0")
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, log_dir=tmp_path / "run", **QUIET) as monitor:
        assert train(model, optimizer, monitor, batches()) == bare_losses()
        assert hooks_on(model) == len(optimizer._optimizer_step_pre_hooks) == 0
    assert monitor.report.readings == ()
    assert list(tmp_path.iterdir()) == []


def test_default_cadence_is_fifty() -> None:
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, max_overhead=None, console=False) as monitor:
        train(model, optimizer, monitor, batches(103))
    start_up = [0, 1, 2, 3, 5, 8, 12, 16, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61]
    assert monitor.report.run["visits"] == len(start_up) + len([100, 101])
    assert monitor.report.run["cadence"] == 50


def test_wrong_options_name_themselves() -> None:
    for options, hint in (({"measures": ["saturatoin"]}, "saturation"), ({"layers": ["9.*"]}, "9")):
        with pytest.raises(nndiag.ConfigurationError, match=next(iter(options))) as caught:
            nndiag.Monitor(perceptron(), **options)  # type: ignore[arg-type]
        assert hint in str(caught.value)


def test_nothing_is_kept_alive() -> None:
    model = perceptron()
    optimizer = sgd(model)
    with nndiag.Monitor(model, optimizer=optimizer, strict=True, **QUIET) as monitor:
        train(model, optimizer, monitor, batches())
    alive = weakref.ref(model)
    del model, optimizer, monitor
    gc.collect()
    assert alive() is None
