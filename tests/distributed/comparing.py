"""How far two runs, or two statistics, are apart."""

from __future__ import annotations

import math
from typing import Any

import torch

from nndiag.statistics import Statistic

POWERS = {"mean": 1, "cluster_mean": 1, "m2": 2, "cluster_m2": 2}
"""By what power of its inputs' scale a part of a statistic grows."""


def differing(watched: dict[str, Any], bare: dict[str, Any]) -> int:
    """Values of a run that are not those of another: losses, weights, random generators."""
    count = sum(a != b for a, b in zip(watched["losses"], bare["losses"], strict=True))
    pairs = [(watched["random"], bare["random"])]
    pairs += [(watched["weights"][name], tensor) for name, tensor in bare["weights"].items()]
    return count + sum(int((a != b).sum()) for a, b in pairs)


def relative_error(merged: Statistic, expected: Statistic, scale: float) -> float:
    """The largest difference in units of the largest entry; infinite where a count is another.

    Args:
        merged: Of the ranks.
        expected: Of one process.
        scale: What the inputs of the ranks were larger by.
    """
    errors = [0.0]
    for name, tensor in merged.to_tensors().items():
        truth = expected.to_tensors()[name]
        if not truth.is_floating_point():
            errors.append(0.0 if torch.equal(tensor, truth) else math.inf)
        elif truth.numel():
            apart = (tensor / scale ** POWERS.get(name, 0) - truth).abs().max()
            errors.append(float(apart / truth.abs().max().clamp_min(1e-30)))
    return max(errors)
