"""The trainings: plain loops around DDP and ``fully_shard``, and Lightning modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import nndiag
from nndiag.diagnosis import Update

BATCH, STEPS, FEATURES = 8, 8, 6
WIDTH = 16


def network(norm: bool = True) -> nn.Sequential:
    """Three classes."""
    middle: list[nn.Module] = [nn.BatchNorm1d(WIDTH)] if norm else []
    drop: list[nn.Module] = [nn.Dropout(0.3)] if norm else []
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), *middle, nn.ReLU(), *drop, nn.Linear(WIDTH, 3))


def batches(rank: int, ranks: int, steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    """Of one rank; rank 0 of 1 gets what all ranks get, put together step by step."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(steps, 2, BATCH, FEATURES, generator=generator)
    mine = x.flatten(1, 2) if ranks == 1 else x[:, rank]
    return [(each, each.abs().sum(1).long() % 3) for each in mine]


class Gathering(nn.Module):
    """Its forward pass talks to the other processes.

    Args:
        group: Through which; None takes the default one.
    """

    def __init__(self, group: Any = None) -> None:
        super().__init__()
        self.layers, self._group = network(), group

    def forward(self, x: Tensor) -> Tensor:
        """Adds the mean of all ranks."""
        out: Tensor = self.layers(x)
        mean = out.detach().clone()
        dist.all_reduce(mean, group=self._group)
        return out + 0.1 * mean


class Sometimes(nn.Module):
    """Every second call leaves a layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.extra, self.calls = network(), nn.Linear(FEATURES, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        """With or without the extra layer."""
        self.calls += 1
        out: Tensor = self.layers(x)
        return out + self.extra(x) if self.calls % 2 else out


def wrapped(model: nn.Module, **options: Any) -> DistributedDataParallel:
    """DDP around a model."""
    return DistributedDataParallel(model, **options)


def sharded() -> nn.Sequential:
    """Its parameters are spread over the processes."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = network(norm=False)
    for module in (model[0], model[2], model):
        fully_shard(module, mesh=mesh)
    return model


class Keeper:
    """A sink that keeps every snapshot.

    Args:
        directory: Where.
        name: How the files begin.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, update: Update) -> None:
        """One file a visit."""
        assert update.snapshot is not None
        update.snapshot.save(self._directory / f"{self._name}-{update.step}.safetensors")

    def close(self, report: nndiag.Report) -> None:
        """Nothing is left to do."""


def split() -> nn.Sequential:
    """Each layer's weights are split between the processes (tensor parallel)."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    model: nn.Sequential = parallelize_module(network(norm=False), mesh, plan)
    return model


def loop(
    model: nn.Module,
    data: Sequence[tuple[Tensor, Tensor]],
    monitor: Callable[[torch.optim.Optimizer], nndiag.Monitor] | None,
    *,
    join: bool = False,
) -> tuple[list[float], nndiag.Monitor | None]:
    """A plain loop; the losses, and the monitor when there was one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    with contextlib.ExitStack() as stack:
        if join:
            stack.enter_context(model.join())  # type: ignore[operator]
        watching = stack.enter_context(monitor(optimizer)) if monitor is not None else None
        for x, y in data:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if watching is not None:
                watching.step(loss, labels=y)
    return losses, watching


class Classifier(LightningModule):
    """A network under Lightning; its data are the same in every run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Any]:
        """Lightning shares the samples out."""
        x = torch.cat([each for rank in range(2) for each, _ in batches(rank, 2)])
        return DataLoader(TensorDataset(x, x.abs().sum(1).long() % 3), BATCH, shuffle=True)


class Sharded(Classifier):
    """Spreads its parameters as ModelParallelStrategy asks it to."""

    def __init__(self) -> None:
        super().__init__(network(norm=False))

    def configure_model(self) -> None:
        """Each layer, then the whole."""
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for module in (self.model[0], self.model[2], self.model):  # type: ignore[index]
            fully_shard(module, mesh=mesh)
