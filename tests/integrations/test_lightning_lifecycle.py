"""DiagnosticsMonitor when runs end early, begin again, are copied, resumed, or watched twice."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nndiag

from .lightning_runs import (
    BATCHES,
    RESUME,
    Classifier,
    hooks_on,
    loader,
    quiet_monitor,
    quiet_trainer,
    trained,
)


def test_users_exception_is_the_one_raised() -> None:
    monitor, module = quiet_monitor(), Classifier(ValueError("the user's own"))
    with pytest.raises(ValueError, match="the user's own"):
        trained(monitor, module)
    assert monitor.report.run["visits"] == 3
    assert len(monitor.report.readings) > 0
    assert hooks_on(module) == 0


@pytest.mark.parametrize("fail_at", [0, 1])
def test_exception_in_an_early_step(fail_at: int) -> None:
    monitor, module = quiet_monitor(), Classifier(ValueError("the user's own"), fail_at)
    with pytest.raises(ValueError, match="the user's own"):
        trained(monitor, module)
    assert isinstance(monitor.report, nndiag.Report)
    assert hooks_on(module) == 0


@pytest.mark.usefixtures("interrupts")
def test_keyboard_interrupt_leaves_a_report() -> None:
    monitor, module = quiet_monitor(), Classifier(KeyboardInterrupt())
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trained(monitor, module)
    assert monitor.report.run["visits"] == 3
    assert hooks_on(module) == 0


def test_fault_on_the_way_out_does_not_hide_the_users_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nndiag.session.Session.close", lambda self: 1 / 0)
    module = Classifier(ValueError("the user's own"))
    with pytest.raises(ValueError, match="the user's own"):
        trained(quiet_monitor(strict=False), module)
    assert hooks_on(module) == 0


def test_second_fit_is_a_run_of_its_own() -> None:
    monitor, once = quiet_monitor(), quiet_monitor()
    trained(monitor)
    trained(monitor)
    trained(once)
    assert monitor.report.run["visits"] == once.report.run["visits"]
    readings = [[(r.tag, r.layer, r.value) for r in m.report.readings] for m in (monitor, once)]
    assert readings[0] == readings[1]


def test_second_fit_after_an_exception() -> None:
    monitor = quiet_monitor()
    with pytest.raises(ValueError, match="boom"):
        trained(monitor, Classifier(ValueError("boom")))
    _, module = trained(monitor)
    _, bare = trained(None)
    assert module.losses == bare.losses
    assert monitor.report.run["last_step"] == BATCHES - 1


def test_two_monitors_do_not_disturb_each_other() -> None:
    torch.manual_seed(0)
    first, second, module = quiet_monitor(), quiet_monitor(measures=["saturation"]), Classifier()
    quiet_trainer(first, second).fit(module, loader(shuffle=True), loader())
    _, bare = trained(None)
    assert module.losses == bare.losses
    assert hooks_on(module) == 0
    assert first.report.run["visits"] == second.report.run["visits"] > 0


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],  # noqa: S301
    ids=["deepcopy", "pickle"],
)
def test_copies_between_fits(copied: Any) -> None:
    monitor = quiet_monitor()
    fresh = copied(monitor)
    trained(fresh)
    again = copied(fresh)
    assert again.report.to_json() == fresh.report.to_json()
    trained(again)
    assert again.report.run["visits"] == fresh.report.run["visits"] > 0


def test_module_is_copied_and_saved_while_hooks_are_on(tmp_path: Path) -> None:
    class Copying(Classifier):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            copied = copy.deepcopy(self.network)
            torch.save(self.network, tmp_path / "network.pt")
            copied(torch.zeros(8, 6)).sum().backward()

    torch.manual_seed(0)
    _, watched = trained(quiet_monitor(), Copying())
    torch.manual_seed(0)
    _, bare = trained(None, Copying())
    assert watched.losses == bare.losses
    assert (tmp_path / "network.pt").stat().st_size > 0


def test_module_is_not_kept_alive() -> None:
    monitor = quiet_monitor()
    trainer, module = trained(monitor)
    alive = weakref.ref(module)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        vars(callback).pop("log", None), vars(callback).pop("log_dict", None)
    del trainer, module, callback
    gc.collect()
    assert alive() is None
    assert len(monitor.report.readings) > 0


@pytest.mark.parametrize(
    "watched", [(True, True), (True, False), (False, True)], ids=["on-on", "on-off", "off-on"]
)
def test_resume_is_exact(watched: tuple[bool, bool], tmp_path: Path) -> None:
    def run(first: bool, second: bool) -> dict[str, torch.Tensor]:
        path = tmp_path / f"{first}{second}.ckpt"
        trainer, _ = trained(quiet_monitor() if first else None)
        trainer.save_checkpoint(path)
        torch.manual_seed(1)
        module = Classifier()
        resumed = quiet_trainer(*([quiet_monitor()] if second else []), max_epochs=2)
        resumed.fit(module, loader(shuffle=True), loader(), ckpt_path=path, **RESUME)
        assert resumed.global_step == 2 * BATCHES
        return module.state_dict()

    torch.testing.assert_close(run(*watched), run(False, False), rtol=0, atol=0)


def test_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    trainer, _ = trained(quiet_monitor())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    monitor = quiet_monitor()
    resumed = quiet_trainer(monitor, max_epochs=2)
    resumed.fit(Classifier(), loader(shuffle=True), loader(), ckpt_path=tmp_path / "half.ckpt", **RESUME)
    assert monitor.report.run["last_step"] == 2 * BATCHES - 1


def test_plain_module_saves_and_scripts_after_fit(tmp_path: Path) -> None:
    _, module = trained(quiet_monitor())
    torch.save(module.network, tmp_path / "network.pt")
    copy.deepcopy(module.network)
    assert isinstance(torch.fx.symbolic_trace(module.network), nn.Module)


OTHER_NAMESPACE = """
import logging, sys, warnings
import pytorch_lightning as pl, torch, nndiag
warnings.simplefilter("ignore"); logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__(); self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    def training_step(self, batch, batch_idx): return self.layer(batch).square().mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)
monitor = nndiag.DiagnosticsMonitor(console=False, strict=True)
assert isinstance(monitor, pl.Callback)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[monitor])
trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(32, 4), 8))
assert monitor.report.run["visits"] == 4, monitor.report.run
assert "lightning.pytorch" not in sys.modules
print(len(monitor.report.readings), "readings at", monitor.report.run["visits"], "visits")
"""


def test_other_namespace_alone() -> None:
    """In a process of its own, where only ``pytorch_lightning`` is imported."""
    done = subprocess.run(
        [sys.executable, "-c", OTHER_NAMESPACE], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
