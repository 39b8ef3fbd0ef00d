"""The first use of nndiag in a process: what is loaded late draws no random number of the run's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import random, sys
import numpy as np, torch
import nndiag

watched = bool(int(sys.argv[1]))
torch.manual_seed(0), random.seed(0), np.random.seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
options = {"log_dir": sys.argv[2], "html": True, "console": True, "strict": True}
monitor = nndiag.Monitor(model, optimizer=optimizer, **options) if watched else None
if watched:
    monitor.__enter__()
for _ in range(5):
    loss = model(torch.randn(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if watched:
        monitor.step(loss)
if watched:
    monitor.__exit__(None, None, None)
print(random.random(), np.random.random(), torch.rand(()).item(), [p.sum().item() for p in model.parameters()])
"""


def test_random_streams_are_those_of_a_bare_process(tmp_path: Path) -> None:
    bare, watched = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, flag, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout
        for flag in "01"
    )
    assert watched == bare
