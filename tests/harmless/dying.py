"""Training runs that end by a signal: ``python dying.py DIRECTORY``, the plan on standard input.

Libraries are loaded once; each run is a process of its own, forked from this one.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
import torch.utils.tensorboard
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nndiag
from nndiag.diagnosis import Update
from nndiag.sinks import RecordSink

STEPS = 12
FLUSHED, RECORDS = "flushed.txt", "run"
HOME = str(Path(nndiag.__file__).parent)
OPTIONS: dict[str, Any] = {"every_n_train_steps": 4, "max_overhead": None, "console": False, "html": True}


def network() -> nn.Sequential:
    """A layer of most kinds."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))


class Module(pl.LightningModule):
    """The network under Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss."""
        return self.network(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train_in_a_loop(directory: Path) -> None:
    """A loop of one's own."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with nndiag.Monitor(model, optimizer=optimizer, log_dir=directory, **OPTIONS) as monitor:
        for _ in range(STEPS):
            loss = model(torch.randn(8, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss)


def train_under_lightning(directory: Path) -> None:
    """The Trainer has handlers of its own for some signals."""
    monitor = nndiag.DiagnosticsMonitor(log_dir=str(directory), **OPTIONS)
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = dict.fromkeys(quiet, False) | {"accelerator": "cpu", "max_steps": STEPS}
    trainer = pl.Trainer(callbacks=[monitor], default_root_dir=directory.parent, **options)
    trainer.fit(Module(), DataLoader(TensorDataset(torch.randn(8 * STEPS, 4)), 8))


DRIVERS: dict[str, Callable[[Path], None]] = {"loop": train_in_a_loop, "lightning": train_under_lightning}


@contextmanager
def counted(die_at: int | None, number: int) -> Iterator[list[int]]:
    """Counts calls of nndiag's functions; at one of them the signal comes."""
    calls = [0]

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HOME):
            calls[0] += 1
            if calls[0] == die_at:
                os.kill(os.getpid(), number)

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@contextmanager
def noted(directory: Path) -> Iterator[None]:
    """Writes down each visit that the record has taken, past all buffers."""
    file = os.open(directory / FLUSHED, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    write = RecordSink.write

    def noting(self: RecordSink, update: Update) -> None:
        write(self, update)
        os.write(file, f"{update.step}\n".encode())

    RecordSink.write = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        RecordSink.write = write  # type: ignore[method-assign]


def whole(directory: Path, driver: str) -> int:
    """A training to the end; how many calls there were. What is loaded late is loaded from here on."""
    directory.mkdir(parents=True)
    with noted(directory), counted(None, 0) as calls:
        DRIVERS[driver](directory / RECORDS)
    return calls[0]


def cut_short(directory: Path, driver: str, die_at: int, number: int) -> None:
    """A training in a process of its own, to the given call."""
    directory.mkdir(parents=True)
    process = os.fork()
    if process:
        os.waitpid(process, 0)
        return
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the interpreter says what ended it
        with noted(directory), counted(die_at, number):
            DRIVERS[driver](directory / RECORDS)
    finally:
        os._exit(0)  # nothing of the parent's is to be closed twice


def main() -> None:
    """Runs what the plan asks for: ``[[name, driver, signal, where from 0 to 1], ...]``."""
    warnings.simplefilter("ignore")
    root, totals = Path(sys.argv[1]), {}
    for name, driver, number, where in json.load(sys.stdin):
        if driver not in totals:
            totals[driver] = whole(root / f"whole-{driver}", driver)
        cut_short(root / name, driver, 1 + int(where * (totals[driver] - 1)), number)
    sys.stdout.write(json.dumps(totals))


if __name__ == "__main__":
    main()
