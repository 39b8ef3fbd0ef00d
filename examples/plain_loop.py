"""A training loop of your own with nndiag around it: copy what you need.

Run it with ``python examples/plain_loop.py``, then ``tensorboard --logdir runs``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import nndiag


def main(steps: int = 300) -> nndiag.Report:
    """Trains a network whose first layer never parts its units: which rule says so?"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 2))
    for parameter in model[0].parameters():
        nn.init.constant_(parameter, 0.1)
    nn.init.constant_(model[2].weight, 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    with nndiag.Monitor(model, optimizer=optimizer, log_dir="runs/plain") as monitor:
        for _ in range(steps):
            x = torch.randn(64, 20)
            y = (x[:, 0] * x[:, 1] > 0).long()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss, labels=y)
    return monitor.report


if __name__ == "__main__":
    main()
