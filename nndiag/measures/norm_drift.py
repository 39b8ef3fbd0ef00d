"""Normalization statistics: are they those of the data, and do they suit what is normalized?

Batch, instance, group, layer and RMS normalization are one thing, y = g (x - mu) / delta + b, with different
sets that mu and delta are taken over. Where the set spans samples, evaluation uses a running average in its
place: it must be the average of the population, and batches must be like the population. Where the set spans
features, these must be of like scale, or the small ones drown.

Sources: Ioffe, Szegedy 2015, "Batch normalization"; Ioffe 2017, "Batch renormalization"; Wu, Johnson 2021,
"Rethinking 'batch' in BatchNorm"; Ba, Kiros, Hinton 2016, "Layer normalization"; Salimans, Kingma 2016,
"Weight normalization".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.functional import debiased, ema_batches, hellinger2, hellinger2_floor, warm_up
from nndiag.layers import LayerInfo
from nndiag.measures import batch_norm_rules, feature_norm_rules, norm_directions, stored_norms
from nndiag.measures.base import Measure, Need, Visit
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import (
    BatchDrift,
    BatchLabels,
    BatchMeans,
    Disagreement,
    FeatureScales,
    Moments,
    NormState,
    SampleScales,
)

_NAME = "norm_drift"

LONGEST_WAIT = 100
"""Steps after which running statistics are judged, however slow their momentum: slower is the fault."""

MIN_SAMPLES = 32
"""Probe samples before a distance of moments, a gain or a constant channel is stated."""

MIN_BATCHES = 8
"""Batches before they are compared with each other."""

MIN_FREEDOM = 30
"""Degrees of freedom before labels of batches are compared."""

_CONSTANT = 1e-10
"""Share of a channel's mean square below which its variance is rounding."""


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every normalization layer, of weights in front of one, and of the batches."""
    now = visit.now
    distances: list[Reading] = []
    for info in now.layers.values():
        if info.role == "norm":
            found = list(_read_norm(visit, info))
            distances += [reading for reading in found if reading.name == "running_distance"]
            yield from found
            if not found:
                yield CoverageEntry(info.name, _NAME, "not observed", _why(now, info))
        elif info.role == "weight":
            yield from norm_directions.read(visit, info)
        else:
            yield CoverageEntry(info.name, _NAME, "not applicable", "not a normalization")
    yield from _read_batches(now)
    yield from _read_gap(now, distances)


def _why(now: Snapshot, info: LayerInfo) -> str:
    gaps = (
        now.gaps.get(Gap(info.name, tap, obs)) for tap in ("input", "output") for obs in ("probe", "stream")
    )
    return next((reason for reason in gaps if reason), "nothing to read in the observed steps")


def _state(now: Snapshot, info: LayerInfo) -> NormState | None:
    found = now.get(info.name, "weight", "weights", "norm_state")
    return found if isinstance(found, NormState) and found.keeps_statistics else None


def _before(visit: Visit, info: LayerInfo) -> NormState | None:
    return _state(visit.previous, info) if visit.previous is not None else None


def _drift(now: Snapshot, info: LayerInfo) -> BatchDrift | None:
    found = now.get(info.name, "input", "stream", "batch_drift")
    return found if isinstance(found, BatchDrift) else None


def _read_norm(visit: Visit, info: LayerInfo) -> Iterator[Reading]:
    state, drift = _state(visit.now, info), _drift(visit.now, info)
    if state is not None:
        yield _read_state(visit, info, state, drift)
    if drift is not None:
        yield from _read_drift(visit, info, state, drift)
    if state is not None and state.uses_batches:
        yield from _read_distance(visit, info, state, drift)
    elif state is not None:
        yield from _read_frozen(visit.now, info, state)
    yield from _read_scales(visit.now, info)
    yield from _read_constant(visit.now, info)
    if visit.now.source == "checkpoint":
        yield from stored_norms.read_constant(visit.now, info, state)
        if state is not None:
            yield from stored_norms.read_shift(visit, info, state, _before(visit, info))


def _read_state(visit: Visit, info: LayerInfo, state: NormState, drift: BatchDrift | None) -> Reading:
    """How the layer is set and what its buffers did since the last and since the first visit."""
    before = _before(visit, info)
    first = _state(visit.first, info) or state
    source = visit.now.layers.get(info.source or "")
    detail: dict[str, Scalar] = {
        "training": bool(state.training),
        "trained_at_first_visit": bool(first.training),
        "trainable": bool(state.trainable) if int(state.trainable) >= 0 else None,
        "input_trainable": source.trainable if source is not None else None,
        "momentum": None if math.isnan(float(state.momentum)) else float(state.momentum),
        "tracked": int(state.tracked),
        "untouched": bool((state.mean == 0).all()) and bool((state.variance == 1).all()),
        "moved": round(float(state.distance(first.mean, first.variance).mean()), 6)
        if first.mean.shape == state.mean.shape
        else None,
        "still": before is not None and before.uses_batches and _is_same(before, state),
    }
    if visit.now.source == "checkpoint":
        detail["stored"] = stored_norms.stored_fault(visit, info, state, before)
    if drift is not None and int(drift.tracked) >= 0 and int(state.tracked) >= 0:
        updates = int(state.tracked) - int(drift.tracked)
        detail["updates_per_batch"] = round(updates / max(1, int(drift.batches)), 3)
    return Reading(_NAME, "batches_tracked", info.name, visit.now.step, float(state.tracked), detail=detail)


def _is_same(before: NormState, now: NormState) -> bool:
    return torch.equal(before.mean, now.mean) and torch.equal(before.variance, now.variance)


def _read_drift(
    visit: Visit, info: LayerInfo, state: NormState | None, drift: BatchDrift
) -> Iterator[Reading]:
    """How far batches are from running statistics, once these have forgotten where they began."""
    step, values = visit.now.step, drift.values_per_statistic
    yield Reading(_NAME, "values_per_statistic", info.name, step, values, n=int(drift.samples))
    momentum = state.weight_of_newest if state is not None else 0.1
    age = int(drift.tracked) if int(drift.tracked) >= 0 else step - visit.first.step
    z2 = drift.z2
    if not math.isfinite(z2) or age < warm_up(momentum):
        return
    detail: dict[str, Scalar] = {
        "batch_size": round(drift.batch_size, 2),
        "values_per_statistic": round(values, 2),
        "momentum": momentum,
        "offset_99": round(drift.per_batch(drift.offset), 4),
        "scale_99": round(math.exp(min(50.0, drift.per_batch(drift.log_scale))), 4),
    }
    detail |= _effect(drift)
    yield Reading(_NAME, "batch_z2", info.name, step, z2, n=int(drift.samples), detail=detail)


def _effect(drift: BatchDrift) -> dict[str, Scalar]:
    """Squared Hellinger distance of batches to running statistics, beyond what batches differ by chance."""
    by_chance = drift.per_batch(drift.floor)
    beyond = debiased(drift.per_batch(drift.distance), by_chance)
    return {"batch_distance": round(beyond, 6), "batch_floor": round(by_chance, 6)}


def _read_distance(
    visit: Visit, info: LayerInfo, state: NormState, drift: BatchDrift | None
) -> Iterator[Reading]:
    """The PreciseBN distance: running moments against those of the probe's samples at the present weights."""
    now, a = visit.now, state.weight_of_newest
    moments = now.get(info.name, "input", "probe", "moments/batch")
    if not isinstance(moments, Moments) or int(moments.k) < MIN_SAMPLES:
        return
    varies = moments.variance > _CONSTANT * moments.mean.square()
    if moments.mean.shape != state.mean.shape or not varies.any():
        return
    if _age(visit, state) < min(warm_up(a), LONGEST_WAIT):
        return
    k = int(moments.k)
    masked = any(
        other.role == "dropout" and other.depth < info.depth for other in now.layers.values()
    )  # the probe draws no masks, training does: behind them only means can be compared
    each = state.distance(moments.mean, state.variance if masked else moments.variance)[varies]
    remembered = ema_batches(a) * (drift.batch_size if drift is not None else 1.0) / k
    effective = moments.effective_samples[varies].clamp(min=1)
    floors = hellinger2_floor(effective.numpy(), (effective * remembered).numpy(), 1.0 if masked else 3.0)
    floor = float(floors.clip(max=1).mean())
    value = debiased(float(each.mean()), floor)
    detail: dict[str, Scalar] = {
        "typical": round(debiased(float(each.median()), floor), 6),
        "momentum": a,
        "tracked": int(state.tracked),
        "compared": "means" if masked else "means and variances",
        "channels": len(each),
    }
    if drift is not None:
        detail |= _effect(drift) | {"batch_size": round(drift.batch_size, 2)}
    units = tuple(each.tolist())
    yield Reading(_NAME, "running_distance", info.name, now.step, value, floor, k, units, detail)


