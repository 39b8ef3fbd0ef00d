"""The rules of initialization: ND311 and ND312 of signal and gradient over depth, ND313 of the law of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nndiag.findings import Reading, Scalar, Severity
from nndiag.measures import loud_start, weight_scale
from nndiag.measures.weight_scale import OFF, over_critical
from nndiag.rules import Abstention, Advice, Case, Rule, Verdict, View

_NAME = "initialization"

MIN_SIGNAL = 0.05
"""Variance share of the last hidden layer below which samples can hardly be told apart."""

BLIND = 1e-4
"""Variance share behind the last hidden layer at which a network cannot tell samples apart at all."""

PATIENCE = 40
"""Updates before an unhealthy gain is a warning, if the loss has not moved."""


def _is_learning(view: View) -> bool:
    """Whether the loss is 5% below its first value, and below that of guessing; unknown counts as yes."""
    fell = view.loss_fell()
    return fell is None or fell >= 0.05 or view.is_improving()


def _is_late(view: View, first: Reading) -> bool:
    total = view.run("total_steps")
    patience = max(PATIENCE, total.last.value / 10 if total else 0)
    return view.step - first.step > patience


def _severity(view: View, first: Reading) -> Severity:
    signal = view.now("signal_share")
    # Whatever a blind network has learned, it is one answer for all samples.
    is_blind = signal is not None and signal.value < BLIND
    is_stuck = _is_late(view, first) and (is_blind or not _is_learning(view)) and not view.has_rivals
    return Severity.WARNING if is_stuck else Severity.INFO


def _evidence(view: View, gain: Reading) -> dict[str, Scalar]:
    evidence: dict[str, Scalar] = {"gradient_gain": gain.value, "layers": gain.detail["layers"]}
    signal, loss, classes = view.now("signal_share"), view.run("loss"), view.run("classes_seen")
    if signal is not None:
        evidence["signal_share"] = round(signal.value, 5)
    if loss is not None:
        evidence |= {"first_loss": round(loss.first.value, 4), "loss": round(loss.last.value, 4)}
    if classes is not None:
        evidence["loss_of_guessing"] = round(math.log(max(2.0, classes.last.value)), 4)
    return evidence


def _judge_vanishing(view: View) -> Verdict | None:
    """ND311: total gain below 1e-3, or samples that can hardly be told apart behind the last hidden layer."""
    gain, first, signal = view.now("gradient_gain"), view.first("gradient_gain"), view.now("signal_share")
    if gain is None or first is None:
        return None
    is_flat = signal is not None and signal.value < MIN_SIGNAL
    if (gain.value >= view.threshold or gain.value == 0) and not is_flat:
        return None  # none at all is cut off, not faded: that is for ND605
    blamed = (
        gain.detail["shrinking"] if gain.value < view.threshold else signal.detail["low"] if signal else ""
    )
    places = tuple(str(blamed).split("|")) if blamed else (str(gain.detail["first"]),)
    places = _heads_last(view, (*places, *_off_scale(view, large=False)))
    evidence, tables = _evidence(view, gain), _loud_tables(view)
    if tables and gain.value < view.threshold:
        places, evidence["embedding_std"] = tuple(tables), max(tables.values())
    elif is_flat and (closed := _closed_norms(view)):
        places, evidence["closed"] = tuple(closed), "|".join(closed)
    return Verdict(_severity(view, first), gain.value, evidence, places)


def _closed_norms(view: View) -> list[str]:
    """Normalizations over features that are given something and pass nothing on: their gains are zero."""
    given = dict(view.across_now("signal_gain", "norm_drift"))
    shut = (layer for layer, reading in view.across_now("constant_share", "norm_drift") if reading.value == 1)
    return [
        layer
        for layer in shut
        if layer in given
        and int(given[layer].detail["constant"] or 0) < int(given[layer].detail["features"] or 0)
    ]


def _loud_tables(view: View) -> dict[str, float]:
    """Tables of embeddings that drown whatever is added to them, and their standard deviations.

    The branches of a residual stream give numbers of about unit scale; a normalization of their sum divides the
    gradient of each by the scale of the largest.
    """
    return {
        layer: math.sqrt(series.first.value)
        for layer, series in view.across("embedding_square")
        if series.first.value > OFF
    }


def _heads_last(view: View, places: tuple[str, ...]) -> tuple[str, ...]:
    """Each layer once, the output layer behind the others: it is one of many, and made to another scale."""
    layers = view.history.layers
    unique = dict.fromkeys(places)
    return tuple(sorted(unique, key=lambda name: name in layers and layers[name].is_output))


def _off_scale(view: View, *, large: bool) -> list[str]:
    """Layers whose weights began ten times off the scale that keeps signals: the first one's has no gain to show."""
    first = weight_scale.first_of_all(view)
    ratios = ((layer, over_critical(reading)) for layer, reading in first if reading.detail["applies"])
    return [layer for layer, ratio in ratios if (ratio > OFF if large else 0 < ratio < 1 / OFF)]


