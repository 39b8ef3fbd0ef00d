"""Several checkpoints of one run, in the order of their steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nndiag import checkpoints
from nndiag.checkpoints import reading
from nndiag.checkpoints.child import read_here
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.errors import CheckpointError
from nndiag.snapshot import Snapshot


def save(path: Path, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"fc.weight": torch.rand(3, 2)}, **more}, path)
    return path


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each would take its time; the reader is the same."""

    def read(path: Path, *, layers: Any = None, process: Any = None) -> Snapshot:
        with reading._about(path):
            return read_here(path, layers)

    monkeypatch.setattr(reading, "read", read)


def test_folder_of_checkpoints_through_children(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", global_step=30)
    save(tmp_path / "epoch=0-step=4.ckpt", global_step=4)
    told: list[tuple[int, int]] = []
    series = checkpoints.read_series(tmp_path, progress=lambda done, total, path: told.append((done, total)))
    assert [snapshot.step for snapshot in series] == [4, 30]
    assert told == [(1, 2), (2, 2)]


@pytest.mark.usefixtures("in_process")
def test_order_is_that_of_steps_not_of_names(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f"{name}.pt", global_step=step) for name, step in (("a", 30), ("b", 4), ("c", 100))
    ]
    assert [s.step for s in checkpoints.read_series(paths)] == [4, 30, 100]


@pytest.mark.usefixtures("in_process")
def test_without_steps_the_order_given_stands(tmp_path: Path) -> None:
    paths = [save(tmp_path / "b.pt"), save(tmp_path / "a.pt", global_step=7), save(tmp_path / "c.pt")]
    series = checkpoints.read_series(paths)
    assert [s.step for s in series] == [0, 1, 2]
    assert series[1].facts["step_from"] == "the checkpoint"
    assert all("numbered in the order" in s.notes[-1] for s in series)


@pytest.mark.usefixtures("in_process")
def test_of_two_at_one_step_the_first_is_kept(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.pt", global_step=5, epoch=1), save(tmp_path / "b.pt", global_step=5, epoch=2)]
    (kept,) = checkpoints.read_series(paths)
    assert kept.facts["epoch"] == 1
    assert kept.notes[-1] == "another checkpoint of step 5 was left out"


@pytest.mark.usefixtures("in_process")
def test_one_alone_keeps_its_step(tmp_path: Path) -> None:
    (alone,) = checkpoints.read_series(save(tmp_path / "a.pt"))
    assert (alone.step, alone.facts["step_from"]) == (0, "unknown")


@pytest.mark.usefixtures("in_process")
def test_one_broken_file_is_named(tmp_path: Path) -> None:
    good, bad = save(tmp_path / "a.pt"), tmp_path / "b.pt"
    bad.write_bytes(b"P")
    with pytest.raises(CheckpointError, match=r"b\.pt is of no kind"):
        checkpoints.read_series([good, bad])


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        save(tmp_path / f"checkpoint-{step}" / "pytorch_model.bin")
    for other in ("optimizer.pt", "training_args.bin", "rng_state_0.pth", "scheduler.pt", "notes.txt"):
        save(tmp_path / other)
    (tmp_path / ".cache").mkdir()
    found = checkpoints.find(tmp_path)
    assert [path.name for path in found] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]


def test_a_path_twice_is_one_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt")
    assert checkpoints.find([path, tmp_path, path]) == (path,)


def test_several_are_no_single_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "a.pt"), save(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="holds 2 checkpoints: read them as a series"):
        checkpoints.read(tmp_path)


def test_a_folder_with_one_is_that_one(tmp_path: Path) -> None:
    save(tmp_path / "run" / "a.ckpt", global_step=8)
    assert read_here(tmp_path / "run").step == 8


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(("worth", "started"), [(1, 3), (1 << 30, 1)])
def test_further_processes_are_started_for_large_files(
    worth: int, started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count: list[ReadingProcess] = []

    class Counted(ReadingProcess):
        def __init__(self) -> None:
            super().__init__()
            count.append(self)

    monkeypatch.setattr(reading, "ReadingProcess", Counted)
    monkeypatch.setattr(reading, "_WORTH_A_PROCESS", worth)
    monkeypatch.setattr(reading.os, "cpu_count", lambda: 3)
    series = checkpoints.read_series([save(tmp_path / f"{n}.pt", global_step=n) for n in range(4)])
    assert [snapshot.step for snapshot in series] == [0, 1, 2, 3]
    assert len(count) == started
