"""What nndiag costs: the same training, bare, bare again and with nndiag, taken in turns.

Run it with ``python examples/overhead.py``. The second bare run shows how much of a difference is noise. Wall time is
what you wait for; on a machine that others use too, compare processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

import nndiag

KINDS = ("bare", "bare again", "with nndiag")


class Run(NamedTuple):
    """One training: seconds on the wall and of the processor, and the last loss."""

    wall: float
    processor: float
    loss: float


def train(kind: str, steps: int, width: int, batch: int) -> Run:
    """Trains a fresh network of six linear layers on synthetic data; only the loop is timed."""
    torch.manual_seed(0)
    layers = [part for _ in range(5) for part in (nn.Linear(width, width), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x, y = torch.randn(8 * batch, width), torch.randint(10, (8 * batch,))
    monitor = nndiag.Monitor(net, optimizer=optimizer, console=False) if kind == "with nndiag" else None

    def loop() -> float:
        loss = torch.zeros(())
        for step in range(steps):
            rows = slice(step % 8 * batch, (step % 8 + 1) * batch)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            if monitor is not None:
                monitor.step(loss, labels=y[rows])
        return float(loss.detach())

    wall, processor = time.perf_counter(), time.process_time()
    if monitor is None:
        last = loop()
    else:
        with monitor:
            last = loop()
    return Run(time.perf_counter() - wall, time.process_time() - processor, last)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Prints the medians and their ratios to the bare run; returns the ratios on the wall."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    train("with nndiag", min(options.steps, 10), options.width, options.batch)  # imports and caches, untimed

    runs: dict[str, list[Run]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds):
        for place in range(len(KINDS)):
            kind = KINDS[(number + place) % len(KINDS)]
            runs[kind].append(train(kind, options.steps, options.width, options.batch))

    walls = {kind: statistics.median(run.wall for run in runs[kind]) for kind in KINDS}
    processors = {kind: statistics.median(run.processor for run in runs[kind]) for kind in KINDS}
    print(f"6 linear layers, width {options.width}, batch {options.batch}, {options.steps} steps,")
    print(
        f"median of {options.rounds} rounds, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    print(f"{'':12} {'wall s':>8} {'ratio':>6} {'processor s':>12} {'ratio':>6}")
    for kind in KINDS:
        wall, processor = walls[kind], processors[kind]
        ratios = f"{wall / walls['bare']:6.3f} {processor:12.2f} {processor / processors['bare']:6.3f}"
        print(f"{kind:12} {wall:8.2f} {ratios}")
    same = len({run.loss for kind in KINDS for run in runs[kind]}) == 1
    print(f"last losses are {'equal' if same else 'NOT equal'}")
    return {kind: walls[kind] / walls["bare"] for kind in KINDS}


if __name__ == "__main__":
    main()