def _read_frozen(now: Snapshot, info: LayerInfo, state: NormState) -> Iterator[Reading]:
    """Of a layer in evaluation mode while training: the moments it holds against those of what it is given."""
    moments = now.get(info.name, "input", "probe", "moments/batch")
    if not isinstance(moments, Moments) or int(moments.k) < MIN_SAMPLES:
        return
    if moments.mean.shape == state.mean.shape:
        each = state.distance(moments.mean, moments.variance)
        facts: dict[str, Scalar] = {"typical": round(float(each.median()), 6), "frozen": True}
        facts |= {"tracked": int(state.tracked), "channels": len(each), "momentum": float(state.momentum)}
        count, units = int(moments.k), tuple(each.tolist())
        yield Reading(
            _NAME, "running_distance", info.name, now.step, float(each.mean()), None, count, units, facts
        )


def _age(visit: Visit, state: NormState) -> int:
    """Batches that running statistics have seen: a checkpoint may be the first that is looked at, and late."""
    if visit.now.source == "live":
        return visit.now.step - visit.first.step
    return int(state.tracked) if int(state.tracked) >= 0 else LONGEST_WAIT


def _read_scales(now: Snapshot, info: LayerInfo) -> Iterator[Reading]:
    """Layer, RMS and group normalization: unlike features, and the scale that is divided by."""
    for observer in ("probe", "stream"):
        features = now.get(info.name, "input", observer, "feature_scales")
        scales = now.get(info.name, "input", observer, "sample_scales")
        if isinstance(features, FeatureScales) and int(features.samples) >= MIN_SAMPLES:
            gain = _gain(now, info, features)
            if math.isfinite(gain.value):
                yield gain
        if isinstance(scales, SampleScales) and int(scales.n) >= MIN_SAMPLES:
            count = int(scales.n)
            detail: dict[str, Scalar] = {"spread": round(scales.spread, 6), "zero": int(scales.zero)}
            yield Reading(_NAME, "log_scale", info.name, now.step, float(scales.mean), n=count, detail=detail)
            yield Reading(_NAME, "eps_share", info.name, now.step, scales.eps_fraction, n=count)
        if isinstance(scales, SampleScales):
            return


