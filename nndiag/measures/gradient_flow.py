"""Gradient flow: do gradients reach every parameter while training goes on, and do updates fit the weights?

Gradients of different layers are compared by unit saliency, |sum_j w_uj dL/dw_uj|: unlike a gradient's norm it
does not change when a unit's incoming weights are scaled up and its outgoing ones down. The size of a step is
|dW| / |W|.

Sources: Hochreiter 1991, "Untersuchungen zu dynamischen neuronalen Netzen"; Bengio, Simard, Frasconi 1994,
"Learning long-term dependencies with gradient descent is difficult"; Pascanu, Mikolov, Bengio 2013, "On the
difficulty of training recurrent neural networks".
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.layers import LayerInfo
from nndiag.measures import stored_parameters
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.gradient_rules import GRACE, RULES
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import Moments, ParameterFlow, TimeReach, UpdateSize

_NAME = "gradient_flow"
_MATRICES = ("weight", "recurrent", "attention")

ROUNDING = 1e-6
"""Share of the whole gradient's norm below which one is rounding error: that of a bias in front of a
normalization, or of keys under softmax, is zero in truth."""


class _Flow(NamedTuple):
    """All parameters of one layer at one visit."""

    layer: str
    parameters: dict[str, ParameterFlow]
    updates: dict[str, UpdateSize]


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every layer with trainable parameters, and of the network as a whole."""
    now = visit.now
    if now.source == "checkpoint":
        yield from stored_parameters.read(visit)
        return
    flows = _flows(now)
    whole = math.hypot(*(p.gradient for flow in flows.values() for p in flow.parameters.values()))
    called = _called(now)
    for flow in flows.values():
        yield from _read_layer(now, flow, whole, called)
    for info in now.layers.values():
        if info.name not in flows:
            yield _why_not(now, info)
            if not info.trainable and info.role in _MATRICES:
                frozen: dict[str, Scalar] = {"resting": "", "frozen": True}
                yield Reading(_NAME, "resting_share", info.name, now.step, 1.0, detail=frozen)
    if "unregistered" in now.facts:
        stray: dict[str, Scalar] = {"parameters": now.facts["unregistered"]}
        count = float(now.facts["unregistered_entries"] or 0)
        yield Reading(_NAME, "unregistered", None, now.step, count, detail=stray)
    yield from _read_network(now, flows)
    yield from _read_time(now)
    yield from _read_finite(visit, flows)


def _flows(now: Snapshot) -> dict[str, _Flow]:
    found: dict[str, _Flow] = {}
    for key, value in now.statistics.items():
        part = key.statistic.partition("/")[2]
        if isinstance(value, ParameterFlow):
            found.setdefault(key.layer, _Flow(key.layer, {}, {})).parameters[part] = value
        elif isinstance(value, UpdateSize):
            found.setdefault(key.layer, _Flow(key.layer, {}, {})).updates[part] = value
    return found


def _why_not(now: Snapshot, info: LayerInfo) -> CoverageEntry:
    if info.role in ("activation", "dropout") or not info.trainable:
        reason = "frozen" if not info.trainable else "no parameters"
        return CoverageEntry(info.name, _NAME, "not applicable", reason)
    gap = now.gaps.get(Gap(info.name, "grad", "weights"))
    if gap is not None:
        return CoverageEntry(info.name, _NAME, "not observed", gap)
    return CoverageEntry(info.name, _NAME, "not applicable", "no trainable parameters of its own")


def _read_layer(now: Snapshot, flow: _Flow, whole: float, called: set[str]) -> Iterator[Reading]:
    gradient = math.hypot(*(p.gradient for p in flow.parameters.values()))
    entries = sum(int(p.entries) for p in flow.parameters.values())
    yield Reading(_NAME, "gradient_norm", flow.layer, now.step, gradient, n=entries)
    silent = [name for name, p in flow.parameters.items() if p.is_silent]
    if flow.parameters and all(p.is_known for p in flow.parameters.values()):
        detail: dict[str, Scalar] = {"silent": "|".join(silent), "parameters": "|".join(flow.parameters)}
        quiet = sum(int(flow.parameters[name].entries) for name in silent)
        detail |= {"entries": entries, "silent_entries": quiet, "called": flow.layer in called}
        detail["owned"] = _is_owned(now, flow.layer)
        yield Reading(
            _NAME, "silent_share", flow.layer, now.step, quiet / max(1, entries), None, entries, None, detail
        )
    yield from _read_updates(now, flow, whole)


def _is_owned(now: Snapshot, layer: str) -> bool:
    """Whether an optimizer holds the layer, as far as is known."""
    return now.facts.get(f"not in the optimizer: {layer}") is None


def _called(now: Snapshot) -> set[str]:
    """Layers seen in a forward pass, by themselves or through the activation behind them."""
    seen = {key.layer for key in now.statistics if key.tap in ("input", "output")}
    return seen | {now.layers[name].place for name in seen if name in now.layers}


