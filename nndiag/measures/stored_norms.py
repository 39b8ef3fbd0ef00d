"""What checkpoints say of normalizations: statistics that were never updated, constant channels, drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from nndiag.findings import Reading, Scalar
from nndiag.layers import LayerInfo
from nndiag.measures.base import Visit
from nndiag.snapshot import Snapshot
from nndiag.statistics import NormState, ParameterFlow, RowSignature

_NAME = "norm_drift"

COLLAPSED = 0.1
"""Share of eps in variance + eps from which a channel is next to constant."""

CLOSED = 1e-6
"""Share of the median gain below which a gain is next to nothing."""

GAINS = ("weight", "gamma", "scale")
"""What the gain of a normalization is called."""

_TINY = 1e-12

KEPT = "kept its initial statistics"
UNFED = "was trained without batches"
UNUSED = "saw no batch"
STOPPED = "stopped updating"

GRAVE = (KEPT, UNFED, STOPPED)

FAULTS: Mapping[str, tuple[str, str]] = {
    KEPT: (
        "has counted batches, and still holds its initial statistics (0, 1): momentum is 0, or something resets them."
        " Training normalized by each batch, evaluation does not normalize at all",
        "Set momentum to 0.1. To repair the checkpoint, recompute the statistics: 1,000 or more shuffled training"
        " samples in training mode without gradients (PreciseBN).",
    ),
    UNFED: (
        "has trained gains, but never updated its running statistics: they are (0, 1)",
        "Let the training forward pass reach the layer's own buffers, or load the statistics that it should hold."
        " To repair the checkpoint, recompute them (PreciseBN).",
    ),
    UNUSED: (
        "holds its initial statistics (0, 1) and gains: it was not used in training, or in eval mode only",
        "If the layer is used, call model.train() before training; if not, remove it.",
    ),
    STOPPED: (
        "counted batches since the checkpoint before, and its running statistics did not change",
        "Set momentum to 0.1, and look for code that puts the buffers back.",
    ),
}


def stored_fault(visit: Visit, info: LayerInfo, state: NormState, before: NormState | None) -> str:
    """What is wrong with stored running statistics; empty: nothing, as far as a file can say.

    Fresh networks hold (0, 1) too: such are accused only where something says that training went on.
    """
    tracked = int(state.tracked)
    if bool((state.mean == 0).all()) and bool((state.variance == 1).all()):
        if tracked > 0:
            return KEPT
        if _are_gains_trained(visit.now, info):
            return UNFED
        return UNUSED if has_trained(visit.now) else ""
    is_same = before is not None and torch.equal(before.mean, state.mean)
    if before is not None and is_same and torch.equal(before.variance, state.variance):
        return STOPPED if tracked > int(before.tracked) >= 0 else ""
    return ""


def has_trained(now: Snapshot) -> bool:
    """Whether a checkpoint is known to be of a later step than the first."""
    is_known = now.facts.get("step_from") in ("the checkpoint", "the optimizer", "the name")
    return is_known and now.step > 0


def _flow(now: Snapshot, info: LayerInfo, name: str) -> ParameterFlow | None:
    found = now.get(info.name, "grad", "weights", f"flow/{name}")
    return found if isinstance(found, ParameterFlow) else None


def _are_gains_trained(now: Snapshot, info: LayerInfo) -> bool:
    """Whether gain or bias are no longer 1 (or 0) and 0 in every channel."""
    gain, bias = _flow(now, info, "weight"), _flow(now, info, "bias")
    if bias is not None and float(bias.weight) > 0:
        return True
    if gain is None or float(gain.weight) == 0:
        return False
    return abs(float(gain.weight) ** 2 / int(gain.entries) - 1) > 1e-6


def read_constant(now: Snapshot, info: LayerInfo, state: NormState | None) -> Iterator[Reading]:
    """Outputs that do not depend on the sample: gains are zero, or the running variance is next to nothing.

    Gains that are all zero are where some networks start: they count once the network, or the bias beside them, has
    trained. No network starts with some of them at zero.
    """
    gain = next((flow for name in GAINS if (flow := _flow(now, info, name)) is not None), None)
    bias = _flow(now, info, "bias") or _flow(now, info, "beta")
    if gain is None and state is None:
        return
    is_past = has_trained(now) or (bias is not None and float(bias.weight) > 0)
    is_closed = gain is not None and float(gain.weight) == 0 and not int(gain.non_finite) and is_past
    shut, flat = _closed(now, info), set() if state is None else _collapsed(state)
    channels = _channels(gain, state)
    where = list(range(channels)) if is_closed else sorted(flat | shut)
    detail: dict[str, Scalar] = {
        "channels": channels,
        "constant": len(where),
        "which": ", ".join(map(str, where[:8])),
        "reads_input": False,
        "stored": "all gains are zero" if is_closed else _reason(shut, flat),
    }
    yield Reading(_NAME, "constant_share", info.name, now.step, len(where) / max(1, channels), detail=detail)


def _channels(gain: ParameterFlow | None, state: NormState | None) -> int:
    if gain is not None:
        return int(gain.entries)
    return 0 if state is None else len(state.variance)


def _reason(shut: set[int], flat: set[int]) -> str:
    if not shut:
        return "their running variance is next to nothing"
    either = " or their running variance" if flat - shut else ""
    return f"their gain{either} is next to nothing"


def _closed(now: Snapshot, info: LayerInfo) -> set[int]:
    """Channels whose gain is next to nothing beside those of the others."""
    found = now.get(info.name, "weight", "weights", "signature/gain")
    if not isinstance(found, RowSignature) or not float(found.norms.median()) > 0:
        return set()
    places: list[int] = (found.norms <= CLOSED * found.norms.median()).nonzero().flatten().tolist()
    return set(places)


def _collapsed(state: NormState) -> set[int]:
    eps = float(state.eps)
    variance = state.variance.double().clamp(min=0)
    places: list[int] = (eps / (variance + eps) > COLLAPSED).nonzero().flatten().tolist()
    return set(places)


def read_shift(
    visit: Visit, info: LayerInfo, state: NormState, before: NormState | None
) -> Iterator[Reading]:
    """How far running means moved since the checkpoint before, in standard deviations, and how variances did."""
    if before is None or visit.previous is None or before.mean.shape != state.mean.shape:
        return
    eps = float(state.eps)
    old, new = (each.variance.double().clamp(min=0) + eps for each in (before, state))
    shift = (state.mean.double() - before.mean.double()).abs() / old.sqrt().clamp(min=_TINY)
    scale = (new / old).log().abs() / 2
    known = shift.isfinite() & scale.isfinite()
    if not known.any():
        return
    detail: dict[str, Scalar] = {
        "since": visit.previous.step,
        "largest": round(float(shift[known].max()), 5),
        "log_scale": round(float(scale[known].mean()), 5),
    }
    value = float(shift[known].mean())
    units = tuple(shift.tolist())
    yield Reading(_NAME, "statistics_shift", info.name, visit.now.step, value, units=units, detail=detail)


def is_followed(now: Snapshot, info: LayerInfo) -> bool:
    """Whether a batch normalization of as many channels comes next in a file that keeps the order of layers."""
    if now.source != "checkpoint" or info.inferred is None:
        return False
    if not str(now.facts.get("format", "")).startswith("torch"):
        return False
    names = list(now.layers)
    place = names.index(info.name) + 1
    following = now.layers[names[place]] if place < len(names) else None
    return (
        following is not None
        and following.role == "norm"
        and following.kind == "BatchNorm"
        and following.units == info.units
    )
