"""Saturation and dead units: activations that live in their tails.

An entry x is saturated when it lies in a tail of the activation f: outside the smallest interval beyond
which |f'(x)| < 0.05 sup|f'| everywhere. Tails have edges, so that the inner minimum of GELU or SiLU, where
the derivative crosses zero, is not one. A unit is dead when it is in the lower tail for every position of
every sample seen; after k samples its rate of being on is below 3/k with 95% confidence.

Sources: Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks";
Rakitianskaia, Engelbrecht 2015, "Measuring saturation in neural networks"; Zhai et al. 2023, "Stabilizing
Transformer training by preventing attention entropy collapse".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from nndiag.findings import CoverageEntry, Reading, Scalar, Severity
from nndiag.layers import LayerInfo
from nndiag.measures import attention_rule, squashed_output, weight_scale
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.stored_parameters import NO_ACTIVATIONS
from nndiag.rules import LEARNS, Advice, Case, Rule, Verdict, View
from nndiag.snapshot import Gap, Snapshot, Tap
from nndiag.statistics import AttentionEntropy, Moments, Slope, Tails

_NAME = "saturation"

UNIT_SAMPLES = 512
"""Samples before single units are called dead: below, up to 0.8% of healthy units look dead by chance."""

KEEPER = "update gate"
"""Of a GRU: at its upper end the state is kept, and nothing is ever written; its lower end forgets."""

GATES = ("input gate", "output gate", "reset gate", "candidate")
"""What a recurrent layer decides anew at each step; forget and update gates say how long it keeps a state."""

ONE_SIDED = 0.9
"""Share of saturated entries in one tail that makes an offset of them, not a scale."""

SETTLED = 60
"""Steps before an output at its bounds is held against a network that does not learn."""

SHUT = 0.9
"""Share of a gate's entries in its tails, from the first visit on, that leaves it nothing to decide."""

