"""What checkpoints say of parameters that do not learn: numbers that are not finite, moments of zero, no movement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.measures import runaway
from nndiag.measures.base import Visit
from nndiag.snapshot import Snapshot
from nndiag.statistics import NormState, ParameterFlow, RowSignature

_NAME = "gradient_flow"

NO_GRADIENTS = "a checkpoint holds no gradients"
NO_ACTIVATIONS = "a checkpoint holds no activations"

ORDER_GIVEN = "the order given"
"""Who says the step of checkpoints that are only numbered: differences of such steps mean nothing."""

_SILENT = "no gradient so far: "
_MOST_NAMED = 5


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of gradient flow that a checkpoint has, alone and beside those before it."""
    flows = parameter_flows(visit.now)
    yield _read_finite(visit.now, flows)
    yield from _read_silent(visit, flows)
    yield from _read_movement(visit, flows)
    yield from _read_resting(visit, flows)
    for info in visit.now.layers.values():
        yield CoverageEntry(info.name, _NAME, "not observed", NO_GRADIENTS)


def parameter_flows(now: Snapshot) -> dict[str, dict[str, ParameterFlow]]:
    """The sizes of all parameters, by layer and name."""
    found: dict[str, dict[str, ParameterFlow]] = {}
    for key, value in now.statistics.items():
        if isinstance(value, ParameterFlow):
            found.setdefault(key.layer, {})[key.statistic.partition("/")[2]] = value
    return found


def _read_finite(now: Snapshot, flows: runaway.Flows) -> Reading:
    """How many numbers of parameters and running statistics are NaN or infinite, and where."""
    counts = {
        (layer, name): (int(flow.non_finite), int(flow.entries))
        for layer, parameters in flows.items()
        for name, flow in parameters.items()
    }
    for key, state in now.statistics.items():
        if isinstance(state, NormState):
            for name, buffer in (("running_mean", state.mean), ("running_var", state.variance)):
                counts[key.layer, name] = (int((~buffer.isfinite()).sum()), buffer.numel())
    bad = {place: count for place, count in counts.items() if count[0]}
    layers = list(dict.fromkeys(layer for layer, _ in bad))
    named = [f"{layer}.{name} ({n} of {of})".lstrip(".") for (layer, name), (n, of) in bad.items()]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    detail: dict[str, Scalar] = {"first_step": now.step if bad else None}
    detail |= {"layer": layers[0] if layers else None, "layers": "|".join(layers)}
    detail |= {"numbers": sum(n for n, _ in bad.values()), "held_by": ", ".join(named[:_MOST_NAMED]) + more}
    return Reading(_NAME, "non_finite", None, now.step, float(bool(bad)), detail=detail)


def _read_silent(visit: Visit, flows: runaway.Flows) -> Iterator[Reading]:
    """Layers whose mean square gradient is exactly zero in the optimizer, and those that were such before."""
    now, entries = visit.now, {layer: _entries(parameters) for layer, parameters in flows.items()}
    silent = _silent(now)
    total = sum(entries.values())
    share = sum(entries.get(layer, 0) for layer in silent) / max(1, total)
    before = _silent(visit.first) | (_silent(visit.previous) if visit.previous is not None else set())
    for layer, parameters in flows.items():
        if layer not in silent and (layer not in before or "optimizer_step" not in now.facts):
            continue
        quiet = entries[layer] if layer in silent else 0
        detail: dict[str, Scalar] = {"silent": "|".join(parameters) if quiet else ""}
        detail |= {"entries": entries[layer], "silent_entries": quiet}
        detail |= {"network_share": share, "updates": now.facts.get("optimizer_step")}
        value = quiet / max(1, entries[layer])
        yield Reading(
            _NAME, "silent_share", layer, now.step, value, None, entries[layer] or None, None, detail
        )


def _silent(now: Snapshot) -> set[str]:
    return {name.removeprefix(_SILENT) for name in now.facts if name.startswith(_SILENT)}


