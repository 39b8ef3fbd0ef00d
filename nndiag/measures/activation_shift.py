"""Activation shift: how far the inputs of activations move, on the same samples, from step to step.

A unit's distribution over the probe's samples is summed up by mean and variance; the shift between two visits
is the squared Hellinger distance of the two Gaussians, averaged over units. It lies in [0, 1], and does not
change when a unit is scaled. The samples are the same, so whatever moves was moved by the parameters.

That such movement ("internal covariate shift") is harmful in itself is contested (Santurkar et al. 2018, "How
does batch normalization help optimization?", against Ioffe, Szegedy 2015, "Batch normalization"): the rules
below are learning-rate alarms, and are worded so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import numpy as np

from nndiag.findings import CoverageEntry, Reading, Scalar, Severity
from nndiag.functional import (
    debiased,
    hellinger2,
    hellinger2_floor,
    mean_shift,
    scale_shift,
    sigma_equiv,
    variance_share,
)
from nndiag.layers import LayerInfo
from nndiag.measures import input_change
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.norm_warm_up import is_warming_up
from nndiag.measures.stored_parameters import NO_ACTIVATIONS
from nndiag.rules import ABSTAIN, LEARNS, Abstention, Advice, Case, Rule, Series, Verdict, View
from nndiag.snapshot import Gap, Observer, Snapshot
from nndiag.statistics import Moments

_NAME = "activation_shift"

GRACE = 20
"""Steps without a verdict: healthy networks under Adam move by up to 0.55 at their first step."""

SETTLED = 60
"""Steps after which the threshold holds; until then healthy networks still move ``EARLY`` times as much."""

EARLY = 4.0
SEVERE = 10.0
"""Multiples of the threshold: before ``SETTLED``, and from where a shift is severe at any time."""

MIN_SIGNAL = 0.05
"""Share of a layer's signal that must tell samples apart for a shift to mean anything."""

JUMP = 5.0
"""An interval's shift this many times the median of the layer's own is a jump."""

MAX_UNITS = 1024
"""Units listed one by one in a reading."""


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every layer whose output an activation reads, of the output layer, and of the network's input."""
    yield from input_change.read(visit.now)
    for info in visit.now.layers.values():
        if not _is_judged(visit.now, info):
            yield CoverageEntry(info.name, _NAME, "not applicable", "not the input of an activation")
            continue
        readings = list(_read_layer(visit, info))
        yield from readings
        if not readings:
            yield CoverageEntry(info.name, _NAME, "not observed", _why(visit, info.name))


def _is_judged(now: Snapshot, info: LayerInfo) -> bool:
    """The layer in front of an activation: the norm, where one follows the weights."""
    if info.role in ("weight", "recurrent"):
        return not info.before_norm
    source = now.layers.get(info.source or "")
    return info.role == "norm" and source is not None and source.before_norm


def _read_layer(visit: Visit, info: LayerInfo) -> Iterator[Reading]:
    """Per step at the second visit of a burst, else over the interval; and since the end of the grace period."""
    now, before = visit.now, visit.previous
    if before is not None:
        name = "step_shift" if now.step - before.step == 1 else "interval_shift"
        yield from _compare(now, before, info, name)
    if visit.reference is not None:
        yield from _compare(now, visit.reference, info, "cumulative_shift")


def _compare(now: Snapshot, before: Snapshot, info: LayerInfo, name: str) -> Iterator[Reading]:
    observer: Observer = "probe" if now.facts.get("probe_samples") else "stream"
    here, there = (s.get(info.name, "output", observer, "moments") for s in (now, before))
    if not isinstance(here, Moments) or not isinstance(there, Moments) or here.n.shape != there.n.shape:
        return
    if observer == "probe" and int(here.k) != int(there.k):
        return
    old, new = (there.mean.numpy(), there.variance.numpy()), (here.mean.numpy(), here.variance.numpy())
    distances = hellinger2(*old, *new)
    known = np.isfinite(distances) & ~(is_constant(*old) & is_constant(*new))
    if not known.any():
        return
    value, resolution = float(distances[known].mean()), None
    if observer == "stream":  # other samples: what chance alone brings is taken off, and is the resolution
        value, resolution = _without_noise(value, there, here)
    detail: dict[str, Scalar] = {
        "steps": now.step - before.step,
        "variance_share": variance_share(float((new[0] ** 2).mean()), float(new[1].mean())),
        "constant_units": int((~known).sum()),
        "q95": float(np.quantile(distances[known], 0.95)),
        "mean_shift": _mean(mean_shift(*old, *new)),
        "absolute_mean_shift": _mean(np.abs(mean_shift(*old, *new))),
        "scale_shift": _mean(scale_shift(old[1], new[1])),
        "sigma_equiv": sigma_equiv(value),
        "bn_warmup": is_warming_up(now, info),
        "observer": observer,
    }
    units = tuple(distances.tolist()) if len(distances) <= MAX_UNITS else None
    yield Reading(_NAME, name, info.name, now.step, value, resolution, int(here.k), units, detail)


