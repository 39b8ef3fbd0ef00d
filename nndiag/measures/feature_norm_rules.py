"""Rules on normalization over features, and on what normalization does to signals and to learning rates."""

from __future__ import annotations

import math

from nndiag.findings import Reading, Scalar, Severity
from nndiag.rules import ABSTAIN, Abstention, Advice, Case, Rule, Verdict, View

_NAME = "norm_drift"

DROWNED = 0.2
"""Signal gain of a critical finding; the threshold is that of a warning."""

FALLEN = 0.7
"""A hidden layer's gain is judged only below this share of its first value."""

_UNLIKE = 0.7
_TOP_SHARE = 0.3
_TOP_SHARE_OF_INPUT = 0.44
_MASSIVE = 0.2
_SMALL_GROUP = 8
_PATIENCE = 20
_FAR_LOG_SCALE = math.log(10)
_FAR_SPREADS = 5.0


def _judge_constant(view: View) -> Verdict | Abstention | None:
    """ND406: info; warning where more than half of a hidden layer's outputs are constant.

    A gain that starts at zero makes them so at first: judged once it had time to leave.
    """
    reading, first = view.now("constant_share"), view.first("constant_share")
    if reading is None or first is None or reading.value == 0:
        return None
    if view.source == "live" and view.step - first.step < _PATIENCE:
        return ABSTAIN
    inside = not reading.detail["reads_input"]
    severity = Severity.WARNING if reading.value > view.threshold and inside else Severity.INFO
    return Verdict(severity, reading.value, dict(reading.detail) | {"samples": reading.n})


def _advise_constant(case: Case) -> Advice:
    e = case.leading.evidence
    seen = f"the same for all of {e['samples']} samples" if e["samples"] else f"constant: {e['stored']}"
    return Advice(
        f"{e['constant']} of {e['channels']} outputs of {case.where} are {seen} (channels {e['which']}).",
        "They carry nothing: their input is constant (units that are off in front of the normalization), or"
        " their gain"
        " is zero. Look for dead units or zero weights in the layer in front; gains that started at zero should have"
        " left it. It worked when `nndiag/norm_drift/constant_share` falls.",
    )


def _judge_gain(view: View) -> Verdict | Abstention | None:
    """ND408: unlike features drown each other.

    An input layer speaks for itself. A hidden layer is judged after the first steps, and only if from the start one
    feature dominated or scales were unlike, or if its gain fell; features that became massive in training are a
    note, as they are in healthy large models.
    """
    reading, first = view.now("signal_gain"), view.first("signal_gain")
    if reading is None or first is None or reading.detail["constant"] == reading.detail["features"]:
        return None  # features that are all constant are alike: ND406 says so
    severity = _grade_input(view, reading) if reading.detail["reads_input"] else _grade(view, reading, first)
    if not isinstance(severity, Severity):
        return severity
    evidence: dict[str, Scalar] = dict(reading.detail) | {"signal_gain": round(reading.value, 4)}
    evidence |= {"samples": reading.n, "gain_at_first_visit": round(first.value, 4)}
    return Verdict(severity, reading.value, evidence)


def _grade_input(view: View, reading: Reading) -> Severity | None:
    """An input layer: low gain, not for features that are rarely on only; or one feature that holds most.

    Centering hands a large feature on to the others, so that the gain of few features cannot fall far.
    """
    top = float(reading.detail["top_share"] or 0)
    drowned = reading.value < view.threshold and float(reading.detail["reach"] or 0) < view.threshold
    if not drowned and top <= _dominant(reading, _TOP_SHARE_OF_INPUT):
        return None
    return Severity.CRITICAL if drowned and reading.value < DROWNED else Severity.WARNING


def _grade(view: View, reading: Reading, first: Reading) -> Severity | Abstention | None:
    """A hidden layer."""
    low = reading.value < view.threshold and float(reading.detail["reach"] or 0) < view.threshold
    if not low:
        return None
    if view.step - first.step < _PATIENCE:
        return ABSTAIN
    top, dominant = float(reading.detail["top_share"] or 0), _dominant(reading, _TOP_SHARE)
    from_start = min(top, float(first.detail["top_share"] or 0)) > dominant
    unlike = max(float(each.detail["scales"] or 0) for each in (first, reading)) < view.threshold
    fell = reading.value < FALLEN * first.value
    if not (from_start or unlike or fell or top > dominant):
        return None
    is_spread = top <= _MASSIVE and int(reading.detail["features"] or 1) >= _SMALL_GROUP
    return Severity.WARNING if from_start or unlike or (fell and is_spread) else Severity.INFO


def _dominant(reading: Reading, share: float) -> float:
    """The share of the variance above which one feature dominates; among few features each has more."""
    return min(0.9, max(share, 3 / int(reading.detail["features"] or 1)))


def _advise_gain(case: Case) -> Advice:
    e = case.leading.evidence
    scales, offsets = float(e["scales"] or 0), math.sqrt(1 - float(e["offsets"] or 0))
    cause = (
        f"their scales differ (features {e['top_features']} are the largest; the first holds"
        f" {float(e['top_share'] or 0):.0%} of the variance)"
        if scales <= offsets
        else f"constant offsets hold {float(e['offsets'] or 0):.0%} of what is normalized (features"
        f" {e['top_features']} have the largest scales)"
    )
    cure = (
        "Standardize each feature in front of it with statistics of the training set, or normalize them one by one"
        " (BatchNorm)"
        if scales < _UNLIKE
        else "Center each feature in front of it with its mean over the training set"
    )
    return Advice(
        f"{case.where} normalizes {e['features']} unlike features together: what tells samples apart leaves it at a"
        f" typical size of {e['signal_gain']} instead of 1, because {cause}.",
        f"{cure}; the gains of the layer cannot make up for it at their learning rate."
        " It worked when `nndiag/norm_drift/signal_gain` is above 0.6.",
    )


