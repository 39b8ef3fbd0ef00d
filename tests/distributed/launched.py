"""A fit whose processes Lightning starts itself; run as a program of its own."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer

import nndiag

from . import programs


def main(strategy: str, log_dir: Path, result: Path) -> None:
    """Leaves the weights, and how many readings the monitor of this process has.

    Args:
        strategy: Lightning's name of it.
        log_dir: Where the ranks record; a dot trains bare.
        result: The file to write.
    """
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(0)
    module = programs.Classifier(programs.network())
    monitor = nndiag.DiagnosticsMonitor(
        every_n_train_steps=1, max_overhead=None, console=False, log_dir=str(log_dir)
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor] if str(log_dir) != "." else [],
    )
    trainer.fit(module)
    torch.save({"weights": module.state_dict(), "readings": len(monitor.report.readings)}, result)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
