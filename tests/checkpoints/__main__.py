"""``python -m tests.checkpoints``: what hostile files do to their reader; ``--big GB``: what large ones take.

``--wheels DIR``: what is found in the weights that the wheels of a folder carry.

Every file of ``hostile`` is read as ``nndiag check`` reads it, in a process of its own, with a witness inside. The
command fails where one file was accepted, executed anything, opened a socket, or took more than 10 seconds of
processor time or 2 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nndiag import checkpoints
from nndiag.checkpoints import processes
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.errors import CheckpointError

from . import large, real
from .forging import MARKER
from .hostile import KINDS, Maker

WATCHED = (sys.executable, "-P", "-m", "tests.checkpoints.watched")
MOST_SECONDS, MOST_MEMORY = 10.0, 2 << 30


@dataclass(frozen=True)
class Trial:
    """What one file did.

    Attributes:
        name: Its name.
        said: What a person is told; empty: it was accepted.
        seconds: Until it was refused.
        spent: Processor time of it, which no neighbor on the machine adds to.
        memory: Most bytes of the process that read it; 0: it was refused before it was opened.
        code: How often something was executed.
        sockets: How often one was opened.
    """

    name: str
    said: str
    seconds: float
    spent: float
    memory: int
    code: int
    sockets: int

    @property
    def is_well(self) -> bool:
        """Whether it was refused in one line, and did nothing."""
        is_bounded = self.spent <= MOST_SECONDS and self.memory <= MOST_MEMORY
        return bool(self.said) and "\n" not in self.said and not self.code + self.sockets and is_bounded


class Trials:
    """Tries files, one after the other, in one process that forks for each.

    Args:
        home: An empty folder.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.log = home, home / "witness"
        self.log.touch()
        os.environ["NNDIAG_WITNESS"] = str(self.log)
        processes.COMMAND = WATCHED

    def of(self, files: dict[str, Maker], process: ReadingProcess) -> list[Trial]:
        """What each of some files did."""
        return [self._try(name, make, process) for name, make in files.items()]

    def _try(self, name: str, make: Maker, process: ReadingProcess) -> Trial:
        folder = Path(tempfile.mkdtemp(dir=self.home))
        path = make(folder)
        known, said, begin = self.log.stat().st_size, "", time.perf_counter()
        try:
            checkpoints.read(path, process=process)
        except CheckpointError as error:
            said = str(error)
        seconds = time.perf_counter() - begin
        seen = [json.loads(line) for line in self.log.read_bytes()[known:].splitlines()]
        told = ("spent", "memory", "code", "sockets")
        spent, memory, code, sockets = (sum(row.get(key, 0) for row in seen) for key in told)
        ran = (folder / MARKER).exists()
        return Trial(name, said, seconds, spent, memory << 10, code + ran, sockets)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.checkpoints", description=__doc__)
    parser.add_argument("--big", type=float, metavar="GB", help="read synthetic files of this size instead")
    parser.add_argument("--at", type=Path, metavar="DIR", help="where large files go; they are removed")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="check the weights in wheels instead")
    options = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=130)
    if options.big is not None:
        console.print(large.figures(options.big, options.at))
        return 0
    if options.wheels is not None:
        console.print(real.table(options.wheels))
        return 0
    with tempfile.TemporaryDirectory() as scratch, ReadingProcess() as process:
        trials = Trials(Path(scratch))
        begin = time.perf_counter()
        with console.status("starting"):
            trials.of({"start": lambda folder: folder / "nothing.pt", **_first()}, process)
        start = time.perf_counter() - begin
        found = {kind: trials.of(files, process) for kind, files in KINDS.items()}
        base = json.loads(trials.log.read_text().splitlines()[0])["memory"] / 1024
    console.print(_table(found))
    console.print(f"start of the process {start:.1f} s, its memory before the first file {base:.0f} MB")
    bad = [trial.name for trials_ in found.values() for trial in trials_ if not trial.is_well]
    console.print(f"not as they must be: {', '.join(bad) or 'none'}")
    return int(bool(bad))


def _first() -> dict[str, Maker]:
    """A file that is opened: the process starts with it."""
    return {"first": KINDS["other files"]["no file: zeros"]}


def _table(found: dict[str, list[Trial]]) -> Table:
    table = Table(
        *(
            "kind of file",
            "files",
            "refused in one line",
            "code executed",
            "sockets",
            "worst time",
            "processor",
            "memory",
        ),
        title="Hostile and broken files",
    )
    everything = [trial for trials in found.values() for trial in trials]
    for kind, trials in {**found, "all": everything}.items():
        table.add_section() if kind == "all" else None
        table.add_row(
            *(kind, str(len(trials)), str(sum(bool(t.said) and "\n" not in t.said for t in trials))),
            *(str(sum(t.code for t in trials)), str(sum(t.sockets for t in trials))),
            *(f"{max(t.seconds for t in trials):.2f} s", f"{max(t.spent for t in trials):.2f} s"),
            f"{max(t.memory for t in trials) / 2**20:.0f} MB",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
