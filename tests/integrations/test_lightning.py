"""DiagnosticsMonitor under Lightning: which stages it sees, and what it counts as a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.tuner import Tuner

import nndiag

from .lightning_runs import BATCHES, Classifier, hooks_on, loader, quiet_monitor, quiet_trainer, trained


def visits(monitor: Any) -> int:
    """Number of visits of the newest run."""
    return monitor.report.run.get("visits", 0)


def test_report_is_there_before_during_and_after_fit() -> None:
    monitor = quiet_monitor()
    assert isinstance(monitor.report, nndiag.Report)
    assert monitor.report.status == "ok"
    seen: list[nndiag.Report] = []

    class Watching(Classifier):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(monitor.report)

    trained(monitor, Watching())
    assert [type(report) for report in seen] == [nndiag.Report] * BATCHES
    assert len(monitor.report.readings) > 0
    assert monitor.report.run["last_step"] == BATCHES - 1


def test_only_training_is_observed() -> None:
    bare, full = quiet_monitor(), quiet_monitor()
    trained(bare, limit_val_batches=0, num_sanity_val_steps=0)
    trainer, module = trained(full, num_sanity_val_steps=2)
    before = full.report.to_json()
    assert visits(full) == visits(bare) > 0
    trainer.validate(module, loader(), verbose=False)
    trainer.test(module, loader(), verbose=False)
    trainer.predict(module, loader())
    assert full.report.to_json() == before
    assert hooks_on(module) == 0


def test_validation_without_fit_observes_nothing() -> None:
    monitor = quiet_monitor()
    quiet_trainer(monitor).validate(Classifier(), loader(), verbose=False)
    assert visits(monitor) == 0
    assert monitor.report.findings == ()


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 12), (2, 6), (4, 4)])
def test_a_step_is_an_optimizer_step(accumulate: int, steps: int) -> None:
    monitor = quiet_monitor()
    trainer, _ = trained(monitor, accumulate_grad_batches=accumulate, max_epochs=2)
    assert trainer.global_step == steps
    assert monitor.report.run["last_step"] == steps - 1
    assert visits(monitor) == len([s for s in range(steps) if s in (0, 1, 2, 3, 5, 8, steps - 1)])


def test_manual_optimization_counts_batches_not_updates() -> None:
    class Manual(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            for optimizer in self.optimizers():  # type: ignore[union-attr]
                optimizer.zero_grad()
                self.manual_backward(self._loss(batch))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            first, *rest = self.parameters()
            return [torch.optim.SGD([first], lr=0.1), torch.optim.SGD(rest, lr=0.1)]

    monitor = quiet_monitor()
    trainer, _ = trained(monitor, Manual())
    assert trainer.global_step == 2 * BATCHES
    assert monitor.report.run["last_step"] == BATCHES - 1


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_leaves_the_run_exact(algorithm: str) -> None:
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm}
    _, watched = trained(quiet_monitor(), **options)
    _, bare = trained(None, **options)
    assert watched.losses == bare.losses


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"fast_dev_run": 2}, 2),
        ({"barebones": True}, BATCHES),
        ({"overfit_batches": 2}, 2),
        ({"max_steps": 4}, 4),
    ],
    ids=["fast_dev_run", "barebones", "overfit_batches", "max_steps"],
)
def test_trainer_flags(options: dict[str, Any], steps: int, tmp_path: Any) -> None:
    monitor = quiet_monitor()
    trained(monitor, **options)
    assert monitor.report.run["last_step"] == steps - 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_epochs": 0}])
def test_nothing_to_train(options: dict[str, Any], tmp_path: Any) -> None:
    monitor = quiet_monitor()
    trained(monitor, **options)
    assert monitor.report.findings == ()
    assert monitor.report.status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_metrics_stay_the_users() -> None:
    trainer, _ = trained(quiet_monitor())
    bare, _ = trained(None)
    for metrics in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
        assert getattr(trainer, metrics).keys() == getattr(bare, metrics).keys()


def test_tuner_is_left_alone() -> None:
    def suggestion(*callbacks: Any) -> float | None:
        torch.manual_seed(0)
        module = Classifier()
        module.lr = 0.01  # type: ignore[assignment]
        trainer = quiet_trainer(*callbacks)
        found = Tuner(trainer).lr_find(module, loader(), num_training=20, update_attr=False)
        assert hooks_on(module) == 0
        return found.suggestion(skip_begin=1, skip_end=1) if found else None

    monitor = quiet_monitor()
    assert suggestion(monitor) == suggestion()
    assert visits(monitor) == 0


def test_skipped_epoch_with_two_monitors_leaves_no_wrapper() -> None:
    class Skipping(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.current_epoch == 0 else None

    module = Skipping()
    torch.manual_seed(0)
    quiet_trainer(quiet_monitor(), quiet_monitor(), max_epochs=2).fit(module, loader(), loader())
    assert hooks_on(module) == 0
