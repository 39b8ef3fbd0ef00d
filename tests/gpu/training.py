"""Short trainings on a CUDA device, and everything they leave behind, to the bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from families.outcome import flatten, hook_counts, model_state, random_streams
from torch import Tensor, nn
from torch.nn import functional as F

import nndiag

STEPS, BATCH = 10, 16
DEVICE = "cuda"


class Attention(nn.Module):
    """Functional attention, dropout and layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, 16] to the same."""
        q, k, v = self.inner(self.norm(x)).chunk(3, -1)
        p = 0.1 if self.training else 0.0
        return x + F.dropout(
            self.outer(F.scaled_dot_product_attention(q, k, v, dropout_p=p)), p, self.training
        )


def perceptron() -> nn.Module:
    """Batch norm and dropout on the mean of [N, 8, 16]."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(128, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4)),
    )


def convolutional() -> nn.Module:
    """[N, 8, 16] as signals."""
    return nn.Sequential(
        *(nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout1d(0.2)),
        *(nn.Flatten(), nn.Linear(16 * 14, 4)),
    )


def attending() -> nn.Module:
    """[N, 8, 16] as sequences."""
    return nn.Sequential(Attention(), Attention(), nn.Flatten(), nn.Linear(128, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "convolutional": convolutional,
    "attention": attending,
}


@dataclass(frozen=True)
class Run:
    """What a training left behind; a bare one has no monitor."""

    values: Mapping[str, Any]
    monitor: nndiag.Monitor | None


@contextlib.contextmanager
def no_synchronization() -> Iterator[None]:
    """Whatever waits for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def batches() -> list[tuple[Tensor, Tensor]]:
    """On the device before training begins."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, BATCH, 8, 16, generator=generator)
    return [(each.to(DEVICE), (each.sum((1, 2)).abs().long() % 4).to(DEVICE)) for each in x]


def trained(
    make: Callable[[], nn.Module],
    *,
    watched: bool,
    precision: torch.dtype | None = None,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    **options: Any,
) -> Run:
    """A few steps from fresh seeds.

    Args:
        make: Makes the network.
        watched: Whether a monitor looks on, at each of the first steps.
        precision: Of autocast, with a gradient scaler where it is half precision.
        prepare: What is trained in place of the network.
        options: The monitor's.
    """
    torch.manual_seed(0)  # of every device
    model = make().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0, enabled=precision is torch.float16)
    trainee = prepare(model)
    settings: dict[str, Any] = {
        "every_n_train_steps": 1,
        "max_overhead": None,
        "console": False,
        "strict": True,
    }
    monitor = nndiag.Monitor(trainee, optimizer=optimizer, **settings | options) if watched else None
    losses = []
    with monitor or contextlib.nullcontext():
        for x, y in batches():
            with torch.autocast(DEVICE, precision, enabled=precision is not None):
                loss = F.cross_entropy(trainee(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            losses.append(loss.detach().clone())
            if monitor is not None:
                monitor.step(loss, labels=y)
    return Run(collected(model, optimizer, losses), monitor)


def collected(model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[Tensor]) -> dict[str, Any]:
    """All of it on the host, for the comparison."""
    outcome = flatten(losses, "losses") | model_state(model) | flatten(optimizer.state_dict(), "optimizer")
    host = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in outcome.items()}
    states = flatten(torch.cuda.get_rng_state_all(), "device rng")
    return host | states | random_streams() | hook_counts(model, [optimizer])
