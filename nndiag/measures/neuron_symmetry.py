"""Neuron symmetry: units that are copies of each other, and whether they will stay so.

Two units of a layer with equal incoming weights that receive equal gradients stay equal for ever; random
initial weights part them, constant biases do not bring them together. The verdict is the third backward pass,
when two updates have been made: by then zero-initialized heads, residual branches and adapters have healed.

Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", 8.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from nndiag.findings import CoverageEntry, Reading, Scalar, Severity
from nndiag.functional import (
    UnitVerdict,
    fitting_laws,
    judge_units,
    max_cosine_pvalue,
    max_cosine_quantile,
    symmetry_index,
)
from nndiag.layers import LayerInfo
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.stored_units import scaled_copies
from nndiag.rules import ABSTAIN, Abstention, Advice, Case, Rule, Verdict, View
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import Moments, RowSignature, WeightLaw
from nndiag.statistics.signature import LOOSE

_NAME = "neuron_symmetry"

VERDICT_AGE = 2
"""Updates before duplicated units are judged."""

STUCK_AGE = 12
"""Updates before less than half of a layer is called stuck."""

EXACT_AGE = 16
"""Updates after which clones are only equal up to the order of summation."""

TRAINED_AGE = 100
"""Updates after which the number of distinct units is a statement about the trained layer."""

ALPHA = 1e-3
"""Significance of the most alike pair, over all layers together."""


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every layer whose units can be compared."""
    now = visit.now
    judged = [info for info in now.layers.values() if info.domains]
    for info in now.layers.values():
        signatures = _signatures(now, info)
        if not info.domains:
            yield CoverageEntry(info.name, _NAME, "not applicable", "no units to compare")
        elif not info.trainable and now.source == "live":
            yield CoverageEntry(info.name, _NAME, "not applicable", "frozen")
        elif not signatures:
            reason = now.gaps.get(Gap(info.name, "weight", "weights")) or _too_few(now, info)
            if reason is not None:  # else its units were not compared at this visit
                yield CoverageEntry(info.name, _NAME, "not observed", reason)
        else:
            yield from _read_layer(visit, info, signatures, len(judged))


def _signatures(now: Snapshot, info: LayerInfo) -> list[RowSignature]:
    """A unit with a single incoming weight has nothing to tell it apart."""
    parts = now.parts(info.name, "weight", "weights", "signature").values()
    if info.fan_in is not None and info.fan_in < 2:
        return []
    return [
        part for part in parts if isinstance(part, RowSignature) and int(part.dims) > 1 and part.units > 1
    ]


def _too_few(now: Snapshot, info: LayerInfo) -> str | None:
    is_narrow = info.fan_in is not None and info.fan_in < 2
    was_compared = bool(now.parts(info.name, "weight", "weights", "signature"))
    return "fewer than two incoming weights a unit" if is_narrow or was_compared else None


def _read_layer(
    visit: Visit, info: LayerInfo, signatures: list[RowSignature], layers: int
) -> Iterator[Reading | CoverageEntry]:
    now, age = visit.now, visit.now.step - visit.first.step
    units = sum(s.units for s in signatures)
    is_early = age <= EXACT_AGE and now.source == "live"
    distinct = sum(_count(s.exact if is_early else s.loose) for s in signatures)
    detail: dict[str, Scalar] = {"units": units, "distinct": distinct, "kind": info.kind}
    yield Reading(
        _NAME, "distinct_share", info.name, now.step, distinct / units, 1 / units, units, None, detail
    )
    worst = max(symmetry_index((s.exact if is_early else s.loose).numpy()).index for s in signatures)
    yield Reading(_NAME, "symmetry_index", info.name, now.step, worst, 1 / units, units)
    if now.source == "live" and VERDICT_AGE <= age <= EXACT_AGE:
        yield from _read_fate(now, info, signatures, age)
    elif now.source == "live" and age < VERDICT_AGE:
        yield CoverageEntry(info.name, _NAME, "not observed", "judged after two updates")
    if visit.is_first and now.source == "live":
        yield from _read_alike(now, info, signatures, layers)
    if now.source == "checkpoint" or age >= TRAINED_AGE:
        yield _read_width(visit, info, signatures)


def _read_fate(
    now: Snapshot, info: LayerInfo, signatures: list[RowSignature], age: int
) -> Iterator[Reading | CoverageEntry]:
    """What gradients make of duplicated units."""
    if _has_diverged(now, info):
        yield CoverageEntry(info.name, _NAME, "not observed", "its numbers are no longer finite")
        return
    known = [s for s in signatures if s.has_gradients]
    if not known:
        reason = now.gaps.get(Gap(info.name, "grad", "weights"), "no gradient at this step")
        yield CoverageEntry(info.name, _NAME, "not observed", reason)
        return
    verdicts = [judge_units(s.exact.numpy(), s.joint.numpy(), s.gradient_norms.numpy()) for s in known]
    total = UnitVerdict(*(sum(getattr(v, name) for v in verdicts) for name in UnitVerdict.__slots__))
    detail: dict[str, Scalar] = {name: getattr(total, name) for name in UnitVerdict.__slots__} | {"age": age}
    for name in ("locked", "stuck", "healing"):
        share = getattr(total, name) / total.units
        yield Reading(
            *(_NAME, f"{name}_share", info.name, now.step, share, 1 / total.units, total.units, None, detail)
        )