def _judge_exploding(view: View) -> Verdict | Abstention | None:
    """ND312: total gain above 1e3; or it was at the first visit, and the loss, far above chance, is so still."""
    gain, first = view.now("gradient_gain"), view.first("gradient_gain")
    if gain is None or first is None:
        return loud_start.judge(view)
    is_stuck = _severity(view, first) is Severity.WARNING
    is_lasting = first.value > view.threshold and (view.is_far_above_chance() or is_stuck)
    is_lasting |= is_stuck and float(first.detail.get("gain_of_layers") or 0) > view.threshold
    shown = first if is_lasting and gain.value <= view.threshold else gain
    if shown.value <= view.threshold and not is_lasting:
        return loud_start.judge(view)
    places = tuple(str(shown.detail["growing"]).split("|"))
    severity = Severity.WARNING if is_lasting else _severity(view, first)
    places = _heads_last(view, (*places, *_off_scale(view, large=True)))
    return Verdict(severity, shown.value, _evidence(view, shown), places)


def _advise_vanishing(case: Case) -> Advice:
    e = case.leading.evidence
    gain, signal = float(e["gradient_gain"] or 0), e.get("signal_share")
    each = gain ** (1 / max(1, int(e["layers"] or 2) - 1)) if gain > 0 else 0.0
    message = (
        f"Of the squared gradient at the output, {gain:.1e} reaches the first layer ({each:.2g} a layer)."
    )
    if isinstance(signal, (int, float)) and signal < MIN_SIGNAL:
        message += f" Behind the last hidden layer only {signal:.1%} of the signal tells samples apart."
    if "embedding_std" in e:
        std = float(e["embedding_std"] or 0)
        return Advice(
            f"{message} The vectors of {case.where} have a standard deviation of {std:.3g}:"
            " what is added to them is drowned, and the normalization behind divides its gradient by that.",
            f"Draw {case.where} with a standard deviation of 1 or less (0.02 is usual in transformers)."
            " It worked when `nndiag/initialization/gradient_gain` at step 0 is between 0.001 and 1000.",
        )
    if "closed" in e:
        return Advice(
            f"{message} All outputs of {case.where} are constant, though the inputs are not: the gains are zero.",
            "Let gains begin at 1 (torch.nn.init.ones_), here and in every normalization that no way leads around;"
            " an init function that zeroes all vectors means biases."
            " It worked when `nndiag/initialization/signal_share` is above 0.05 at step 0.",
        )
    factor = f" by about {each**-0.5:.1f} each" if 0 < each < 1 else ""
    change = (
        f"Raise the initial weights of {case.where}{factor}: torch.nn.init.kaiming_normal_ for ReLU,"
        " xavier_normal_ with gain 5/3 for tanh, biases of zero; in stacks of sigmoids use ReLU, ELU or tanh,"
        " residual connections or normalization."
        " It worked when `nndiag/initialization/gradient_gain` at step 0 is between 0.001 and 1000."
    )
    return Advice(message, change)


