"""Processes that Lightning starts itself; and a collective that the probe does not see coming."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nndiag.sinks import read_run

from .processes import ROOT, train_together

pytestmark = pytest.mark.slow


def launched(strategy: str, log_dir: Path, result: Path) -> dict[str, Any]:
    """What a fit leaves in the process that started the others."""
    arguments = [sys.executable, "-m", "tests.distributed.launched", strategy, str(log_dir), str(result)]
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):  # also those that it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, errors[-4000:]
    return dict(torch.load(result, weights_only=True))


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_fit_is_exact_and_each_rank_records(strategy: str, tmp_path: Path) -> None:
    bare = launched(strategy, Path(), tmp_path / "bare.pt")
    watched = launched(strategy, tmp_path / "run", tmp_path / "watched.pt")
    for name, tensor in bare["weights"].items():
        assert torch.equal(watched["weights"][name], tensor), name
    assert watched["readings"] == 0  # what is seen stays in the processes that train: the record has it
    run = read_run(tmp_path / "run")
    assert list(run.others) == [1]
    assert len(run.visits) >= 4


def test_forward_pass_that_talks_through_a_group_of_its_own_is_not_replayed(tmp_path: Path) -> None:
    """A replay on rank 0 alone would wait for the others until the time of the group is over."""
    for rank in train_together("groups", tmp_path):
        assert rank["rank 0"]["losses"] == rank["off"]["losses"]