def _gain(now: Snapshot, info: LayerInfo, features: FeatureScales) -> Reading:
    gains, reaches = features.gains, features.reaches
    group = min(range(len(gains)), key=lambda g: gains[g].gamma)
    gain, reach = gains[group], reaches[group]
    size = features.mean.shape[1]
    order = features.variance[group].argsort(descending=True)[:3].tolist()
    places = [group * size + feature for feature in order]
    detail: dict[str, Scalar] = {
        "scales": round(gain.scales, 5),
        "offsets": round(gain.offsets, 5),
        "reach": round(reach.scales * math.sqrt(1 - gain.offsets), 5),
        "top_share": round(gain.share, 5),
        "top_features": ", ".join(map(str, places)),
        "constant": gain.constant,
        "features": size,
        "reads_input": _reads_input(now, info),
    }
    if len(gains) > 1:
        detail["group"] = group
    units = tuple(each.gamma for each in gains) if len(gains) > 1 else None
    return Reading(
        _NAME, "signal_gain", info.name, now.step, gain.gamma, None, int(features.samples), units, detail
    )


def _reads_input(now: Snapshot, info: LayerInfo) -> bool:
    return any(now.get(info.name, "input", obs, "moments") is not None for obs in ("probe", "stream"))


def _read_constant(now: Snapshot, info: LayerInfo) -> Iterator[Reading]:
    """Outputs that do not depend on the sample."""
    moments = now.get(info.name, "output", "probe", "moments")
    if not isinstance(moments, Moments) or int(moments.k) < MIN_SAMPLES:
        return
    constant = moments.variance <= _CONSTANT * moments.mean.square().clamp(min=1e-20)
    where = constant.nonzero().flatten().tolist()
    detail: dict[str, Scalar] = {
        "channels": len(constant),
        "constant": len(where),
        "which": ", ".join(map(str, where[:8])),
        "reads_input": _reads_input(now, info),
    }
    share = len(where) / len(constant)
    yield Reading(_NAME, "constant_share", info.name, now.step, share, None, int(moments.k), None, detail)