def _further(e: Mapping[str, Scalar]) -> str:
    first, guessing = e.get("first_loss"), e.get("loss_of_guessing")
    if not isinstance(first, float) or not isinstance(guessing, float) or first <= loud_start.LOUD * guessing:
        return ""
    return f", and further until the first loss ({first:.3g}) is near that of guessing ({guessing:.2g})"


def _advise_exploding(case: Case) -> Advice:
    e = case.leading.evidence
    if "loss_over_guessing" in e:
        return loud_start.advise(case)
    gain = float(e["gradient_gain"] or 0)
    each = gain ** (1 / max(1, int(e["layers"] or 2) - 1)) if math.isfinite(gain) else math.inf
    message = f"The squared gradient grows {gain:.1e} times from the output to the first layer ({each:.2g} a layer)."
    factor = f" by about {each**0.5:.1f} each" if math.isfinite(each) else ""
    change = (
        f"Divide the initial weights of {case.where}{factor}{_further(e)}, or use"
        " torch.nn.init.kaiming_normal_ (ReLU) or xavier_normal_ (tanh); clip gradients meanwhile."
        " It worked when `nndiag/initialization/gradient_gain` at step 0 is between 0.001 and 1000."
    )
    return Advice(message, change)


def _judge_law(view: View) -> Verdict | None:
    """ND313 (info): constant weights, or a gain more than ten times off critical where that means something."""
    reading = view.now("weight_gain")
    if reading is None or not reading.detail["applies"] or reading.detail["is_zero"]:
        return None
    ratio = over_critical(reading)
    constant = reading.detail["laws"] == "constant"
    if not constant and 1 / view.threshold <= ratio <= view.threshold:
        return None
    if view.info is not None and not view.info.trainable:
        return None
    return Verdict(Severity.INFO, ratio, dict(reading.detail) | {"gain_over_critical": round(ratio, 5)})


def _advise_law(case: Case) -> Advice:
    e = case.leading.evidence
    law = f"follow {e['laws']}" if e["laws"] is not None else "were read by their norm alone"
    return Advice(
        f"{case.where}: initial weights {law} (std {e['std']}); fan_in Var(W) is"
        f" {e['gain_over_critical']} of its critical value for {e['activation'] or 'a linear layer'}.",
        f"For wide plain stacks the std that keeps signals is {_critical_std(e):.3g}. With residual connections or"
        " normalization other scales can be right. It worked when `nndiag/initialization/gradient_gain` at step 0"
        " is nearer to 1.",
    )


def _critical_std(evidence: dict[str, Scalar] | object) -> float:
    e = evidence if isinstance(evidence, dict) else {}
    return math.sqrt(float(e["critical_gain"] or 1) / max(1, int(e["fan_in"] or 1)))


RULES = (
    Rule(
        id="ND311",
        name="signal-vanishes",
        measure=_NAME,
        summary="hardly any gradient reaches the first layer, or samples all look alike to the last",
        reads="gradient_gain",
        judge=_judge_vanishing,
        advise=_advise_vanishing,
        threshold=1e-3,
        persistence="at once",
        is_of_run=True,
        explains=("ND313", "ND601", "ND605", "ND101", "ND102"),
        lower_is_worse=True,
    ),
    Rule(
        id="ND312",
        name="signal-explodes",
        measure=_NAME,
        summary="the gradient grows beyond measure on its way to the first layer",
        reads="gradient_gain",
        also_reads=("loss_over_guessing",),
        judge=_judge_exploding,
        advise=_advise_exploding,
        threshold=1e3,
        persistence="at once",
        is_of_run=True,
        explains=("ND602", "ND313", "ND101", "ND102", "ND201", "ND202", "ND203", "ND408", "ND603"),
    ),
    Rule(
        id="ND313",
        name="init-law",
        measure=_NAME,
        summary="which laws the initial weights fit, and how far their scale is from critical",
        reads="weight_gain",
        judge=_judge_law,
        advise=_advise_law,
        threshold=OFF,
        persistence="at once",
    ),
)
"""In the order of the catalogue."""
