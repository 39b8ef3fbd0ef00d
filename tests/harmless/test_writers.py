"""Where a disk fails, the run goes on: one warning a writer, and the report is whole."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from torch import nn

import nndiag
from nndiag.guard import LIMIT
from nndiag.observe.schedule import Budget
from nndiag.sinks import RecordSink

resource = pytest.importorskip("resource")

# TensorBoard's own thread dies of the error too, after it has handed it on.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

STEPS, LATER = 10, 4
VISITS = 6
"""Of the first ten steps: 0, 1, 2, 3, 5, 8."""

WRITERS = ("TensorBoardSink", "RecordSink", "HtmlSink")
Ill = Callable[[Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def size_limit(most: int) -> Iterator[None]:
    """No file may become larger: writing raises as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def removed(directory: Path) -> Iterator[None]:
    """Somebody clears up."""
    shutil.rmtree(directory)
    yield


@contextlib.contextmanager
def replaced(directory: Path) -> Iterator[None]:
    """The directory is gone, and a file has its name: nothing can be made there again."""
    shutil.rmtree(directory)
    directory.write_text("a file")
    yield


def train(directory: Path | None, ill: Ill | None = None, **options: Any) -> tuple[list[float], Any]:
    """Ten steps; the disk falls ill after four. Returns what training is, and the monitor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    settings = {"max_overhead": None, "console": False, "html": True, "log_dir": directory, **options}
    monitor = nndiag.Monitor(model, optimizer=optimizer, **settings) if directory is not None else None
    losses = []
    with contextlib.ExitStack() as disk, monitor or contextlib.nullcontext():
        for step in range(STEPS):
            if step == LATER and ill is not None and directory is not None:
                disk.enter_context(ill(directory))
            loss = model(torch.randn(16, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if monitor is not None:
                monitor.step(loss)
    return [*losses, *(p.sum().item() for p in model.parameters()), torch.rand(()).item()], monitor


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], Counter[str]]]:
    """Number of warnings of nndiag by feature."""
    with caplog.at_level(logging.WARNING, logger="nndiag"):
        yield lambda: Counter(
            record.args[0]  # type: ignore[index]
            for record in caplog.records
            if record.name == "nndiag" and record.msg.startswith("%s failed")
        )


def assert_survived(losses: list[float], monitor: Any, said: Counter[str], *ill: str) -> None:
    """Training is that of a bare run; each ill writer says so once; visits are counted to the end."""
    assert losses == train(None)[0]
    assert said == Counter(ill)
    assert set(monitor.guard.faults) == set(ill)
    assert all(1 <= count <= LIMIT for count in monitor.guard.faults.values())
    assert monitor.report.run["visits"] == VISITS
    assert monitor.report.run["last_step"] == STEPS - 1
    assert monitor.report.readings
    assert not [each for each in threading.enumerate() if isinstance(each, _AsyncWriterThread)]


def test_a_healthy_disk_has_every_file(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    losses, monitor = train(tmp_path / "run")
    assert_survived(losses, monitor, said())
    assert {"nndiag.jsonl", "nndiag.html", "nndiag"} == {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("most", [0, 1000])
def test_a_disk_that_is_full(most: int, tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    losses, monitor = train(tmp_path / "run", lambda directory: size_limit(most))
    assert_survived(losses, monitor, said(), *WRITERS)


def test_a_disk_that_was_full_from_the_start(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    with size_limit(0):
        losses, monitor = train(tmp_path / "run")
    assert_survived(losses, monitor, said(), *WRITERS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_record_on_a_full_device(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    (tmp_path / "nndiag.jsonl").symlink_to("/dev/full")
    losses, monitor = train(tmp_path)
    assert_survived(losses, monitor, said(), "RecordSink")
    assert "No space left" in monitor.guard.causes["RecordSink"]


def test_a_directory_that_is_removed(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    """What can begin anew does: only what hangs on a file that is gone is lost."""
    losses, monitor = train(tmp_path / "run", removed)
    ill = said()
    assert set(ill) <= set(WRITERS)
    assert_survived(losses, monitor, ill, *ill)
    assert "RecordSink" in ill


def test_a_directory_that_becomes_a_file(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    losses, monitor = train(tmp_path / "run", replaced)
    assert_survived(losses, monitor, said(), *WRITERS)


def test_a_directory_that_cannot_be_made(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    (tmp_path / "taken").write_text("a file")
    losses, monitor = train(tmp_path / "taken" / "run")
    assert_survived(losses, monitor, said(), *WRITERS)


@pytest.mark.parametrize(
    ("name", "writer"),
    [("nndiag", "TensorBoardSink"), ("nndiag.jsonl", "RecordSink"), ("nndiag.html", "HtmlSink")],
)
def test_a_name_that_is_taken(
    name: str, writer: str, tmp_path: Path, said: Callable[[], Counter[str]]
) -> None:
    """One writer fails, the others write."""
    taken = tmp_path / name
    taken.write_text("a file") if name == "nndiag" else taken.mkdir()
    losses, monitor = train(tmp_path)
    assert_survived(losses, monitor, said(), writer)
    assert {"nndiag", "nndiag.jsonl", "nndiag.html"} == {path.name for path in tmp_path.iterdir()}


def test_what_was_written_before_can_be_read(tmp_path: Path, said: Callable[[], Counter[str]]) -> None:
    train(tmp_path / "run", lambda directory: size_limit(0))
    assert said()["RecordSink"] == 1
    visits = nndiag.sinks.read_run(tmp_path / "run").visits
    assert [visit.step for visit in visits] == [0, 1, 2, 3]


def test_a_slow_disk_is_charged_and_visited_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes as long as a hundred steps; the clock is not a real one."""
    now = [0.0]
    write = RecordSink.write

    def slow(self: RecordSink, update: Any) -> None:
        now[0] += 100.0
        write(self, update)

    monkeypatch.setattr(RecordSink, "write", slow)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    options = {"max_overhead": 0.03, "console": False, "every_n_train_steps": 10, "log_dir": tmp_path}
    monitor = nndiag.Monitor(model, optimizer=optimizer, strict=True, **options)
    assert monitor._session is not None
    monitor._session.budget = Budget(0.03, lambda: now[0])
    with monitor:
        for _ in range(400):
            now[0] += 1.0
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            monitor.step()
    assert monitor.report.run["cadence"] >= 80
    assert monitor.report.run["visits"] < 60


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_record_without_an_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "nndiag.jsonl").symlink_to("/dev/full")
    with pytest.raises(nndiag.CheckpointError, match="not a regular file"):
        nndiag.sinks.read_run(tmp_path)
