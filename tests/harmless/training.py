"""Short trainings of networks from the zoo, and everything they leave behind, to the bit."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from families.outcome import Surroundings, flatten, hook_counts, random_streams
from torch import Tensor, nn

import nndiag
from harmless.kinds import quiet

STEPS = 5
Arguments = Callable[[Tensor], tuple[Any, ...]]


@dataclass(frozen=True)
class Run:
    """What a training left behind; the monitor is None for a bare one."""

    values: Mapping[str, Any]
    monitor: nndiag.Monitor | None


def trained(
    make: Callable[[], nn.Module], arguments: Arguments, *, watched: bool, rate: float = 0.01, **options: Any
) -> Run:
    """Five steps on fresh seeds.

    Args:
        make: Makes the network; it returns the loss.
        arguments: What it is called with, made of a batch [8, 4].
        watched: Whether a monitor looks on.
        rate: The learning rate.
        options: The monitor's.
    """
    torch.manual_seed(0)
    random.seed(0)
    model = make()
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=rate, momentum=0.0)
    before = Surroundings.of(model)
    settings = {"every_n_train_steps": 4, "max_overhead": None, "console": False, **options}
    monitor = nndiag.Monitor(model, optimizer=optimizer, **settings) if watched else None
    losses = []
    with monitor or contextlib.nullcontext():
        for _ in range(STEPS):
            loss = model(*arguments(torch.randn(8, 4)))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if monitor is not None:
                monitor.step(loss)
            optimizer.zero_grad()
    values = dict(flatten(losses, "losses")) | random_streams() | hook_counts(model, [optimizer])
    values |= before.changes(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        values[f"state/{name}"] = bits(tensor)
        values[f"gradient/{name}"] = None if tensor.grad is None else bits(tensor.grad)
    return Run(values, monitor)


def differing(expected: Run, actual: Run) -> list[str]:
    """Names of what differs between two runs; NaN equals NaN."""
    names = expected.values.keys() | actual.values.keys()
    return sorted(n for n in names if not _equal(expected.values.get(n), actual.values.get(n)))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def bits(tensor: Tensor) -> Any:
    """A tensor of any kind as its kind and bytes."""
    kind = (type(tensor).__name__, str(tensor.dtype), str(tensor.layout), tensor.requires_grad)
    with quiet():
        return repr(kind), [_bytes(part) for part in _parts(tensor)]


def _parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor is made of."""
    if hasattr(tensor, "get_data"):
        return [tensor.get_data(), tensor.get_mask()]
    for name in ("_local_tensor", "wrapped", "_values"):  # of subclasses that hold another tensor
        if type(tensor) not in (Tensor, nn.Parameter) and isinstance(getattr(tensor, name, None), Tensor):
            return [getattr(tensor, name)]
    if hasattr(tensor, "fake_mode"):
        return []
    tensor = tensor.detach()
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout == torch.sparse_csc:
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    if tensor.is_quantized:
        return [tensor.int_repr()]
    if tensor.layout != torch.strided:
        return [tensor.to_dense()]
    return [tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)]


def _bytes(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.is_meta or not tensor.numel():
        return tuple(tensor.shape), b""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return tuple(tensor.shape), plain.reshape(-1).view(torch.uint8).numpy().tobytes()
