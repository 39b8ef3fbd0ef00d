"""Plays a tape: the recorded calls, on recorded data, with today's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nndiag.observe.tape import Operation, Tape
from nndiag.observe.values import Refused, Slot, leaves, map_leaves

_EVALUATION = {
    "training": False,
    "train": False,
    "use_input_stats": False,
    "is_training": False,
    "dropout_p": 0.0,
}
"""Arguments of glue operations that have training mode baked in."""


def play(
    tape: Tape, select: Callable[[int, Tensor], Tensor] | None = None, *, gradients: bool = False
) -> list[list[Tensor]]:
    """Runs a tape once, inside a sandbox.

    Args:
        tape: The recorded step.
        select: Chooses the rows of a leaf; None takes all.
        gradients: Whether autograd is on (a forward pass that differentiates by itself).

    Returns:
        The output tensors of each module call.

    Raises:
        Refused: a value that training passed on is missing in evaluation.
    """
    values = {number: _start(number, leaf.value, select) for number, leaf in tape.leaves.items()}
    for number, leaf in tape.leaves.items():
        if gradients and leaf.requires_grad:
            values[number].requires_grad_()
    results = []
    for operation in tape.operations:
        output = _run(tape, operation, values, gradients)
        recorded, tensors = leaves(operation.outputs, Slot), leaves(output)
        if len(recorded) == len(tensors):
            values.update((slot.number, tensor) for slot, tensor in zip(recorded, tensors, strict=True))
        if operation.kind == "call":
            results.append([tensor.detach().clone() for tensor in tensors])
    return results


def _start(number: int, value: Tensor, select: Callable[[int, Tensor], Tensor] | None) -> Tensor:
    """A copy: the model may write its input."""
    return value.clone() if select is None else select(number, value).clone()


def _run(tape: Tape, operation: Operation, values: dict[int, Tensor], gradients: bool) -> Any:
    def look_up(slot: Slot) -> Tensor:
        return _value(tape, slot.number, values)

    args, kwargs = map_leaves(look_up, operation.inputs, Slot)
    context = operation.context
    torch.set_default_dtype(context.default_dtype)
    if operation.kind == "glue":
        kwargs = {key: _EVALUATION.get(key, value) for key, value in kwargs.items()}
        if "dropout" in operation.name and len(args) > 2:
            args = (*args[:2], False, *args[3:])
    with (
        torch.autocast(context.device, context.autocast_dtype, context.autocast, cache_enabled=False),
        torch.set_grad_enabled(gradients),
    ):
        return operation.target(*args, **kwargs)


def _value(tape: Tape, number: int, values: dict[int, Tensor]) -> Tensor:
    if number in values:
        return values[number]
    if number in tape.live:
        owner, key = tape.live[number]
        tensor: Tensor = owner[key]
        return tensor
    if number not in tape.views:
        raise Refused(
            "unlinked-value", "the evaluation pass does not produce a value that training passed on"
        )
    view = tape.views[number]
    base = _value(tape, view.base, values)
    if tuple(base.shape) == view.size and base.stride() == view.stride:
        return base
    return base.as_strided(view.size, view.stride, view.offset + base.storage_offset())
