"""Runs a part of ``worker.py`` in two processes that train together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RANKS = 2
ROOT = Path(__file__).parents[2]

Outcomes = list[dict[str, dict[str, Any]]]
"""What each rank brought back: by case, what was seen there."""


def train_together(parts: str, directory: Path, seconds: float = 150) -> Outcomes:
    """The outcomes of all ranks; a pair that fails or does not end is killed.

    Args:
        parts: The parts to run, with commas between.
        directory: Where the processes meet and leave what they bring back.
        seconds: After which a pair counts as hanging.
    """
    arguments = [sys.executable, "-m", "tests.distributed.worker", parts, str(directory)]
    surroundings = {
        key: value for key, value in os.environ.items() if not key.startswith(("NNDIAG", "MASTER"))
    }
    surroundings |= {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(RANKS), "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    try:
        for rank in range(RANKS):
            log = (directory / f"rank{rank}.log").open("w")
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **surroundings}
            processes.append(
                subprocess.Popen(arguments, cwd=ROOT, env=own, stdout=log, stderr=subprocess.STDOUT)
            )
            log.close()
        for process in processes:
            process.wait(seconds)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    logs = [(directory / f"rank{rank}.log").read_text() for rank in range(RANKS)]
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(text[-4000:] for text in logs))
    return [torch.load(directory / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]