def _has_diverged(now: Snapshot, info: LayerInfo) -> bool:
    """Whether the loss, or all that a unit puts out, is not finite: rows of NaN are no copies."""
    loss = now.facts.get("loss")
    if isinstance(loss, float) and not math.isfinite(loss):
        return True
    found = (now.get(info.name, "output", observer, "moments") for observer in ("probe", "stream"))
    return any(isinstance(moments, Moments) and bool((moments.n == 0).any()) for moments in found)


def _read_alike(
    now: Snapshot, info: LayerInfo, signatures: list[RowSignature], layers: int
) -> Iterator[Reading | CoverageEntry]:
    """The most alike pair of initial units, against what random directions give."""
    law = now.get(info.name, "weight", "weights", "law")
    if not isinstance(law, WeightLaw) or info.fan_in is None or info.fan_out is None:
        return
    distances = {name: float(getattr(law, name)) for name in ("uniform", "normal", "truncated")}
    laws = fitting_laws(
        *(float(law.std), int(law.entries), distances, int(law.sampled), info.fan_in, info.fan_out)
    )
    for signature in signatures:
        compared, dims, cosine = int(signature.compared), int(signature.directed), float(signature.cosine)
        if compared < 2 or cosine != cosine:
            continue
        level = ALPHA / layers
        limit = max_cosine_quantile(compared, dims, level)
        detail: dict[str, Scalar] = {
            "law": laws[0] if laws else None,
            "limit": round(limit, 4),
            "p_value": max_cosine_pvalue(cosine, compared, dims),
            "testable": limit <= 0.95,
            "units": compared,
        }
        yield Reading(_NAME, "max_cosine", info.name, now.step, cosine, None, compared, None, detail)


def _read_width(visit: Visit, info: LayerInfo, signatures: list[RowSignature]) -> Reading:
    """K of n distinct units; sign duplicates count where the activation is odd; zero rows apart."""
    now = visit.now
    units = sum(s.units for s in signatures)
    zero = sum(int((s.norms <= LOOSE * s.norms.median().clamp(min=1e-30)).sum()) for s in signatures)
    distinct = _distinct(info, signatures)
    detail: dict[str, Scalar] = {"units": units, "distinct": distinct, "zero_units": zero, "odd": info.odd}
    if now.source == "checkpoint":
        detail["scaled_copies"] = scaled_copies(now, info.name)
    before = _signatures(visit.previous, info) if visit.previous is not None else []
    if now.source == "checkpoint" and sum(s.units for s in before) == units:
        detail["distinct_before"] = _distinct(info, before)
    labels = torch.cat([s.loose for s in signatures]) if len(signatures) == 1 and distinct < units else None
    classes = None if labels is None else tuple(labels.double().tolist())
    return Reading(
        _NAME, "effective_width", info.name, now.step, distinct / units, 1 / units, units, classes, detail
    )


def _distinct(info: LayerInfo, signatures: list[RowSignature]) -> int:
    return sum(_count(s.signed if info.odd else s.loose) for s in signatures)


def _count(labels: torch.Tensor) -> int:
    return len(torch.unique(labels))


def _judge_locked(view: View) -> Verdict | None:
    return _judge_fate(view, "locked")


def _judge_stuck(view: View) -> Verdict | Abstention | None:
    """ND302: a few rows of zeros may wait some batches for their first gradient, behind units that are off."""
    stuck = view.series("stuck_share")
    if stuck is not None and stuck.last.value < 0.5 and int(stuck.last.detail["age"] or 0) < STUCK_AGE:
        return ABSTAIN
    return _judge_fate(view, "stuck")


def _judge_fate(view: View, fate: str) -> Verdict | None:
    """At the verdict by gradients; later, as long as units are still equal."""
    past, distinct = view.series(f"{fate}_share"), view.now("distinct_share")
    if past is None or distinct is None or past.last.value <= view.threshold:
        return None
    if distinct.value == 1.0:
        return None
    reading = past.last
    evidence: dict[str, Scalar] = {k: v for k, v in reading.detail.items() if k != "age"}
    evidence |= {"distinct": distinct.detail.get("distinct"), "judged_at_step": reading.step}
    severity = Severity.CRITICAL if reading.value >= 0.5 else Severity.WARNING
    return Verdict(severity, reading.value, evidence)


def _advise_locked(case: Case) -> Advice:
    e = case.leading.evidence
    message = (
        f"{case.where}: only {e['distinct']} of {e['units']} units are distinct. {e['locked']} have equal weights"
        f" and receive equal gradients: they stay equal, and the layer is as wide as {e['distinct']} units."
    )
    return Advice(message, _break_symmetry(case))


