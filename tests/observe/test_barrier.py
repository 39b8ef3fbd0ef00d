"""The write barrier keeps what a replay overwrites, whoever writes and however."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nndiag.observe.barrier import WriteBarrier

WRITES: dict[str, Callable[[Tensor], object]] = {
    "method": lambda t: t.mul_(2),
    "clamp": lambda t: t.clamp_(-0.1, 0.1),
    "item": lambda t: t.__setitem__(0, 7.0),
    "view": lambda t: t.view(-1)[3:].zero_(),
    "transposed": lambda t: t.t().add_(1),
    "out": lambda t: torch.add(t, 1, out=t),
    "foreach": lambda t: torch._foreach_mul_([t, t[0]], 3.0),
    "index": lambda t: t.index_add_(0, torch.tensor([1]), torch.ones(1, 4)),
    "scatter": lambda t: t.scatter_(0, torch.zeros(1, 4, dtype=torch.long), 9.0),
    "random": lambda t: t.uniform_(),
    "copy": lambda t: t.copy_(torch.ones(3, 4)),
    "data": lambda t: t.data.fill_(5),
    "init": lambda t: nn.init.ones_(t),
    "in-place function": lambda t: torch.nn.functional.relu(t, inplace=True),
    "twice": lambda t: t.add_(1).mul_(3),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_writes_are_undone(write: Callable[[Tensor], object]) -> None:
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    before = tensor.clone()
    barrier = WriteBarrier()
    with torch.no_grad(), barrier:
        write(tensor)
    assert not torch.equal(tensor, before), "control"
    assert barrier.written == {tensor.untyped_storage()._cdata}
    version = tensor._version
    barrier.undo()
    assert torch.equal(tensor, before)
    assert tensor._version == version, "undoing is no write"


def test_own_memory_is_not_kept() -> None:
    barrier = WriteBarrier()
    outside = torch.zeros(4)
    with barrier:
        inside = torch.zeros(4) + 1
        inside.mul_(2)
        (outside * 2).add_(1)
    assert not barrier.written


def test_a_view_of_foreign_memory_is_foreign() -> None:
    outside = torch.zeros(2, 2)
    barrier = WriteBarrier()
    with barrier:
        outside.view(4).reshape(2, 2).detach()[0].fill_(3)
    barrier.undo()
    assert torch.equal(outside, torch.zeros(2, 2))


def test_running_statistics_come_unannounced() -> None:
    """Batch normalization writes its buffers without saying so: they are copied by other means."""
    norm = nn.BatchNorm1d(2)
    barrier = WriteBarrier()
    with barrier:
        norm(torch.randn(4, 2))
    assert norm.running_mean is not None
    assert norm.running_mean.untyped_storage()._cdata not in barrier.written