def _judge_rate(view: View) -> Verdict | None:
    """ND409: what is left of the effective learning rate; only without weight decay, which would restore it.

    Weights that a high learning rate made grow at first, and that learn well since, are a note.
    """
    reading, decay = view.now("effective_rate"), view.run("weight_decay")
    if reading is None or decay is None or decay.last.value > 0:
        return None
    if not 0 < reading.value < math.sqrt(view.threshold):
        return None
    slow = reading.value < view.threshold and _is_loss_bad(view)
    severity = Severity.WARNING if slow else Severity.INFO
    evidence = dict(reading.detail) | {"effective_rate": round(reading.value, 5)}
    return Verdict(severity, reading.value, evidence)


def _is_loss_bad(view: View) -> bool:
    """Whether more than half of the first loss is left; unknown counts as no."""
    loss = view.run("loss")
    return loss is not None and min(r.value for r in loss.recent) > 0.5 * abs(loss.first.value)


def _advise_rate(case: Case) -> Advice:
    e = case.leading.evidence
    return Advice(
        f"The weights of {case.where} grew {e['growth']} times; only their direction counts ({e['why']}), so"
        " a step turns"
        f" them {float(e['effective_rate'] or 0):.3g} times as far as at the start (SGD; with Adam its square root).",
        "A small weight decay (1e-4) balances the growth. If learning has slowed down too early, raise the"
        " learning rate"
        f" by {1 / float(e['effective_rate'] or 1):.0f} or project the weights back to their first norm."
        " It worked when `nndiag/norm_drift/effective_rate` stays above 0.3.",
    )


def _judge_scale(view: View) -> Verdict | None:
    """ND410: eps dominates the scale that is divided by (warning), or the scale moved tenfold (info)."""
    share, scale, first = view.now("eps_share"), view.now("log_scale"), view.first("log_scale")
    if share is None or scale is None or first is None:
        return None
    drift = scale.value - first.value
    evidence: dict[str, Scalar] = {"eps_share": round(share.value, 5), "sigma": _sigma(scale)}
    evidence |= {"sigma_at_first_visit": _sigma(first), "shift_in_sd": _shift(scale, first)}
    if share.value > view.threshold and view.step - first.step >= _PATIENCE:
        return Verdict(Severity.WARNING, share.value, evidence)
    if abs(drift) > _FAR_LOG_SCALE and abs(float(evidence["shift_in_sd"] or 0)) > _FAR_SPREADS:
        return Verdict(Severity.INFO, share.value, evidence)
    return None


def _sigma(reading: Reading) -> float:
    return float(f"{math.exp(max(-700.0, min(700.0, reading.value))):.5g}")


def _shift(now: Reading, first: Reading) -> float:
    """The change of mean ln sigma, in standard deviations of ln sigma over samples."""
    spread = math.hypot(float(now.detail["spread"] or 0), float(first.detail["spread"] or 0)) / math.sqrt(2)
    return round((now.value - first.value) / max(spread, 1e-6), 3)


def _advise_scale(case: Case) -> Advice:
    e = case.leading.evidence
    share = float(e["eps_share"] or 0)
    message = (
        f"The scale that {case.where} divides by went from {e['sigma_at_first_visit']} at the first visit to"
        f" {e['sigma']} ({e['shift_in_sd']} standard deviations)."
    )
    if share > 0.05:
        message += f" eps makes up {share:.0%} of its square: the output is smaller than normalized."
    return Advice(
        message,
        "If the scale is too small, enlarge the weights (or embeddings) in front, or lower eps below a hundredth of"
        f" {float(e['sigma'] or 0) ** 2:.2g}; if it grows, scale the residual branches down (by 1 / sqrt(2 depth))."
        " It worked when `nndiag/norm_drift/eps_share` is below 0.01.",
    )


RULES = (
    Rule(
        id="ND406",
        name="norm-channel-collapsed",
        measure=_NAME,
        summary="outputs of a normalization that are the same for every sample",
        reads="constant_share",
        judge=_judge_constant,
        advise=_advise_constant,
        threshold=0.5,
    ),
    Rule(
        id="ND408",
        name="ln-heterogeneous-features",
        measure=_NAME,
        summary="features of unlike scale or offset are normalized together, and the small ones drown",
        reads="signal_gain",
        judge=_judge_gain,
        advise=_advise_gain,
        threshold=0.45,
        explains=("ND311",),
        lower_is_worse=True,
    ),
    Rule(
        id="ND409",
        name="effective-lr-decay",
        measure=_NAME,
        summary="weights whose direction alone counts grew, and so the effective learning rate fell",
        reads="effective_rate",
        judge=_judge_rate,
        advise=_advise_rate,
        threshold=0.1,
        lower_is_worse=True,
    ),
    Rule(
        id="ND410",
        name="ln-statistics-drift",
        measure=_NAME,
        summary="the scale that features are divided by moved far, or is mostly eps",
        reads="eps_share",
        judge=_judge_scale,
        advise=_advise_scale,
        threshold=0.1,
    ),
)
