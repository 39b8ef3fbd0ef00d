"""One of two processes: runs cases bare and watched, and leaves what it saw for the tests to judge."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn

import nndiag
from nndiag.noticeboard import Noticeboard
from nndiag.session import Session

from . import programs
from .counting import counted

Outcome = dict[str, Any]
ENTRIES = ("begin_batch", "before_update", "end_batch", "_diagnose", "_look", "close")
FIT_ENTRIES = ("begin_batch", "end_batch", "close")
OPTIONS: dict[str, Any] = {"every_n_train_steps": 1, "max_overhead": None, "console": False}


def outcome(model: nn.Module, losses: list[float], report: nndiag.Report | None) -> Outcome:
    """What a run left behind."""
    seen: Outcome = {"losses": losses, "random": torch.get_rng_state()}
    seen["weights"] = {name: _local(tensor) for name, tensor in model.state_dict().items()}
    if report is not None:
        seen |= {"run": dict(report.run), "notes": list(report.coverage.notes)}
        seen["readings"] = sorted({reading.tag for reading in report.readings})
        seen["gaps"] = sorted({entry.reason for entry in report.coverage if entry.status == "not observed"})
        found = [finding for top in report.findings for finding in top.walk()]
        seen["findings"] = [finding.rule for finding in found]
        seen["ranks"] = {finding.rule: finding.evidence.get("ranks") for finding in found}
    return seen


def _local(tensor: Any) -> torch.Tensor:
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach().clone()


def looped(
    make: Callable[[], nn.Module],
    *,
    on: str,
    directory: Path,
    join: bool = False,
    inner: bool = True,
    **options: Any,
) -> Outcome:
    """A plain loop; ``inner`` watches the model within DDP."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = make()
    steps = programs.STEPS - 3 * rank if join else programs.STEPS
    watched = model.module if inner and hasattr(model, "module") else model
    is_on = on == "all" or (on == "rank 0" and rank == 0)

    def monitor(optimizer: torch.optim.Optimizer) -> nndiag.Monitor:
        return nndiag.Monitor(watched, optimizer=optimizer, log_dir=directory, **OPTIONS, **options)

    torch.manual_seed(5 + rank)
    with counted() as counts:
        losses, watching = programs.loop(
            model, programs.batches(rank, ranks)[:steps], monitor if is_on else None, join=join
        )
    return outcome(model, losses, watching.report if watching else None) | {"collectives": dict(counts)}


def merged(directory: Path) -> dict[str, Outcome]:
    """Findings are passed on: rank 1 has one of its own, and the exchange fails on one rank in turn."""
    seen: dict[str, Outcome] = {}
    failing = {"rank 1 has a fault": (1, Session, "_watch_loss")}
    failing |= {f"exchange fails on {rank}": (rank, Noticeboard, "exchange") for rank in (0, 1)}
    for name, (rank, home, entry) in failing.items():
        original = getattr(home, entry)
        if dist.get_rank() == rank:
            setattr(home, entry, _raise)
        try:
            seen[f"merged, {name}"] = looped(
                **LOOPS["ddp"], on="all", directory=directory / name, merge_ranks=True
            )
            seen[f"merged by Lightning, {name}"] = fitted(
                **FITS["Lightning ddp"], on="merged", directory=directory, merge_ranks=True
            )
        finally:
            setattr(home, entry, original)
    return seen


def fitted(
    make: Callable[[], programs.Classifier],
    strategy: Callable[[], Strategy],
    *,
    on: str,
    directory: Path,
    **options: Any,
) -> Outcome:
    """A fit under Lightning."""
    torch.manual_seed(0)
    module = make()
    log_dir = str(directory) if on == "all" else None
    monitor = nndiag.DiagnosticsMonitor(log_dir=log_dir, **{**OPTIONS, **options}) if on != "off" else None
    with counted() as counts:
        trainer = Trainer(
            accelerator="cpu",
            devices=2,
            strategy=strategy(),
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[monitor] if monitor else [],
        )
        trainer.fit(module)
    report = monitor.report if monitor is not None and len(monitor.report.readings) else None
    return outcome(module, module.losses, report) | {"collectives": dict(counts)}


def classifier() -> programs.Classifier:
    """An ordinary network."""
    return programs.Classifier(programs.network())


