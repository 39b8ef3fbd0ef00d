"""Every private name of PyTorch, Lightning and TensorBoard that nndiag uses, in one place.

Each function has a safe answer for the day a name is gone; ``tests/test_compat.py`` fails on that day.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn


def _bases(module: Any, private: str, *public: type[nn.Module]) -> tuple[type[nn.Module], ...]:
    """The private common base of public classes, which covers classes of others; else those classes."""
    base = getattr(module, private, None)
    return public if base is None else (base,)


CHANNEL_NORMS = _bases(
    *(nn.modules.batchnorm, "_NormBase", nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Normalizations with one statistic a channel."""

DROPOUTS = _bases(
    *(nn.modules.dropout, "_DropoutNd", nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
"""Every kind of dropout."""


def undispatched() -> AbstractContextManager[Any]:
    """A context for operations of nndiag's own: no dispatch mode sees them, nor pays for seeing them.

    A replay's write barrier costs more than most operations on small tensors.
    """
    guard = getattr(torch._C, "_DisableTorchDispatch", contextlib.nullcontext)
    context: AbstractContextManager[Any] = guard()
    return context


def is_in_backward() -> bool:
    """Whether autograd is running: a forward pass seen now is a recomputation."""
    current = getattr(torch._C, "_current_graph_task_id", None)
    return current is not None and current() != -1


def is_functorch_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor stands for many, or for a dual number, inside ``torch.func``."""
    functorch = getattr(torch._C, "_functorch", None)
    test = getattr(functorch, "is_functorch_wrapped_tensor", None)
    return bool(test(tensor)) if test is not None else False


def is_compiled_module(module: nn.Module) -> bool:
    """Whether this module itself is compiled, by ``torch.compile(module)`` or ``module.compile()``."""
    return (
        type(module).__name__ == "OptimizedModule" or module.__dict__.get("_compiled_call_impl") is not None
    )


def is_compiled(root: nn.Module) -> bool:
    """Whether any module below ``root`` is compiled."""
    return any(is_compiled_module(module) for module in root.modules())


def compile_backend_in_use() -> bool:
    """Whether anything was compiled in this process so far."""
    frame = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(frame, "cached_backends", {})
    return any(backend is not None for backend in backends.values())


def made_shape(node: Any) -> tuple[int, ...] | None:
    """The shape of what an operation of autograd's graph made in the forward pass."""
    made = getattr(node, "_input_metadata", None)
    shape = getattr(made[0], "shape", None) if made else None
    return None if shape is None else tuple(map(int, shape))


def saved_number(node: Any, name: str) -> int | None:
    """A whole number that an operation of autograd's graph was called with; it outlives the backward pass."""
    value = getattr(node, f"_saved_{name}", None)
    if not isinstance(value, int):
        return None
    return value - 2**64 if value >= 2**63 else value  # kept without a sign


def gradient_scale(optimizer: Any, scaler: Any = None) -> float:
    """What gradients are multiplied by at present.

    A loss scaler takes its scale off again before an optimizer steps, unless the optimizer does that itself: fused
    ones are then told the scale.

    Args:
        optimizer: About to step.
        scaler: The ``GradScaler``, where the driver knows it.
    """
    told = vars(optimizer).get("grad_scale")
    if isinstance(told, Tensor):
        return float(told)
    states = getattr(scaler, "_per_optimizer_states", {})
    stage = states[id(optimizer)].get("stage") if id(optimizer) in states else None
    if getattr(stage, "name", "") != "READY":
        return 1.0
    return float(scaler.get_scale())


def collective_sequence_number() -> int:
    """A number that moves with each collective of any process group; 0 without one."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0
    try:
        groups: list[Any] = list(torch.distributed.distributed_c10d._world.pg_map)
        return sum(int(group._get_sequence_number_for_group()) for group in groups)
    except (AttributeError, RuntimeError):
        return 0


def process_store() -> Any:
    """The key-value store that the processes of the default group met by; None without one."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    store = getattr(torch.distributed.distributed_c10d, "_get_default_store", None)
    return store() if store is not None else None


def is_metric(module: nn.Module) -> bool:
    """Whether a module counts what it sees (torchmetrics, ignite): replaying it would count twice."""
    return any(
        kind.__module__.partition(".")[0] in ("torchmetrics", "ignite") for kind in type(module).__mro__
    )


def logging_step(trainer: Any) -> int:
    """Batches that stepped so far: the x axis of ``self.log``."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))


def total_steps(trainer: Any) -> int | None:
    """Steps that fit will take, where it is known without touching a data loader."""
    limits = []
    if isinstance(trainer.max_steps, int) and trainer.max_steps > 0:
        limits.append(trainer.max_steps)
    batches = getattr(trainer, "num_training_batches", math.inf)
    epochs = trainer.max_epochs
    if isinstance(epochs, int) and epochs > 0 and math.isfinite(batches):
        limits.append(epochs * math.ceil(batches / max(1, trainer.accumulate_grad_batches)))
    return min(limits, default=None)


def event_writer(writer: Any) -> Any:
    """The writer of raw events behind a ``SummaryWriter``; Lightning uses the same name."""
    return writer._get_file_writer()


def write_summary(writer: Any, summary: Any, step: int) -> None:
    """Writes one event through a ``SummaryWriter``; tensorboardX has message classes of its own."""
    events = event_writer(writer)
    if type(events).__module__.partition(".")[0] == "tensorboardX":
        messages = importlib.import_module("tensorboardX.proto.summary_pb2")
        summary = messages.Summary.FromString(summary.SerializeToString())
    events.add_summary(summary, step)
