"""Facts of a run: plain numbers beside the statistics, which cost nothing to read."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import nndiag
from nndiag.findings import Scalar


def number(loss: Any) -> float | None:
    """A scalar loss as a float; the only read of a device in a visit that is not a statistic."""
    if isinstance(loss, Tensor):
        return float(loss.detach()) if loss.numel() == 1 and not loss.is_complex() else None
    return float(loss) if isinstance(loss, (int, float)) else None


def settings_of(groups: Sequence[Mapping[str, Any]]) -> dict[str, Scalar]:
    """The largest learning rate and weight decay of an optimizer's groups."""
    found: dict[str, Scalar] = {}
    for name in ("lr", "weight_decay"):
        values = [float(group[name]) for group in groups if _is_on_host(group.get(name))]
        if values:
            found[name] = max(values)
    return found


def is_at_rest(group: Mapping[str, Any]) -> bool:
    """Whether an optimizer's group has a learning rate of 0."""
    rate = group.get("lr")
    return _is_on_host(rate) and float(rate) == 0  # type: ignore[arg-type]


def _is_on_host(value: object) -> bool:
    """A number that costs nothing to read."""
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.device.type == "cpu")


def environment(total_steps: int | None) -> dict[str, Scalar]:
    """Versions, and the length of the run."""
    return {
        "nndiag": nndiag.__version__,
        "torch": str(torch.__version__),  # a class of its own
        "python": platform.python_version(),
        "total_steps": total_steps,
    }
