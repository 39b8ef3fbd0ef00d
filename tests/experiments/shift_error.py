"""The shift of layers over ten steps, on fixed samples and from real batches, against that on all samples.

With a learning rate of 0 nothing moves and a probe reads exactly 0; but batch normalization still takes batches into
its running statistics, which is movement in evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from nndiag.functional import debiased, hellinger2, hellinger2_floor
from nndiag.statistics import Moments

from .digits import SAMPLES, batches, digits, perceptron, train

INTERVAL, BATCH = 10, 64
PROBES = (128, 256)
NETS: dict[str, tuple[Callable[[], nn.Sequential], float]] = {
    "tanh": (functools.partial(perceptron, nn.Tanh), 0.03),
    "relu": (functools.partial(perceptron, nn.ReLU), 0.03),
    "batch norm, relu": (functools.partial(perceptron, nn.ReLU, nn.BatchNorm1d), 0.03),
    "layer norm, relu": (functools.partial(perceptron, nn.ReLU, nn.LayerNorm), 0.3),
}
"""Each with the learning rate at which it is looked at."""


@dataclass(frozen=True)
class Row:
    """Mean shifts, and root mean square errors, over layers, intervals and seeds."""

    net: str
    lr: float
    truth: float
    probe_errors: dict[int, float]
    stream_error: float
    stream_raw: float


class Seen:
    """Moments of the outputs of every linear layer, merged over the calls seen since they were last taken."""

    def __init__(self, model: nn.Sequential) -> None:
        self._found: dict[nn.Module, Moments] = {}
        self._handles = [
            layer.register_forward_hook(self._note) for layer in model if isinstance(layer, nn.Linear)
        ]

    def _note(self, layer: nn.Module, args: object, output: Tensor) -> None:
        new, known = Moments.of(output.detach().unsqueeze(1)).cpu(), self._found.get(layer)
        self._found[layer] = new if known is None else known.merge(new)

    def take(self) -> list[Moments]:
        """One a layer, in order; begins anew."""
        found, self._found = self._found, {}
        return list(found.values())

    def stop(self) -> None:
        """No more calls are seen."""
        for handle in self._handles:
            handle.remove()


def shifts(there: list[Moments], here: list[Moments], *, is_debiased: bool = False) -> list[float]:
    """One a layer: the mean over its units; without what other samples bring by chance, where that is asked."""
    found = []
    for a, b in zip(there, here, strict=True):
        value = float(hellinger2(a.mean, a.variance, b.mean, b.variance).mean())
        floor = float(hellinger2_floor(a.effective_samples, b.effective_samples).mean())
        found.append(debiased(value, floor) if is_debiased else value)
    return found


@torch.no_grad()
def evaluated(model: nn.Sequential, samples: int) -> list[Moments]:
    """Moments of the first samples in evaluation."""
    mode, seen = model.training, Seen(model)
    model.eval()(digits()[0][:samples])
    model.train(mode)
    seen.stop()
    return seen.take()


Look = dict[int | str, list[Moments]]


def looks(net: str, lr: float, seed: int, steps: int) -> Iterator[Look]:
    """Every ten steps: moments on all samples, on those of each probe, and of the ten batches."""
    torch.manual_seed(seed)
    model = NETS[net][0]()
    window = Seen(model)
    for step in train(model, batches(BATCH, steps, seed), lr):
        if (step + 1) % INTERVAL == 0:
            batch_moments = window.take()
            window.stop()
            fixed: Look = {size: evaluated(model, size) for size in (SAMPLES, *PROBES)}
            yield fixed | {"stream": batch_moments}
            window = Seen(model)


def measure(net: str, lr: float | None = None, *, steps: int = 120, seeds: int = 3) -> Row:
    """Trains one kind of network; at another learning rate than its own where one is given."""
    lr = NETS[net][1] if lr is None else lr
    found: dict[int | str, list[float]] = {key: [] for key in (SAMPLES, *PROBES, "stream", "raw")}
    for seed in range(seeds):
        before: Look | None = None
        for now in looks(net, lr, seed, steps):
            for key in now if before else ():
                found[key] += shifts(before[key], now[key], is_debiased=key == "stream")
            found["raw"] += shifts(before["stream"], now["stream"]) if before else []
            before = now
    truth = np.array(found[SAMPLES])
    errors = {key: float(np.sqrt(np.mean((np.array(values) - truth) ** 2))) for key, values in found.items()}
    probes = {size: errors[size] for size in PROBES}
    return Row(net, lr, float(truth.mean()), probes, errors["stream"], float(np.mean(found["raw"])))


def main() -> None:
    """Prints the table."""
    headers = ("network", "lr", "shift", *(f"error, {n} samples" for n in PROBES), "error, batches", "times")
    table = Table(*headers, title=f"Shift over {INTERVAL} steps, and its error (root mean square)")
    for net in NETS:
        for lr in (0.0, None):
            row = measure(net, lr)
            probes = [f"{row.probe_errors[size]:.5f}" if row.probe_errors[size] else "0" for size in PROBES]
            smallest = row.probe_errors[PROBES[0]]
            times = f"{row.stream_error / smallest:.0f}" if smallest else ""
            table.add_row(
                row.net, f"{row.lr:g}", f"{row.truth:.5f}", *probes, f"{row.stream_error:.5f}", times
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
