"""``python -m tests.benchmarks.worker``: one process that trains under one arm, in turns that another hands out.

Reads lines of JSON from standard input, answers each with one on standard output; a turn goes on for as many
seconds as it says, and for one step at least.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .arms import Watcher, attach
from .meter import Meter
from .workloads import Batch, Workload, make

REGULAR = 1000
"""A step far behind the start of a run, at which a burst begins."""


class Turns:
    """The batches of a training, and the times of its steps, turn by turn."""

    def __init__(self, work: Workload, meter: Meter, prepare: int, out: Any) -> None:
        self._work, self._meter, self._prepare, self._out = work, meter, prepare, out
        self.watcher: Watcher | None = None
        self.last_loss = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = self._work.endless()
        for _ in range(3):  # the first steps of a process are slow, watched or not
            yield next(batches)
        begin = self._now()
        for _ in range(self._prepare):
            yield next(batches)
        self._say(start_up=self._since(begin, self._prepare) if self._prepare else None)
        for line in sys.stdin:
            order = json.loads(line)
            if "to" in order:
                self._jump(order["to"])
            begin, steps = self._now(), 0
            while steps < order.get("steps", 1) or time.perf_counter() - begin[0] < order.get("seconds", 0):
                yield next(batches)
                steps += 1
            self._say(**self._since(begin, steps))

    def _jump(self, step: int) -> None:
        """Goes on as if at another step: a run of thousands is not waited for."""
        monitor = self.watcher.session if self.watcher else None
        if monitor is not None:
            monitor._step = step
            monitor._begin()

    def _now(self) -> tuple[float, ...]:
        return time.perf_counter(), time.process_time(), *self._meter.read()

    def _since(self, begin: tuple[float, ...], steps: int) -> dict[str, Any]:
        spent = [now - then for now, then in zip(self._now(), begin, strict=True)]
        names = ("wall", "cpu", "inside_wall", "inside_cpu")
        return {"steps": steps, **dict(zip(names, spent, strict=True))}

    def _say(self, **answer: Any) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()


def plain(work: Workload, turns: Turns, watcher: Watcher) -> None:
    """The loop that a user writes."""
    for batch in turns:
        loss = work.step(batch)
        watcher.after(batch, loss)
        turns.last_loss = float(loss.detach())


def lightning(work: Workload, turns: Turns, watcher: Watcher, directory: Path) -> None:
    """The same training by a Trainer."""
    import logging

    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = work.model

        def training_step(self, batch: Batch, index: int) -> torch.Tensor:
            loss = work.loss(batch)
            turns.last_loss = float(loss.detach())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return work.optimizer

    class Batches(torch.utils.data.IterableDataset[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            return iter(turns)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [] if watcher.callback is None else [watcher.callback]
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=callbacks, default_root_dir=directory,
        enable_model_summary=False, **quiet,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(Batches(), batch_size=None))


def summary(watcher: Watcher, directory: Path, turns: Turns) -> dict[str, Any]:
    """What is known at the end: memory, bytes, the loss, and of nndiag the samples of its probe."""
    files = [Path(at, name) for at, _, names in os.walk(directory) for name in names]
    found: dict[str, Any] = {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "bytes": sum(path.stat().st_size for path in files),
        "loss": turns.last_loss,
    }
    if watcher.session is not None:
        found["run"] = {key: str(value) for key, value in watcher.session.report.run.items()}
        found["notes"] = list(watcher.session.report.coverage.notes)
    return found


def main() -> None:
    """Arguments: arm, workload, loop, steps of preparation, directory, threads."""
    arm, spec, loop, prepare, directory, threads = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # peers may print
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(threads))
    meter, work = Meter(), make(spec)
    turns = Turns(work, meter, int(prepare), out)
    try:
        watcher = attach(arm, work, Path(directory), meter, lightning=loop == "lightning")
        turns.watcher = watcher
        if loop == "lightning":
            lightning(work, turns, watcher, Path(directory))
        else:
            plain(work, turns, watcher)
        watcher.close()
        answer = summary(watcher, Path(directory), turns)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:200]}
    out.write(json.dumps(answer) + "\n")
    out.flush()
    os._exit(0)  # helpers of peers may not want to end


if __name__ == "__main__":
    main()
