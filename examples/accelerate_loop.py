"""A loop under Hugging Face Accelerate with nndiag around it: copy what you need.

Run it with ``python examples/accelerate_loop.py``, then ``tensorboard --logdir runs``. It needs ``accelerate``.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nndiag


def main(epochs: int = 2) -> nndiag.Report:
    """Trains a network whose middle layer is off for good: which rule says so?"""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    nn.init.constant_(network[2].bias, -50.0)
    x = torch.randn(2048, 20)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=32, shuffle=True)

    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    model, optimizer, batches = accelerator.prepare(network, adam, data)
    # No `optimizer=`: the monitor finds the one inside Accelerate's by the parameters it holds.
    with nndiag.Monitor(accelerator.unwrap_model(model), log_dir="runs/accelerate") as monitor:
        for _ in range(epochs):
            for inputs, labels in batches:
                with accelerator.accumulate(model):
                    loss = F.cross_entropy(model(inputs), labels)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                    if accelerator.sync_gradients:  # an optimizer step, not only a batch
                        monitor.step(loss, labels=labels)
    return monitor.report


if __name__ == "__main__":
    main()