def _advise_stuck(case: Case) -> Advice:
    e = case.leading.evidence
    message = (
        f"{case.where}: {e['stuck']} of {e['units']} units have equal weights and receive no gradient at all:"
        " nothing can part them."
    )
    return Advice(message, _break_symmetry(case))


def _break_symmetry(case: Case) -> str:
    return (
        f"Initialize the weights of {case.where} at random, e.g. torch.nn.init.kaiming_normal_ for ReLU or"
        " xavier_normal_ for tanh, embeddings with a standard deviation of the size that they have now; constant"
        " biases are fine. If units were copied on purpose (to widen a layer),"
        " add a little noise to the copies. Dropout parts equal units too."
        " It worked when `nndiag/neuron_symmetry/distinct_share` of this layer is 1."
    )


def _judge_alike(view: View) -> Verdict | None:
    """ND303: beyond the extreme-value null; a warning only where the pair is nearly parallel."""
    reading = view.now("max_cosine")
    if reading is None or not reading.detail["testable"] or reading.detail["law"] is None:
        return None
    limit = reading.detail["limit"]
    if reading.value <= float(limit or 0) or reading.value >= 1 - 1e-6:
        return None
    severity = Severity.WARNING if reading.value >= view.threshold else Severity.INFO
    return Verdict(severity, reading.value, dict(reading.detail) | {"max_cosine": round(reading.value, 4)})


def _advise_alike(case: Case) -> Advice:
    e = case.leading.evidence
    return Advice(
        f"{case.where}: two of {e['units']} initial units point the same way (|cosine| {e['max_cosine']}; random"
        f" ones stay below {e['limit']}).",
        "If the layer was built by copying units, add noise or draw them anew. Otherwise check the seed and the"
        " initializer. It worked when `nndiag/neuron_symmetry/max_cosine` at step 0 is below the limit.",
    )


def _judge_width(view: View) -> Verdict | None:
    """ND304: warning when a tenth of the units repeat others; rows of zeros are pruned or decayed, not copies."""
    reading = view.now("effective_width")
    if reading is None:
        return None
    units, distinct = int(reading.detail["units"] or 0), int(reading.detail["distinct"] or 0)
    zero = int(reading.detail["zero_units"] or 0)
    copies = max(0, units - distinct - max(0, zero - 1))
    if copies == 0 and zero < 2 and not reading.detail.get("scaled_copies"):
        return None
    severity = Severity.WARNING if copies / units >= view.threshold else Severity.INFO
    return Verdict(severity, copies / units, dict(reading.detail) | {"copies": copies})


def _advise_width(case: Case) -> Advice:
    e = case.leading.evidence
    sign = ", counting units that differ only in sign as one" if e["odd"] else ""
    zero = f" {e['zero_units']} units have weights next to zero." if e["zero_units"] else ""
    if e.get("scaled_copies"):
        zero += f" {e['scaled_copies']} more are multiples of others: the same behind a ReLU, up to a factor."
    before = e.get("distinct_before", e["distinct"])
    change = "" if before == e["distinct"] else f" In the checkpoint before, {before} were."
    return Advice(
        f"{case.where}: {e['distinct']} of {e['units']} units are distinct up to 0.2%{sign}.{change}{zero}",
        f"The layer can be cut to {e['distinct']} units without changing what it computes (add the outgoing weights"
        " of equal units). To use its width, re-draw the copies at random and train on. It worked when"
        " `nndiag/neuron_symmetry/effective_width` of this layer is 1.",
    )


_RULES = (
    Rule(
        id="ND301",
        name="units-locked",
        measure=_NAME,
        summary="units with equal weights and equal gradients: they stay equal for ever",
        reads="distinct_share",
        judge=_judge_locked,
        advise=_advise_locked,
        threshold=0.0,
        persistence="at once",
        explains=("ND302", "ND303", "ND304", "ND311", "ND406", "ND408", "ND409", "ND605"),
    ),
    Rule(
        id="ND302",
        name="units-stuck",
        measure=_NAME,
        summary="units with equal weights and no gradient: nothing can part them",
        reads="distinct_share",
        judge=_judge_stuck,
        advise=_advise_stuck,
        threshold=0.0,
        persistence="at once",
        explains=("ND303", "ND304", "ND311", "ND605"),
    ),
    Rule(
        id="ND303",
        name="near-duplicate-units",
        measure=_NAME,
        summary="two initial units more alike than random ones can be",
        reads="max_cosine",
        judge=_judge_alike,
        advise=_advise_alike,
        threshold=0.9,
        persistence="at once",
    ),
    Rule(
        id="ND304",
        name="effective-width",
        measure=_NAME,
        summary="a trained layer in which units repeat each other",
        reads="effective_width",
        judge=_judge_width,
        advise=_advise_width,
        threshold=0.1,
    ),
)

MEASURE = Measure(
    name=_NAME,
    summary="Units of a layer that are copies of each other, and whether training parts them.",
    needs=frozenset({Need.UNIT_SIGNATURES, Need.WEIGHT_LAWS}),
    read=read,
    rules=_RULES,
    worst={"distinct_share": "low", "effective_width": "low"},
)
