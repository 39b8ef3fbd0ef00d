"""What DiagnosticsMonitor writes, and where: beside the logger's own files, or nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .lightning_runs import BATCHES, quiet_monitor, trained


def files(directory: Path, pattern: str) -> list[Path]:
    """Matching files below a directory."""
    return sorted(path for path in directory.rglob(pattern) if path.is_file())


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a record."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nothing_is_written_without_a_logger(tmp_path: Path) -> None:
    trained(quiet_monitor(html=True), logger=False)
    assert list(tmp_path.iterdir()) == []


def test_log_dir_is_enough(tmp_path: Path) -> None:
    trained(quiet_monitor(log_dir=str(tmp_path / "run")), logger=False)
    (record,) = files(tmp_path, "nndiag.jsonl")
    assert record.parent == tmp_path / "run"
    assert len(records(record)) >= BATCHES - 1
    assert len(files(tmp_path / "run", "events.out.tfevents*")) == 1


def test_tensorboard_goes_through_the_loggers_own_file(tmp_path: Path) -> None:
    monitor = quiet_monitor()
    trainer, _ = trained(monitor, logger=TensorBoardLogger(tmp_path, name="run"), log_every_n_steps=1)
    directory = Path(trainer.logger.log_dir)  # type: ignore[union-attr,arg-type]
    assert len(files(tmp_path, "events.out.tfevents*")) == 1
    assert [path.parent for path in files(tmp_path, "nndiag.jsonl")] == [directory]
    events = EventAccumulator(str(directory))
    events.Reload()
    tags = [tag for kind in events.Tags().values() if isinstance(kind, list) for tag in kind]
    assert any(tag.startswith("nndiag") for tag in tags)
    assert "train_loss" in tags


def test_csv_logger_gets_the_record(tmp_path: Path) -> None:
    trainer, _ = trained(quiet_monitor(), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    directory = Path(trainer.logger.log_dir)  # type: ignore[union-attr,arg-type]
    assert [path.parent for path in files(tmp_path, "nndiag.jsonl")] == [directory]


@pytest.mark.parametrize("options", [{"fast_dev_run": 2}, {"barebones": True}], ids=str)
def test_dry_runs_write_only_where_told(options: dict[str, Any], tmp_path: Path) -> None:
    trained(quiet_monitor(), **options)
    assert list(tmp_path.iterdir()) == []
    trained(quiet_monitor(log_dir=str(tmp_path / "told")), **options)
    assert len(files(tmp_path / "told", "nndiag.jsonl")) == 1


def test_html_report(tmp_path: Path) -> None:
    trained(quiet_monitor(html=str(tmp_path / "report.html")))
    assert "<html" in (tmp_path / "report.html").read_text().lower()


def test_html_report_beside_the_record(tmp_path: Path) -> None:
    trained(quiet_monitor(html=True, log_dir=str(tmp_path / "run")))
    assert len(files(tmp_path / "run", "*.html")) == 1


def test_console_says_something_once(capsys: pytest.CaptureFixture[str]) -> None:
    trained(quiet_monitor(console=True))
    shown = "".join(capsys.readouterr())
    assert "nndiag" in shown
    trained(quiet_monitor(console=False))
    assert "nndiag" not in "".join(capsys.readouterr())


def test_unwritable_directory_costs_the_record_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    monitor = quiet_monitor(log_dir=str(tmp_path / "taken" / "run"), strict=False)
    _, module = trained(monitor)
    _, bare = trained(None)
    assert module.losses == bare.losses
    assert len(monitor.report.readings) > 0


def test_second_run_does_not_write_into_the_first(tmp_path: Path) -> None:
    monitor = quiet_monitor(log_dir=str(tmp_path / "run"))
    trained(monitor)
    trained(monitor)
    (record,) = files(tmp_path, "nndiag.jsonl")
    assert records(record)