def _read_batches(now: Snapshot) -> Iterator[Reading]:
    """Whether the newest batches are alike, by their labels and by their inputs."""
    means = [s for s in now.statistics.values() if isinstance(s, BatchMeans) and s.batches >= MIN_BATCHES]
    labels = now.get("", "input", "stream", "batch_labels")
    drifts = {info.name: drift for info in now.layers.values() if (drift := _drift(now, info)) is not None}
    detail: dict[str, Scalar] = {
        "layers": "|".join(drifts),
        "worst_z2": max((d.z2 for d in drifts.values() if math.isfinite(d.z2)), default=0.0),
    }
    count = 0
    found = means[0].homogeneity if means else None
    if found is not None:
        count = means[0].batches
        facts: dict[str, Scalar] = {"f": round(found.f, 4), "z": round(found.z, 3)}
        facts |= {"batches": count, "batch_size": round(found.size, 2)}
        yield Reading(_NAME, "input_icc", None, now.step, found.icc, n=count, detail=facts)
    if isinstance(labels, BatchLabels) and labels.batches >= MIN_BATCHES:
        test = labels.dispersion
        if test is not None and test.freedom >= MIN_FREEDOM:
            count = max(count, labels.batches)
            facts = {"classes_in_a_batch": round(test.classes, 2), "freedom": test.freedom}
            yield Reading(
                _NAME, "label_dispersion", None, now.step, test.ratio, n=labels.batches, detail=facts
            )
    if count:
        yield Reading(_NAME, "batches_compared", None, now.step, float(count), detail=detail)


def _read_gap(now: Snapshot, distances: list[Reading]) -> Iterator[Reading]:
    """How far outputs with batches' statistics are from those with running statistics."""
    for info in now.layers.values():
        there = now.get(info.name, "output", "probe", "moments")
        here = now.get(info.name, "output", "probe", "moments/batch")
        if not isinstance(there, Moments) or not isinstance(here, Moments) or int(here.k) < MIN_SAMPLES:
            continue
        pairs = (there.mean.numpy(), there.variance.numpy(), here.mean.numpy(), here.variance.numpy())
        gap = float(hellinger2(*pairs).mean())
        values = {
            other.name: drift.values_per_statistic
            for other in now.layers.values()
            if (drift := _drift(now, other)) is not None
        }
        fewest = min(values.values(), default=math.inf)
        worst = max(distances, key=lambda reading: reading.value, default=None)
        detail: dict[str, Scalar] = {
            "distance": worst.value if worst is not None else None,
            "resolution": worst.resolution if worst is not None else None,
            "stalest": worst.layer if worst is not None else None,
            "values_per_statistic": round(fewest, 2) if values else None,
            "fewest": "|".join(name for name, count in values.items() if count <= fewest),
        } | _mismatch(now, info)
        yield Reading(_NAME, "train_eval_gap", None, now.step, gap, n=int(here.k), detail=detail)
        return


def _mismatch(now: Snapshot, info: LayerInfo) -> dict[str, Scalar]:
    found = now.get(info.name, "output", "probe", "disagreement/batch")
    if not isinstance(found, Disagreement):
        return {}
    spread, variance = float(found.spread), float(found.variance)
    share = spread / (spread + variance) if spread + variance > 0 else 0.0
    return {"noise_share": round(share, 5), "mismatch": round(found.rate, 5)}


MEASURE = Measure(
    name=_NAME,
    summary="Running statistics against the data, likeness of batches, likeness of what is normalized together.",
    needs=frozenset(
        {
            Need.NORM_INPUTS,
            Need.NORM_STATE,
            Need.BATCH_STATISTICS,
            Need.BATCH_MEANS,
            Need.OUTPUT_MOMENTS,
            Need.NETWORK_INPUT,
            Need.PARAMETER_FLOW,
        }
    ),
    read=read,
    rules=(*batch_norm_rules.RULES, *feature_norm_rules.RULES),
    worst={"signal_gain": "low", "effective_rate": "low"},
)
