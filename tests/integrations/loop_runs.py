"""The recipes for loops of one's own under Fabric and Accelerate, as the documentation gives them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nndiag

from .lightning_runs import loader


def network() -> nn.Module:
    """A small classifier with a mask and running statistics; the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer with a state."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def watch(model: nn.Module, is_watched: bool, **options: Any) -> Any:
    """A strict monitor, or nothing."""
    if not is_watched:
        return contextlib.nullcontext()
    return nndiag.Monitor(model, console=False, strict=True, max_overhead=None, **options)


def under_fabric(is_watched: bool, **options: Any) -> tuple[nn.Module, Any]:
    """One epoch; the monitor takes the optimizer that Fabric gives back."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model = network()
    wrapped, optimizer = fabric.setup(model, sgd(model))
    batches = fabric.setup_dataloaders(loader())
    with watch(model, is_watched, optimizer=optimizer, **options) as monitor:
        for x, y in batches:
            loss = F.cross_entropy(wrapped(x), y)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if monitor is not None:
                monitor.step(loss, labels=y)
    return model, monitor


def under_accelerate(is_watched: bool, accumulate: int = 1, **options: Any) -> tuple[nn.Module, Any]:
    """One epoch; the monitor finds the optimizer by the parameters it holds."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model, optimizer, batches = accelerator.prepare(*_parts())
    inner = accelerator.unwrap_model(model)
    with watch(inner, is_watched, **options) as monitor:
        for x, y in batches:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                if monitor is not None and accelerator.sync_gradients:
                    monitor.step(loss, labels=y)
    return inner, monitor


def _parts() -> tuple[Any, ...]:
    model = network()
    return model, sgd(model), loader()


def differences(one: nn.Module, other: nn.Module) -> list[str]:
    """Names of parameters and buffers that are not equal to the bit."""
    tensors: dict[str, Tensor] = other.state_dict()
    return [name for name, tensor in one.state_dict().items() if not torch.equal(tensor, tensors[name])]