def _entries(parameters: Mapping[str, ParameterFlow]) -> int:
    return sum(int(flow.entries) for flow in parameters.values())


def _read_movement(visit: Visit, flows: runaway.Flows) -> Iterator[Reading]:
    """How far each layer is from the checkpoint before, relative to its norm, and that per step.

    A snapshot holds no weights. Norms of units and of parameters differ at most by what was moved: the largest such
    difference is a lower bound of the movement.
    """
    now, before = visit.now, visit.previous
    if before is None:
        return
    old = parameter_flows(before)
    yield from runaway.read(visit, old, flows)
    for layer, parameters in flows.items():
        moved = _moved(before, now, layer, old.get(layer, {}), parameters)
        if moved is None:
            continue
        value, by = moved
        detail: dict[str, Scalar] = {"since": before.step, "by": by}
        yield Reading(_NAME, "movement", layer, now.step, value, detail=detail)
        if now.facts.get("step_from") != ORDER_GIVEN and now.step > before.step:
            rate = value / (now.step - before.step)
            yield Reading(_NAME, "movement_rate", layer, now.step, rate, detail=detail)


def _moved(
    before: Snapshot,
    now: Snapshot,
    layer: str,
    old: Mapping[str, ParameterFlow],
    new: Mapping[str, ParameterFlow],
) -> tuple[float, str] | None:
    """A lower bound of |dW| / |W|, and what it was told by; None where it is new or reshaped."""
    if old.keys() != new.keys() or any(int(old[n].entries) != int(new[n].entries) for n in new):
        return None
    pairs = [(float(old[name].weight), float(new[name].weight)) for name in new]
    size = math.hypot(*(a for a, _ in pairs)) or math.hypot(*(b for _, b in pairs))
    by_parameters = math.hypot(*(b - a for a, b in pairs))
    by_units = _unit_change(before, now, layer)
    change = max(by_parameters, by_units or 0.0)
    by = "norms of parameters" if by_units is None else "norms of units"
    return (change / size if size > 0 else 0.0), by  # at zero in both, it rests


def _unit_change(before: Snapshot, now: Snapshot, layer: str) -> float | None:
    """The norm of what the norms of a layer's units changed by, over the domain with most; None without units."""
    old, new = (snapshot.parts(layer, "weight", "weights", "signature") for snapshot in (before, now))
    changes = [
        float(torch.linalg.vector_norm(part.norms - earlier.norms))
        for name, part in new.items()
        if isinstance(part, RowSignature)
        and isinstance(earlier := old.get(name), RowSignature)
        and earlier.norms.shape == part.norms.shape
    ]
    return max(changes, default=None)


def _read_resting(visit: Visit, flows: runaway.Flows) -> Iterator[Reading]:
    """Which parameters are what they were in the first checkpoint, where others are not."""
    now, first = visit.now, visit.first
    if visit.is_first:
        return
    old = parameter_flows(first)
    shared = {
        layer: {
            name: flow for name, flow in parameters.items() if _is_alike(old.get(layer, {}).get(name), flow)
        }
        for layer, parameters in flows.items()
    }
    resting = {
        layer: [name for name, flow in found.items() if float(flow.weight) == float(old[layer][name].weight)]
        for layer, found in shared.items()
    }
    if all(len(resting[layer]) == len(found) for layer, found in shared.items()):
        return  # nothing has moved at all: these are copies of one checkpoint
    for layer, found in shared.items():
        if not found:
            continue
        still = (
            [] if _unit_change(first, now, layer) and len(resting[layer]) == len(found) else resting[layer]
        )
        detail: dict[str, Scalar] = {"resting": "|".join(still), "since": first.step}
        detail |= {"lr": now.facts.get("lr"), "entries": _entries(found)}
        yield Reading(_NAME, "resting_share", layer, now.step, len(still) / len(found), detail=detail)


def _is_alike(before: ParameterFlow | None, now: ParameterFlow) -> bool:
    return before is not None and int(before.entries) == int(now.entries) > 0
