"""A loop under Lightning Fabric with nndiag around it: copy what you need.

Run it with ``python examples/fabric_loop.py``, then ``tensorboard --logdir runs``.
"""

from __future__ import annotations

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nndiag


def main(epochs: int = 2) -> nndiag.Report:
    """Trains a network whose middle layer is off for good: which rule says so?"""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    nn.init.constant_(model[2].bias, -50.0)
    x = torch.randn(2048, 20)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=64, shuffle=True)

    wrapped, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    batches = fabric.setup_dataloaders(data)
    with nndiag.Monitor(model, optimizer=optimizer, log_dir="runs/fabric") as monitor:
        for _ in range(epochs):
            for inputs, labels in batches:
                loss = F.cross_entropy(wrapped(inputs), labels)
                fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                monitor.step(loss, labels=labels)
    return monitor.report


if __name__ == "__main__":
    main()
