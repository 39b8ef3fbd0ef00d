"""A small LightningModule and quiet Trainers for the integration tests."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nndiag

BATCH, BATCHES = 8, 6
"""An epoch is six batches of eight samples."""

RESUME: dict[str, Any] = (
    {"weights_only": True} if "weights_only" in inspect.signature(Trainer.fit).parameters else {}
)
"""How ``fit`` reads a checkpoint; before Lightning 2.6 it cannot be told to run no code of the file's."""


class Classifier(LightningModule):
    """Three classes; every stage has a step; ``fail_at`` raises ``error`` in a training step."""

    def __init__(self, error: BaseException | None = None, fail_at: int = 3) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
        )
        self.error, self.fail_at = error, fail_at
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        if self.error is not None and batch_idx == self.fail_at:
            raise self.error
        loss = self._loss(batch)
        self.log("train_loss", loss)
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Cross-entropy."""
        self.log("val_loss", self._loss(batch))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class scores."""
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def _loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def loader(shuffle: bool = False) -> DataLoader[Any]:
    """The same data each time."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(BATCH * BATCHES, 6, generator=generator)
    return DataLoader(TensorDataset(x, x.abs().sum(dim=1).long() % 3), BATCH, shuffle=shuffle)


def quiet_trainer(*callbacks: Any, **options: Any) -> Trainer:
    """A Trainer on the CPU that says and writes nothing of its own."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    if options.get("barebones"):
        defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1}
    return Trainer(callbacks=list(callbacks), **(defaults | options))


def quiet_monitor(**options: Any) -> nndiag.DiagnosticsMonitor:
    """A monitor that looks at each step it may and prints nothing; its own faults raise."""
    return nndiag.DiagnosticsMonitor(
        **{"every_n_train_steps": 1, "max_overhead": None, "console": False, "strict": True, **options}
    )


def trained(monitor: Any, module: Classifier | None = None, **options: Any) -> tuple[Trainer, Classifier]:
    """One fit with validation."""
    torch.manual_seed(0)
    module = module or Classifier()
    trainer = quiet_trainer(*([monitor] if monitor is not None else []), **options)
    trainer.fit(module, loader(shuffle=True), loader())
    return trainer, module


def hooks_on(module: nn.Module) -> int:
    """Forward and backward hooks on all submodules, and an own ``training_step`` if one is left."""
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    count = sum(len(vars(each)[table]) for each in module.modules() for table in tables)
    return count + ("training_step" in vars(module))
