"""A Lightning script with nndiag in it: copy what you need.

Run it with ``python examples/lightning_digits.py``, then ``tensorboard --logdir runs``.
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nndiag


class Classifier(pl.LightningModule):
    """A small network for 8x8 digits. One of its layers starts badly: which one?"""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10)
        )
        nn.init.normal_(self.net[2].weight, std=6.0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of one batch."""
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with its usual learning rate."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(epochs: int = 5) -> nndiag.Report:
    """Trains and, at the end, prints what nndiag found."""
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    loader = DataLoader(TensorDataset(x, torch.tensor(digits.target)), batch_size=64, shuffle=True)

    monitor = nndiag.DiagnosticsMonitor()
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=TensorBoardLogger("runs"), callbacks=[monitor]
    )
    trainer.fit(Classifier(), loader)
    return monitor.report


if __name__ == "__main__":
    main()
