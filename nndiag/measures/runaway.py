"""Weights that run away in a series of checkpoints: ND603 as it is seen offline, where no step is."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from nndiag.findings import Reading, Scalar, Severity
from nndiag.measures.base import Visit
from nndiag.rules import Abstention, Advice, Case, Verdict, View
from nndiag.statistics import ParameterFlow

_NAME = "gradient_flow"

Flows = Mapping[str, Mapping[str, ParameterFlow]]
"""Sizes of parameters, by layer and name."""

GROWS = 1.5
"""|W| over |W| of the checkpoint before, from which a layer grows fast."""

RESTS = 1.25
"""The same, up to which the other layers stand still beside it."""

OFF = 10.0
"""fan_in mean(W^2) that no law of initialization gives and training hardly reaches."""


def read(visit: Visit, old: Flows, new: Flows) -> Iterator[Reading]:
    """How many times the norm of each weight matrix is that in the checkpoint before."""
    for layer, parameters in new.items():
        info, now = visit.now.layers.get(layer), parameters.get("weight")
        before = old.get(layer, {}).get("weight")
        if info is None or not info.fan_in or info.fan_in < 2 or now is None or before is None:
            continue
        if int(now.entries) != int(before.entries) or not float(before.weight) > 0:
            continue  # another layer, or one that began at zero and has to grow
        square = float(now.weight) ** 2 / int(now.entries)
        detail: dict[str, Scalar] = {"norm": float(now.weight), "scale": info.fan_in * square}
        growth = float(now.weight) / float(before.weight)
        yield Reading(_NAME, "growth", layer, visit.now.step, growth, detail=detail)


def judge(view: View) -> Verdict | Abstention | None:
    """ND603 of checkpoints: over two intervals in a row a layer grew by half each, far beyond any usual scale.

    The other layers stand still: where all grow, so does what they make up, and nothing is said of one.
    """
    series = view.series("growth")
    if series is None or series.last.step != view.step or len(series.recent) < 2:
        return None
    reading, before = series.last, series.recent[-2]
    others = [r.value for layer, r in view.across_now("growth") if layer != view.layer]
    scale = float(reading.detail["scale"] or 0)
    if not (min(reading.value, before.value) > GROWS and scale > OFF):
        return None
    if not others or statistics.median(others) > RESTS:
        return None
    evidence: dict[str, Scalar] = {"growth": round(reading.value, 4), "growth_before": round(before.value, 4)}
    evidence |= {"norm": reading.detail["norm"], "scale": round(scale, 4)}
    evidence |= {"growth_of_others": round(statistics.median(others), 4)}
    return Verdict(Severity.WARNING, reading.value, evidence)


def advise(case: Case) -> Advice:
    """What to do about it."""
    e = case.leading.evidence
    return Advice(
        f"The weights of {case.worst} run away: their norm grew {float(e['growth_before'] or 0):.2f} and then"
        f" {float(e['growth'] or 0):.2f} times from one checkpoint to the next, to {float(e['norm'] or 0):.3g}, while"
        f" the other layers grew {float(e['growth_of_others'] or 0):.2f} times.{case.others}",
        f"Look at the optimizer's group that holds {case.where}: a learning rate too high for it, or a weight"
        " decay that is missing or negative. Lower the rate tenfold and go on from the checkpoint before it grew."
        " It worked when `nndiag/gradient_flow/growth` of this layer is near 1.",
    )
