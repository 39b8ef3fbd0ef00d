"""What DiagnosticsMonitor does by its rank, seen from one process that is told of another."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import nndiag

from .programs import Classifier, network


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)


pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings(r"error::Warning:nndiag\..*"),
]


def fitted(**options: Any) -> tuple[nndiag.DiagnosticsMonitor, Trainer]:
    """A fit of one process; all units of the first layer are twins, which is a finding."""
    torch.manual_seed(0)
    monitor = nndiag.DiagnosticsMonitor(
        every_n_train_steps=1, max_overhead=None, console=False, strict=True, probe=False, **options
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor],
    )
    model = network(norm=False)
    with torch.no_grad():
        model[0].weight[:], model[0].bias[:] = model[0].weight[:1].clone(), 0.1
        model[2].weight[:] = model[2].weight[:, :1].clone()
    trainer.fit(Classifier(model))
    return monitor, trainer


def test_alone_it_stops(caplog: pytest.LogCaptureFixture) -> None:
    _, trainer = fitted(stop_on="info")
    assert trainer.should_stop
    assert not [record for record in caplog.records if record.name == "nndiag"]


def test_among_several_it_does_not_stop_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Trainer, "world_size", 2)
    monitor, trainer = fitted(stop_on="info")
    assert not trainer.should_stop
    assert monitor.report.findings
    said = [record.message for record in caplog.records if record.name == "nndiag"]
    assert said == ["stop_on is not used: several processes train, and they would have to agree to stop."]


def test_without_stop_on_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Trainer, "world_size", 2)
    fitted()
    assert not [record for record in caplog.records if record.name == "nndiag"]


def test_another_rank_is_watched_only_where_it_can_record(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    monkeypatch.setattr(Trainer, "global_rank", 1)
    assert len(fitted()[0].report.readings) == 0
    assert len(fitted(log_dir=str(tmp_path))[0].report.readings) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["nndiag.rank1.jsonl"]