LOOPS: dict[str, dict[str, Any]] = {
    "ddp": {"make": lambda: programs.wrapped(programs.network())},
    "ddp watched from outside": {"make": lambda: programs.wrapped(programs.network()), "inner": False},
    "uneven data": {"make": lambda: programs.wrapped(programs.network(norm=False)), "join": True},
    "find unused": {"make": lambda: programs.wrapped(programs.Sometimes(), find_unused_parameters=True)},
    "static graph": {"make": lambda: programs.wrapped(programs.network(), static_graph=True)},
    "gathering": {"make": lambda: programs.wrapped(programs.Gathering())},
    "sharded": {"make": programs.sharded},
    "tensor parallel": {"make": programs.split},
}
FITS: dict[str, dict[str, Any]] = {
    "Lightning ddp": {"make": classifier, "strategy": DDPStrategy},
    "Lightning find unused": {
        "make": lambda: programs.Classifier(programs.Sometimes()),
        "strategy": lambda: DDPStrategy(find_unused_parameters=True),
    },
    "Lightning static graph": {"make": classifier, "strategy": lambda: DDPStrategy(static_graph=True)},
    "Lightning model parallel": {
        "make": programs.Sharded,
        "strategy": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    },
}


def exactness(directory: Path) -> dict[str, Outcome]:
    """Every case bare, watched on rank 0 alone, and watched everywhere."""
    seen: dict[str, Outcome] = {}
    for name, options in (LOOPS | FITS).items():
        run = looped if name in LOOPS else fitted
        for on in ("off", "rank 0", "all"):
            seen[f"{name}, {on}"] = run(on=on, directory=directory / name, **options)
    seen["stop on one rank"] = fitted(
        **FITS["Lightning model parallel"], on="rank 0", directory=directory, stop_on="info"
    )
    keep_snapshots(directory / "snapshots", dist.get_rank(), dist.get_world_size())
    return seen


def keep_snapshots(directory: Path, rank: int, ranks: int) -> None:
    """Every statistic of a run; of one process alone it is called with all batches put together."""
    torch.manual_seed(0)
    model = programs.network(norm=False)

    def monitor(optimizer: torch.optim.Optimizer) -> nndiag.Monitor:
        watching = nndiag.Monitor(model, optimizer=optimizer, **OPTIONS)
        assert watching._session is not None
        watching._session.sinks.append(programs.Keeper(directory, f"{rank} of {ranks}"))
        return watching

    trained = programs.wrapped(model) if ranks > 1 else model
    programs.loop(trained, programs.batches(rank, ranks), monitor)


def faults(directory: Path) -> dict[str, Outcome]:
    """nndiag fails on one rank, at each of its entries in turn."""
    seen: dict[str, Outcome] = {}
    for entry in ENTRIES:
        for rank in (0, 1):
            original = getattr(Session, entry)
            if dist.get_rank() == rank:
                setattr(Session, entry, _raise)
            try:
                place = directory / f"{entry} {rank}"
                seen[f"ddp, {entry} fails on {rank}"] = looped(**LOOPS["ddp"], on="all", directory=place)
                if entry in FIT_ENTRIES:
                    fit = fitted(**FITS["Lightning ddp"], on="all", directory=place / "fit")
                    seen[f"Lightning ddp, {entry} fails on {rank}"] = fit
            finally:
                setattr(Session, entry, original)
    return seen


def _raise(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("a fault of nndiag's")


def groups(directory: Path) -> dict[str, Outcome]:
    """The forward pass talks through a group of its own; rank 0 alone is watched."""
    group = dist.new_group([0, 1])

    def make() -> nn.Module:
        return programs.wrapped(programs.Gathering(group))

    return {on: looped(make, on=on, directory=directory) for on in ("off", "rank 0")}


PARTS: dict[str, Callable[[Path], dict[str, Outcome]]] = {
    "exactness": exactness,
    "faults": faults,
    "groups": groups,
    "merged": merged,
}


def main(parts: str, directory: Path) -> None:
    """Runs parts and leaves the outcome of this rank in the directory."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rank = int(os.environ["RANK"])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=20 if parts == "groups" else 60),
    )
    seen: dict[str, Outcome] = {}
    for part in parts.split(","):
        seen |= PARTS[part](directory)
    torch.save(seen, directory / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