LAYER_SAMPLES = 128
"""Samples before a layer that is off as a whole is called dead."""


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every activation and attention layer, and of an output that the loss squashes once more."""
    yield from squashed_output.read(visit.now)
    for info in visit.now.layers.values():
        if info.role == "activation" and info.edges not in (None, (None, None)):
            yield from _read_activation(visit.now, info)
        elif info.role == "recurrent":
            yield from _read_gates(visit.now, info)
        elif info.role in ("attention", "softmax"):
            yield from _read_attention(visit.now, info)
        else:
            why = "this activation has no tails" if info.role == "activation" else "not an activation"
            yield CoverageEntry(info.name, _NAME, "not applicable", why)


def _read_activation(now: Snapshot, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    probe, stream = (now.get(info.name, "input", observer, "tails") for observer in ("probe", "stream"))
    seen = probe if isinstance(probe, Tails) else stream
    if not isinstance(seen, Tails) or not seen.k:
        yield CoverageEntry(info.name, _NAME, "not observed", _why(now, info, "input"))
        return
    low, high = seen.fraction_low, seen.fraction_high
    detail = _circumstances(now, info)
    for name, value in (("lower_tail", low), ("upper_tail", high)):
        yield Reading(_NAME, name, info.name, now.step, value, 1 / seen.entries, seen.k)
    if info.bounded:
        detail |= {"is_output": info.is_output, "of": info.source}
        yield Reading(
            _NAME, "saturated", info.name, now.step, low + high, 1 / seen.entries, seen.k, None, detail
        )
    yield from _read_slope(now, info)
    if not info.bounded:
        detail["is_output"] = info.is_output
        yield from _read_dead(now, info, [t for t in (probe, stream) if isinstance(t, Tails)], detail)


def _read_gates(now: Snapshot, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    """The gate of a recurrent layer that is in its tails the most; to keep or to forget everything is no fault."""
    found = {
        name: tails
        for name, tails in now.parts(info.name, "input", "probe", "tails").items()
        if isinstance(tails, Tails) and name in (*GATES, KEEPER)
    }
    if not found:
        reason = now.gaps.get(Gap(info.name, "input", "probe"), "no gates of a known kind")
        yield CoverageEntry(info.name, _NAME, "not observed", reason)
        return
    shares = {
        name: tails.fraction_high + (0.0 if name == KEEPER else tails.fraction_low)
        for name, tails in found.items()
    }
    name = max(shares, key=lambda each: shares[each])
    worst = found[name]
    for tail, value in (("lower_tail", worst.fraction_low), ("upper_tail", worst.fraction_high)):
        yield Reading(_NAME, tail, info.name, now.step, value, 1 / worst.entries, worst.k)
    detail: dict[str, Scalar] = {"activation": name, "seen_at": info.name, "trainable": info.trainable}
    yield Reading(
        *(_NAME, "saturated", info.name, now.step, shares[name], 1 / worst.entries, worst.k, None, detail)
    )


def _read_slope(now: Snapshot, info: LayerInfo) -> Iterator[Reading]:
    slope = now.get(info.name, "input", "probe", "slope")
    if isinstance(slope, Slope) and slope.n:
        yield Reading(_NAME, "transmission", info.name, now.step, slope.transmission, n=slope.n)
        if info.bounded:
            yield Reading(_NAME, "phi", info.name, now.step, slope.phi, n=slope.n)


def _read_dead(
    now: Snapshot, info: LayerInfo, windows: list[Tails], detail: dict[str, Scalar]
) -> Iterator[Reading | CoverageEntry]:
    """Dead units over the probe's samples and the stream's window, once both hold enough samples."""
    # Where the probe knows the samples better than the stream does, the two may not agree what a unit is.
    windows = [window for window in windows if window.n.shape == windows[0].n.shape]
    seen = windows[0] if len(windows) == 1 else windows[0].merge(windows[1])
    # The probe's samples are training samples: until the window has moved on, it holds them too.
    samples = max(window.k for window in windows)
    dead = seen.always_low
    share = float(dead.double().mean())
    if samples < (LAYER_SAMPLES if share == 1.0 else UNIT_SAMPLES):
        reason = f"{samples} of {UNIT_SAMPLES} samples seen so far"
        yield CoverageEntry(info.name, _NAME, "not observed", reason)
        return
    units = dead.numel()
    bound = 1 - 0.05 ** (1 / samples)
    detail = detail | {"units": units, "dead": int(dead.sum()), "on_rate_below": round(bound, 6)}
    yield Reading(_NAME, "dead_share", info.name, now.step, share, 1 / units, samples, seen.on_rates, detail)


def _circumstances(now: Snapshot, info: LayerInfo) -> dict[str, Scalar]:
    """Facts that the words of a finding need: what kind of function reads what, and at which scale."""
    detail: dict[str, Scalar] = {"activation": info.activation or info.kind, "seen_at": info.name}
    source = now.layers.get(info.source or "")
    if source is not None:
        detail["trainable"] = source.trainable
        moments = now.get(source.name, "output", "probe", "moments")
        if isinstance(moments, Moments):
            mean_square = moments.variance + moments.mean.square()
            detail["preactivation_rms"] = round(math.sqrt(float(mean_square.mean())), 4)
    return detail


def _read_attention(now: Snapshot, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    entropy = now.get(info.name, "input", "probe", "attention_entropy")
    if not isinstance(entropy, AttentionEntropy) or not entropy.rows:
        yield CoverageEntry(info.name, _NAME, "not observed", _why(now, info, "input"))
        return
    heads = tuple(entropy.mean.flatten().tolist())
    yield Reading(
        *(_NAME, "attention_entropy", info.name, now.step, min(heads)),
        n=entropy.rows,
        units=heads,
        detail={"head": heads.index(min(heads))},
    )
    yield Reading(
        _NAME, "attention_saturated_rows", info.name, now.step, entropy.saturated_share, n=entropy.rows
    )


def _why(now: Snapshot, info: LayerInfo, tap: Tap) -> str:
    reasons = (now.gaps.get(Gap(info.name, tap, observer)) for observer in ("probe", "stream"))
    default = NO_ACTIVATIONS if now.source == "checkpoint" else "not called in the observed steps"
    return next((reason for reason in reasons if reason), default)


def _judge_saturated(view: View) -> Verdict | None:
    """ND201: more than 70% (critical: 90%) of the entries of a bounded activation are in its tails.

    Or the loss squashes the network's output a second time.
    """
    if (twice := squashed_output.judge(view)) is not None:
        return twice
    reading, first = view.now("saturated"), view.first("saturated")
    if reading is None or reading.value <= view.threshold or reading.detail.get("trainable") is False:
        return None
    if view.info is not None and view.info.role == "recurrent" and not _is_shut(view, reading):
        return None
    is_vain = view.step >= SETTLED and view.loss_fell() is not None and not view.has_learned()
    if reading.detail.get("is_output") and not (is_vain or _began_large(view, reading)):
        return None  # outputs may be sure of themselves
    evidence: dict[str, Scalar] = dict(reading.detail)
    evidence |= {"saturated": round(reading.value, 4), "samples": reading.n}
    evidence |= {
        name: round(view.value(name), 4)
        for name in ("lower_tail", "upper_tail", "transmission")
        if view.now(name) is not None
    }
    if first is not None:
        evidence |= {"saturated_at_first_visit": round(first.value, 4), "first_visit": first.step}
        if "preactivation_rms" in first.detail:
            evidence["preactivation_rms_at_first_visit"] = first.detail["preactivation_rms"]
    severity = Severity.CRITICAL if reading.value > max(0.9, view.threshold) else Severity.WARNING
    fell = view.loss_fell()
    is_new = first is not None and first.value < view.threshold / 2
    if severity is Severity.WARNING and is_new and fell is not None and fell >= LEARNS:
        severity = Severity.INFO  # learning took it there, and works
    return Verdict(severity, reading.value, evidence, (view.info.place,) if view.info else ())


def _is_shut(view: View, reading: Reading) -> bool:
    """Whether a gate was in its tails from the first visit on, and the network has not learned; gates learn to be."""
    first = view.first("saturated")
    return first is not None and min(first.value, reading.value) > SHUT and not view.has_learned()


def _began_large(view: View, reading: Reading) -> bool:
    """Whether the weights in front were far above the scale that fits them, before anything was learned."""
    began = weight_scale.first_of(view.of(str(reading.detail.get("of"))))
    return began is not None and began > weight_scale.OFF


def _advise_saturated(case: Case) -> Advice:
    e = case.leading.evidence
    if "squashed_twice" in e:
        return squashed_output.advise(case)
    share, kind = float(e["saturated"] or 0), e["activation"]
    early = float(e.get("saturated_at_first_visit") or 0) > 0.7
    message = (
        f"{share:.0%} of the inputs of {kind} behind {case.worst} lie in its tails, where the gradient is below"
        f" 5% of its maximum ({float(e.get('lower_tail') or 0):.0%} low, {float(e.get('upper_tail') or 0):.0%} high)."
    )
    rms = e.get("preactivation_rms")
    scale = f" by {float(rms):.1f}" if isinstance(rms, (int, float)) and rms > 1 else ""
    if e["activation"] in (*GATES, KEEPER):
        change = (
            f"{case.where} begins with gates that are open or shut for good: set its biases to 0 (that of the forget"
            " gate to 1), and check the scale of its weights and inputs."
        )
    elif early and max(float(e.get(tail) or 0) for tail in ("lower_tail", "upper_tail")) > ONE_SIDED * share:
        message += " It was so from the first visit on, and nearly all lie on one side."
        change = f"Set the bias of {case.where} to zero, and center what it reads."
    elif early:
        message += " It was so from the first visit on: the weights start too large for this activation."
        change = (
            f"Shrink the initial weights of {case.where}: divide them{scale}, or use"
            " torch.nn.init.xavier_normal_; check that its inputs are standardized."
        )
    elif e.get("is_output"):
        message += f" It is an output, and nothing was learned: {kind} keeps it at its bounds."
        change = (
            f"Take {kind} behind {case.where} out where the loss has one of its own"
            " (binary_cross_entropy_with_logits), and scale the targets into its bounds where they go beyond."
        )
    else:
        message += (
            f" At step {e.get('first_visit', 0)} it was {float(e.get('saturated_at_first_visit') or 0):.0%}."
        )
        change = (
            f"Training drove {case.where} into saturation: lower the learning rate or add warm-up;"
            " a LayerNorm or BatchNorm in front of the activation bounds its inputs."
        )
    check = " It worked when `nndiag/saturation/saturated` of this layer stays below 0.5."
    return Advice(message + case.others, change + check)


STARVED = 0.05
"""Root mean square of what an activation reads below which its signs are those of leftovers."""

GROWN = 10.0
"""Times that what a layer reads has grown, from which its units were killed by steps too large."""

ENOUGH_ALIVE = 0.8
"""Share of dead units up to which a network that learns has enough others."""


def _judge_dead(view: View) -> Verdict | None:
    """ND202: judged by the units alive, not by the share that is dead."""
    reading = view.now("dead_share")
    if reading is None or reading.value <= 0.25 or reading.detail.get("trainable") is False:
        return None
    if reading.detail.get("is_output") and reading.value < 1.0 and not _cuts_logits(view, reading):
        return None  # an output that is off for most samples may be right
    units, dead = int(reading.detail["units"] or 0), int(reading.detail["dead"] or 0)
    alive = units - dead
    outputs = view.run("output_units")
    needed = max(0.05 * units, min(outputs.last.value - 1, 0.1 * units) if outputs else 0.0)
    fell = view.loss_fell()
    limit = ENOUGH_ALIVE if fell is not None and fell >= LEARNS else view.threshold
    starved = _is_starved(reading)
    if reading.detail.get("is_output") and reading.value < 1.0:
        severity = Severity.WARNING
    elif not starved and (reading.value == 1.0 or (alive < needed and reading.value > view.threshold)):
        severity = Severity.CRITICAL
    else:
        severity = Severity.WARNING if reading.value > max(limit, view.threshold) else Severity.INFO
    evidence: dict[str, Scalar] = dict(reading.detail)
    evidence |= {"alive": alive, "samples": reading.n, "dead_share": round(reading.value, 4)}
    evidence |= _growth(view, reading)
    places = (view.info.place,) if view.info else ()
    return Verdict(severity, reading.value, evidence, places, is_harmless=starved)


def _growth(view: View, reading: Reading) -> dict[str, Scalar]:
    """How much larger what an activation reads has become since its units were on; empty where it has not."""
    first = view.first("dead_share")
    before, now = (r.detail.get("preactivation_rms") if r else None for r in (first, reading))
    if first is None or first.value > 0.25 or not (isinstance(before, float) and isinstance(now, float)):
        return {}
    return {"grew": round(now / before, 1), "alive_at": first.step} if now > GROWN * before > 0 else {}


def _cuts_logits(view: View, reading: Reading) -> bool:
    """Whether the outputs are classes, one each, of which some are never on."""
    classes = view.run("classes_seen")
    return classes is not None and classes.last.value == int(reading.detail["units"] or 0) > 2


def _is_starved(reading: Reading) -> bool:
    """Whether what arrives is next to nothing, so that its sign means little: the fault is further up."""
    scale = reading.detail.get("preactivation_rms")
    return isinstance(scale, float) and scale < STARVED


def _advise_dead(case: Case) -> Advice:
    e = case.leading.evidence
    message = (
        f"{e['dead']} of {e['units']} units of {case.worst} were off ({e['activation']}) for all of {e['samples']}"
        f" samples: each is on for fewer than {float(e['on_rate_below'] or 0):.2%} of samples and gets no gradient."
    )
    whole = e["dead"] == e["units"]
    if "grew" in e:
        message += f" At step {e['alive_at']} they were on; what they read has grown {e['grew']} times since."
    change = (
        f"An output needs no {e['activation']}: take it out behind {case.where}. What is below zero cannot be said"
        " with it, and an output that is off learns nothing."
        if e.get("is_output")
        else f"Lower the learning rate by about {min(100.0, float(e['grew'] or 0)):.0f} times, or let it rise more"
        f" slowly and less far: steps too large have switched off {case.where}."
        if "grew" in e
        else f"No gradient passes {case.where}. Check its bias and the scale of its inputs first: a large negative"
        " bias or a past gradient step too large switches every unit off. Re-initialize it with zero biases, and"
        " lower the learning rate or add warm-up."
        if whole
        else f"Lower the learning rate (or add warm-up) and re-initialize {case.where} with zero biases; LeakyReLU"
        " or GELU let a gradient through to units that are off. If accuracy is fine, the layer may simply be"
        f" wider than needed: {e['alive']} of {e['units']} units carry it."
    )
    check = " It worked when `nndiag/saturation/dead_share` of this layer falls."
    return Advice(message + case.others, change + check)


def _rules() -> Iterable[Rule]:
    yield Rule(
        id="ND201",
        name="saturated-activation",
        measure=_NAME,
        summary="most inputs of a bounded activation lie in its tails, where hardly any gradient passes",
        reads="saturated",
        also_reads=("squashed_twice",),
        judge=_judge_saturated,
        advise=_advise_saturated,
        threshold=0.7,
        explains=("ND311", "ND601"),
    )
    yield Rule(
        id="ND202",
        name="dead-units",
        measure=_NAME,
        summary="units that are off for every sample, and so get no gradient",
        reads="dead_share",
        judge=_judge_dead,
        advise=_advise_dead,
        threshold=0.75,
        lead="earliest",
        explains=("ND302", "ND311", "ND406", "ND501", "ND601", "ND605"),
    )
    yield attention_rule.RULE


MEASURE = Measure(
    name=_NAME,
    summary="Share of activations in the flat tails of their function; units that are never on.",
    needs=frozenset({Need.INPUT_TAILS, Need.OUTPUT_MOMENTS, Need.ATTENTION_ENTROPY}),
    read=read,
    rules=tuple(_rules()),
    worst={"attention_entropy": "low", "transmission": "low"},
)
