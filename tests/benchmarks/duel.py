"""Processes that train side by side and take turns: one an arm, one running at a time."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Setting(NamedTuple):
    """How arms are compared on one workload.

    Attributes:
        workload: As ``workloads.make`` takes it.
        loop: "plain" or "lightning".
        arms: Their names.
        processes: Fresh processes an arm: each keeps its place in memory for life, which is chance too.
        rounds: Turns of each process.
        seconds: Of a turn; one step at least.
        threads: Of torch.
    """

    workload: str
    loop: str
    arms: Sequence[str]
    processes: int
    rounds: int
    seconds: float
    threads: int


class Process:
    """One arm in a process of its own.

    Args:
        arm: Its name.
        setting: How it is compared.
        python: Of its environment.
        prepare: Steps before the first turn; None: as many as the arm needs to settle down.
    """

    def __init__(
        self, arm: str, setting: Setting, python: str = sys.executable, prepare: int | None = None
    ) -> None:
        self.row: dict[str, Any] = {
            "arm": arm,
            "workload": setting.workload,
            "loop": setting.loop,
            "turns": [],
        }
        self._directory = tempfile.TemporaryDirectory()
        threads = str(setting.threads)
        if prepare is None:
            prepare = 62 if arm == "nndiag" or setting.loop == "lightning" else 18 if "nndiag" in arm else 3
        command = [python, "-m", "tests.benchmarks.worker", arm, setting.workload, setting.loop, str(prepare)]
        # Spinning threads would wait for a core that others use.
        waiting = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
        self._pipe = subprocess.Popen(
            [*command, self._directory.name, threads],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=os.environ | waiting,
            text=True,
        )
        self.row |= self._hear()

    @property
    def is_alive(self) -> bool:
        """Whether it may have a turn."""
        return "error" not in self.row

    def turn(self, **order: Any) -> dict[str, Any]:
        """Trains for a while and says how long that took."""
        assert self._pipe.stdin is not None
        self._pipe.stdin.write(json.dumps(order) + "\n")
        self._pipe.stdin.flush()
        answer = self._hear()
        if "error" in answer:
            self.row |= answer
        return answer

    def end(self) -> dict[str, Any]:
        """Lets it close; all that was measured."""
        assert self._pipe.stdin is not None
        self._pipe.stdin.close()
        if self.is_alive:
            self.row |= self._hear()
        self._pipe.wait()
        self._directory.cleanup()
        return self.row

    def _hear(self) -> dict[str, Any]:
        assert self._pipe.stdout is not None
        line = self._pipe.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        return answer


def duel(setting: Setting, environments: Mapping[str, str], regular: int) -> list[dict[str, Any]]:
    """All arms of one setting; one row a process.

    Args:
        setting: How they are compared.
        environments: Pythons by arm, where it is not this one.
        regular: A step far behind the start, at which a burst begins.
    """
    rows = []
    for number in range(setting.processes):
        running = []
        for arm in setting.arms:
            process = Process(arm, setting, environments.get(arm, sys.executable))
            process.row["process"] = number
            running.append(process)
            if process.is_alive and arm.startswith("nndiag") and setting.loop == "plain":
                process.row["burst"] = process.turn(to=regular, steps=2)
        order = random.Random(number)
        for _ in range(setting.rounds):
            for process in order.sample(running, len(running)):
                if process.is_alive:
                    process.row["turns"].append(process.turn(seconds=setting.seconds))
        rows += [process.end() for process in running]
    return rows
