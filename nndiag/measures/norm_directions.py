"""Weights of which only the direction counts: what is left of the learning rate as they grow."""

from __future__ import annotations

from collections.abc import Iterator

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.functional import effective_rate
from nndiag.layers import LayerInfo
from nndiag.measures import stored_norms
from nndiag.measures.base import Visit
from nndiag.snapshot import Snapshot
from nndiag.statistics import ParameterFlow

_NAME = "norm_drift"


def read(visit: Visit, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    """Where only the direction of a weight counts: what is left of the learning rate."""
    now, first = _norms(visit.now, info), _norms(visit.first, info)
    directed = next((key for key in ("weight_v", "weight.original1") if key in now), None)
    is_plain = directed is None
    key = directed or "weight"
    is_before_norm = info.before_norm or stored_norms.is_followed(visit.now, info)
    if (is_plain and not is_before_norm) or key not in now or first.get(key, 0.0) <= 0:
        reason = "no normalization reads it, and its weight is not normalized"
        yield CoverageEntry(info.name, _NAME, "not applicable", reason)
        return
    rate = effective_rate(first[key], now[key])
    detail: dict[str, Scalar] = {
        "growth": round(now[key] / first[key], 5),
        "why": "a normalization follows" if is_plain else "weight normalization",
    }
    gain = {"weight_v": "weight_g", "weight.original1": "weight.original0"}.get(key)
    if gain in now and first.get(gain, 0.0) > 0:
        detail["gain_growth"] = round(now[gain] / first[gain], 5)
    yield Reading(_NAME, "effective_rate", info.name, visit.now.step, rate, detail=detail)


def _norms(now: Snapshot, info: LayerInfo) -> dict[str, float]:
    flows = now.parts(info.name, "grad", "weights", "flow")
    return {name: float(flow.weight) for name, flow in flows.items() if isinstance(flow, ParameterFlow)}