def _read_updates(now: Snapshot, flow: _Flow, whole: float) -> Iterator[Reading]:
    """The largest step over a layer's matrices, and whether anything of the layer moved at all."""
    ratios = {
        name: update.ratio
        for name, update in flow.updates.items()
        if name in flow.parameters and flow.parameters[name].is_matrix
    }
    finite = {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio)}
    if finite:
        name = max(finite, key=lambda each: finite[each])
        sampled = int(flow.updates[name].sampled)
        reached = [float(flow.updates[each].largest) for each in finite]
        known = [value for value in reached if math.isfinite(value)]
        facts: dict[str, Scalar] = {"of": name, "largest_so_far": max(known, default=None)}
        yield Reading(*(_NAME, "update_ratio", flow.layer, now.step, finite[name]), n=sampled, detail=facts)
    if flow.updates:
        resting = [
            name
            for name, update in flow.updates.items()
            if float(update.change) == 0
            and name in flow.parameters
            and flow.parameters[name].gradient > ROUNDING * whole
        ]
        detail: dict[str, Scalar] = {"resting": "|".join(resting), "lr": now.facts.get("lr")}
        detail["owned"] = _is_owned(now, flow.layer)
        detail["idle"] = now.facts.get(f"learning rate 0: {flow.layer}") is not None
        share = len(resting) / len(flow.updates)
        yield Reading(_NAME, "resting_share", flow.layer, now.step, share, detail=detail)


def _read_network(now: Snapshot, flows: dict[str, _Flow]) -> Iterator[Reading]:
    """The norm of the whole gradient, and how saliency changes from the last quarter of depth to the first."""
    if not flows:
        return
    norms = [p.gradient for flow in flows.values() for p in flow.parameters.values()]
    yield Reading(_NAME, "global_gradient_norm", None, now.step, math.hypot(*norms), n=len(norms))
    depth = [
        (info, saliency)
        for info in now.layers.values()
        if (saliency := _saliency(now, info, flows.get(info.name))) is not None
    ]
    quarter = len(depth) // 4
    if quarter == 0 or now.step < GRACE:
        return
    first, last = depth[:quarter], depth[-quarter:]
    front, back = (statistics.median(s for _, s in part) for part in (first, last))
    if back == 0 or front == 0:
        return  # nothing arrives at all: that is for other rules
    detail: dict[str, Scalar] = {
        "first_layers": "|".join(info.name for info, _ in first),
        "last_layers": "|".join(info.name for info, _ in last),
        "first_saliency": front,
        "last_saliency": back,
    }
    yield Reading(_NAME, "saliency_ratio", None, now.step, front / back, n=len(depth), detail=detail)


def _read_time(now: Snapshot) -> Iterator[Reading]:
    """Of recurrent layers: what is left at the first quarter of the time steps of the gradient at the last."""
    for info in now.layers.values():
        reach = now.get(info.name, "input", "probe", "time_reach")
        if isinstance(reach, TimeReach) and math.isfinite(reach.ratio):
            detail: dict[str, Scalar] = {"time_steps": int(reach.steps)}
            n = int(reach.samples)
            yield Reading(*(_NAME, "saliency_ratio", info.name, now.step, reach.ratio), n=n, detail=detail)


def _saliency(now: Snapshot, info: LayerInfo, flow: _Flow | None) -> float | None:
    """Median over the units of a layer's matrices; None without a gradient.

    In front of a normalization a layer's scale has no effect, and its saliency is zero whatever arrives: the gains
    of the normalization stand in.
    """
    source = now.layers.get(info.source or "")
    stands_in = info.role == "norm" and source is not None and source.before_norm
    if flow is None or not (stands_in or (info.role in _MATRICES and not info.before_norm)):
        return None
    parts = [p for name, p in flow.parameters.items() if p.is_matrix or (stands_in and "bias" not in name)]
    values = np.concatenate([part.saliency.double().numpy() for part in parts]) if parts else np.zeros(0)
    return float(np.median(values)) if values.size else None


def _read_finite(visit: Visit, flows: dict[str, _Flow]) -> Iterator[Reading]:
    """Whether the loss or a gradient is NaN or infinite, or was since the visit before, and where that began.

    A layer is named only at the step where it began: one step later every number is non-finite.
    """
    now, step, loss = visit.now, visit.now.facts.get("first_non_finite_loss"), visit.now.facts.get("loss")
    blind = [
        flow.layer for flow in flows.values() if any(int(p.non_finite) for p in flow.parameters.values())
    ]
    before = visit.previous.step if visit.previous is not None else -1
    is_new = step is not None and int(step) > before
    is_over = isinstance(loss, float) and math.isfinite(loss)
    is_bad = bool(blind) or is_new or (step is not None and not is_over)
    ranks = {name: place for place, name in enumerate(now.layers)}
    detail: dict[str, Scalar] = {"first_step": step if step is not None else now.step if blind else None}
    is_here = detail["first_step"] == now.step
    detail["layer"] = (_first_bad_output(now) or _last_bad_gradient(flows, blind, ranks)) if is_here else None
    detail["gradients"] = len(blind)
    yield Reading(_NAME, "non_finite", None, now.step, float(is_bad), detail=detail)


def _first_bad_output(now: Snapshot) -> str | None:
    """The first layer in order of execution whose output held NaN or infinity."""
    for info in now.layers.values():
        found = (now.get(info.name, "output", observer, "moments") for observer in ("stream", "probe"))
        if any(isinstance(moments, Moments) and int(moments.non_finite.sum()) for moments in found):
            return info.name
    return None


def _last_bad_gradient(flows: dict[str, _Flow], bad: list[str], ranks: dict[str, int]) -> str | None:
    """Gradients run backwards: the deepest bad one came first. Nothing is said when all are bad."""
    if not bad or len(bad) == len(flows):
        return None
    return max(bad, key=lambda name: ranks.get(name, -1))


MEASURE = Measure(
    name=_NAME,
    summary="Gradients over depth while training goes on, the size of updates, and what gets none.",
    needs=frozenset({Need.PARAMETER_FLOW, Need.OUTPUT_MOMENTS, Need.TIME_REACH}),
    read=read,
    rules=RULES,
    worst={"saliency_ratio": "far from one", "gradient_norm": "high"},
)
