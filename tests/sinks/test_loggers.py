"""Which sinks a Trainer's loggers call for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nndiag.options import MonitorOptions
from nndiag.sinks import HtmlSink, RecordSink, TensorBoardSink, sinks_for


def kinds(*log_dirs: Any, fast_dev_run: int = 0, **options: Any) -> set[type]:
    """The kinds of sinks of a Trainer whose loggers write into these directories."""
    loggers = [SimpleNamespace(log_dir=log_dir) for log_dir in log_dirs]
    trainer = SimpleNamespace(fast_dev_run=fast_dev_run, barebones=False, loggers=loggers)
    return set(map(type, sinks_for(trainer, MonitorOptions.checked(console=False, **options))))


def test_a_record_lies_beside_what_a_logger_writes(tmp_path: Path) -> None:
    assert kinds(str(tmp_path)) == kinds(tmp_path) == kinds(None, tmp_path) == {RecordSink}
    assert kinds(tmp_path, html=True) == {RecordSink, HtmlSink}


@pytest.mark.parametrize("log_dirs", [(), (None,), (3,), ("s3://bucket/run",), ("gs://bucket/run",)], ids=str)
def test_nothing_is_written_without_a_directory(log_dirs: tuple[Any, ...]) -> None:
    """An address of a cloud store would become a local directory of that name."""
    assert kinds(*log_dirs) == kinds(*log_dirs, html=True) == set()


@pytest.mark.parametrize("fast_dev_run", [0, 1])
def test_log_dir_says_where(fast_dev_run: int, tmp_path: Path) -> None:
    told = str(tmp_path)
    assert kinds(fast_dev_run=fast_dev_run, log_dir=told) == {TensorBoardSink, RecordSink}
    assert kinds("s3://bucket/run", fast_dev_run=fast_dev_run, log_dir=told) == {TensorBoardSink, RecordSink}


def test_a_dry_run_has_no_directory(tmp_path: Path) -> None:
    assert kinds(tmp_path, fast_dev_run=1) == set()
    assert kinds(tmp_path, fast_dev_run=1, html=str(tmp_path / "x.html")) == {HtmlSink}
