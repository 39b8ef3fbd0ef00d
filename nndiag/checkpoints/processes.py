"""Processes of their own for what reads checkpoints."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND = (sys.executable, "-P", "-m", "nndiag.checkpoints.child")
"""``-P``: no file that lies beside the checkpoint is taken for a module."""


class ReadingProcess:
    """Answers requests one after the other; it starts with the first one.

    Starting it takes longer than reading most checkpoints. On Linux it starts once, and reads each in a fork of
    itself; elsewhere it starts anew for each.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def number(self) -> int | None:
        """By which the system knows it; None: it does not run."""
        return None if self._process is None else self._process.pid

    def answer(self, request: bytes, patience: int) -> int | None:
        """How the reading ended: its exit status, negative for a signal; None: it took too long.

        Args:
            request: One line of JSON.
            patience: Seconds that it may take.
        """
        process = self._running()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(patience, stop)
        timer.start()
        try:
            status = _answer(process, request)
        finally:
            timer.cancel()
            timer.join()
        return None if late.is_set() else status

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _started()
        return self._process

    def close(self) -> None:
        """Ends it, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(OSError), self._process:  # closes its pipes and waits for its end
                pass
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _answer(process: subprocess.Popen[bytes], request: bytes) -> int:
    """What the process says of a request; where it ended without a word, how it ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError):  # it may have ended already
        process.stdin.write(request + b"\n")
        process.stdin.flush()
    said = process.stdout.readline(64)
    if not said:
        return process.wait()
    try:
        return int(said)
    except ValueError:
        process.kill()
        return process.wait()


def _started() -> subprocess.Popen[bytes]:
    home = str(Path(__file__).parents[2])
    paths = [home, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = os.environ | one | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=quiet, env=environment)