def is_constant(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Units that tell no samples apart, up to rounding: in standard deviations anything would move them."""
    size = math.sqrt(float((mean**2 + variance).mean()))
    return np.asarray(np.sqrt(variance) <= 1e-5 * np.maximum(np.abs(mean), size))


def _without_noise(value: float, there: Moments, here: Moments) -> tuple[float, float]:
    """The debiased shift, and its noise band: as much again as chance brings on average."""
    floor = hellinger2_floor(there.effective_samples.numpy(), here.effective_samples.numpy())
    known = floor[np.isfinite(floor)]
    expected = float(known.mean()) if len(known) else 1.0
    return debiased(value, expected), expected


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0


def _why(visit: Visit, layer: str) -> str:
    now = visit.now
    if now.source == "checkpoint" and not any(key.statistic == "moments" for key in now.statistics):
        return NO_ACTIVATIONS
    if visit.previous is None:
        return "a shift needs two visits with the same samples"
    gaps = (now.gaps.get(Gap(layer, "output", observer)) for observer in ("probe", "stream"))
    reason = next((gap for gap in gaps if gap), None)
    if reason is None and (
        now.get(layer, "output", "probe", "moments") or now.get(layer, "output", "stream", "moments")
    ):
        reason = "no unit tells samples apart"
    return reason or "not called in the observed steps"


def _is_warm(view: View) -> bool:
    """Whether the learning rate has stopped rising: warm-up is part of the grace period."""
    lr = view.run("lr")
    if lr is None or len(lr.recent) < 2:
        return True
    earlier = max(reading.value for reading in list(lr.recent)[:-1])
    return lr.last.value <= earlier * (1 + 1e-6)


def _judge_fast(view: View) -> Verdict | Abstention | None:
    """ND101: a shift per step above 0.005 (0.02 before step 60), while the loss has not fallen by half.

    Not judged: during grace and warm-up, and where samples can hardly be told apart any more, because there the
    smallest common movement is large in standard deviations.
    """
    reading = view.now("step_shift")
    if reading is None:
        return None
    is_flat = float(reading.detail["variance_share"] or 0) < MIN_SIGNAL
    if reading.step <= GRACE or reading.detail["bn_warmup"] or is_flat or not _is_warm(view):
        return ABSTAIN
    limit = view.threshold * (1 if reading.step > SETTLED else EARLY)
    if reading.value - (reading.resolution or 0.0) <= limit:
        return None
    fell, lr = view.loss_fell(), view.run("lr")
    is_learning = (fell is not None and fell >= LEARNS) or view.is_improving() or _is_new_data(view)
    severity = Severity.INFO if is_learning or view.has_rivals else Severity.WARNING
    if (
        severity is Severity.WARNING
        and reading.value > SEVERE * view.threshold
        and fell is not None
        and not fell > 0
    ):
        severity = Severity.CRITICAL
    evidence: dict[str, Scalar] = {"shift": round(reading.value, 5), "limit": limit}
    evidence |= {
        name: _rounded(reading.detail[name]) for name in ("sigma_equiv", "mean_shift", "scale_shift", "q95")
    }
    evidence |= {
        "lr": lr.last.value if lr else None,
        "samples": reading.n,
        "observer": reading.detail["observer"],
    }
    evidence["loss_fell"] = None if fell is None else round(fell, 4)
    return Verdict(severity, reading.value, evidence)


def _is_everywhere(view: View, limit: float) -> bool:
    """Whether half of the layers move too far: a learning rate is one for all, and few have causes of their own."""
    middle = view.history.once(
        _NAME,
        "median of step_shift",
        lambda: statistics.median(reading.value for _, reading in view.across_now("step_shift")),
    )
    return middle > limit


def _is_new_data(view: View) -> bool:
    """Whether batches hold other classes than those before: then it is not the learning rate alone."""
    labels = view.of(None).now("label_dispersion", "norm_drift")
    return labels is not None and labels.value > UNLIKE_LABELS


def _judge_jump(view: View) -> Verdict | Abstention | None:
    """ND102: an interval's shift above five times the layer's own median, and above 0.02."""
    changed = input_change.judge(view)
    if changed is not None:
        return changed
    series = view.series("interval_shift")
    if series is None or series.last.step != view.step:
        return ABSTAIN
    now = series.last
    steps = int(now.detail["steps"] or 1)
    usual = [
        r.value
        for r in list(series.recent)[:-1]
        if int(r.detail["steps"] or 1) >= steps / 2 and r.step > GRACE
    ]
    is_flat = float(now.detail["variance_share"] or 0) < MIN_SIGNAL
    if now.step <= SETTLED or now.detail["bn_warmup"] or not usual:
        return ABSTAIN
    middle = statistics.median(usual)
    before = [r.value for r in list(series.recent)[:-1] if r.step > GRACE]
    is_thrown = now.value > THROWN and len(before) > 2 and max(before) < STEADY
    if not is_thrown and (len(usual) < 3 or is_flat):
        return ABSTAIN
    noise = now.resolution or 0.0
    if now.value - noise <= view.threshold or now.value <= JUMP * middle:
        return None
    loss, evidence = view.run("loss"), {"shift": round(now.value, 5), "median_shift": round(middle, 5)}
    is_worse = (
        loss is not None
        and len(loss.recent) > 2
        and not loss.last.value <= 1.2 * statistics.median(reading.value for reading in loss.recent)
    )
    facts: dict[str, Scalar] = {
        "steps": steps,
        "sigma_equiv": _rounded(now.detail["sigma_equiv"]),
        "samples": now.n,
    }
    facts |= _risen_rate(view, series)
    # A network thrown far from where it stood needs no second look, and may not live to have one.
    severity = Severity.WARNING if is_worse else Severity.INFO
    return Verdict(severity, now.value, evidence | facts, is_conclusive=is_worse and is_thrown)


def _risen_rate(view: View, series: Series) -> dict[str, Scalar]:
    """The learning rate now and at the visit before, where it has doubled in between."""
    rates, before = view.run("lr"), series.recent[-2].step if len(series.recent) > 1 else view.step
    old = None if rates is None else next((r.value for r in rates.recent if r.step == before), None)
    if rates is None or old is None or not rates.last.value > 2 * old:
        return {}
    highest = max(r.value for r in (rates.first, *list(rates.recent)[:-1]))
    return {"lr": rates.last.value, "lr_before": old, "lr_highest_before": highest}


def _rounded(value: Scalar) -> Scalar:
    return round(value, 5) if isinstance(value, float) else value


def _advise_fast(case: Case) -> Advice:
    e = case.leading.evidence
    value, limit = float(e["shift"] or 0), float(e["limit"] or 1)
    factor = max(2.0, math.sqrt(value / limit))
    return Advice(
        f"The outputs of {case.where} move by {float(e['sigma_equiv'] or 0):.2g} standard deviations in one step"
        f" (squared Hellinger distance {value:.2g}; healthy networks of the reference set stay below {limit:g}):"
        " the learning rate is too high for this network.",
        f"Lower the learning rate (now {e['lr']}) by about {factor:.0f} times, or add warm-up; clip gradients if"
        " single batches do it. It worked when `nndiag/activation_shift/step_shift` stays below 0.005 and the loss"
        " falls.",
    )


def _advise_jump(case: Case) -> Advice:
    e = case.leading.evidence
    if "input_change" in e:
        return input_change.advise(case)
    rate, cause = "", "See what changed at that time: the learning rate, the data, a layer that was unfrozen."
    if "lr_before" in e:
        rate = f" In between, the learning rate rose from {e['lr_before']:g} to {e['lr']:g}."
        cause = f"Keep the learning rate at {e['lr_highest_before']:g} or below: so far it never was larger."
    return Advice(
        f"Between two visits {case.where} moved by {e['sigma_equiv']} standard deviations (shift {e['shift']}; its"
        f" median is {e['median_shift']}).{rate}",
        f"{cause} If nothing was meant to change, clip gradients or lower the learning rate."
        " It worked when `nndiag/activation_shift/interval_shift` stays within five times its median.",
    )


MEASURE = Measure(
    name=_NAME,
    summary="How far the distribution of each unit moves on the same samples: a step, an interval, since the start.",
    needs=frozenset({Need.OUTPUT_MOMENTS, Need.NORM_STATE, Need.BATCH_MEANS}),
    read=read,
    rules=(
        Rule(
            id="ND101",
            name="shift-too-fast",
            measure=_NAME,
            summary="layers move too far in one step: the learning rate is too high",
            reads="step_shift",
            judge=_judge_fast,
            advise=_advise_fast,
            threshold=0.005,
            acts_by_updates=True,
            is_of_run=True,
            explains=(
                *("ND102", "ND201", "ND202", "ND203", "ND311", "ND602", "ND603", "ND604"),
                *("ND401", "ND402", "ND403", "ND406", "ND501"),
            ),
        ),
        Rule(
            id="ND102",
            name="shift-jump",
            measure=_NAME,
            summary="a layer moved much further than it usually does between two visits",
            reads="interval_shift",
            also_reads=("input_change",),
            judge=_judge_jump,
            advise=_advise_jump,
            threshold=0.02,
            acts_by_updates=True,
            explains=("ND201", "ND202", "ND311"),
        ),
    ),
)

UNLIKE_LABELS = 3.0
"""Dispersion of labels over batches above which ND405 calls them unlike."""

THROWN, STEADY = 0.5, 0.1
"""A shift over an interval of two standard deviations, in a layer whose usual one is below 0.9."""
