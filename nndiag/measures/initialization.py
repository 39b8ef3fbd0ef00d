"""Initialization: which law the weights came from, and what is left of signal and gradient at step 0.

The mean square gradient at the outputs of layers, over depth: chi_l = E[delta_l^2] / E[delta_{l+1}^2], and
their product, the total gain G. And what part of a layer's output tells samples apart: Var(z) / E[z^2].

Sources: Glorot, Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks";
He et al. 2015, "Delving deep into rectifiers"; Poole et al. 2016, "Exponential expressivity in deep neural
networks through transient chaos"; Schoenholz et al. 2017, "Deep information propagation".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from nndiag.findings import CoverageEntry, Reading, Scalar, Severity
from nndiag.functional import (
    UNKNOWN_LAW,
    critical_gain,
    fitting_laws,
    gradient_ratios,
    total_gain,
    variance_share,
)
from nndiag.layers import LayerInfo
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.stored_parameters import NO_GRADIENTS
from nndiag.rules import Advice, Case, Rule, Verdict, View
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import Moments, ParameterFlow, WeightLaw

_NAME = "initialization"

MIN_SIGNAL = 0.05
"""Variance share of the last hidden layer below which samples can hardly be told apart."""

ZERO_AGE = 3
"""Updates before a gradient of exactly zero is judged: zero-initialized heads and branches pass it by then."""

PATIENCE = 40
"""Updates before an unhealthy gain is a warning, if the loss has not moved."""


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every layer with weights, and of the network as a whole."""
    now = visit.now
    layers = [info for info in now.layers.values() if info.role == "weight"]
    if visit.is_first and (now.source == "live" or _is_start(now)):
        for info in layers:
            yield from _read_law(now, info)
        for info in now.layers.values():
            if info.role == "recurrent":
                yield from _read_recurrent_law(now, info)
    flows = [(info, m) for info in layers if (m := _moments(now, info, "grad_output")) is not None]
    yield from _read_gradients(visit, flows)
    yield from _read_signal(now, layers)
    flowing = {info.name for info, _ in flows}
    for info in now.layers.values():
        if info.role != "weight":
            yield CoverageEntry(info.name, _NAME, "not applicable", "no weight matrix of its own")
        elif info.name not in flowing:
            is_live = now.source == "live"
            default = "no gradient passed in observed steps" if is_live else NO_GRADIENTS
            reason = now.gaps.get(Gap(info.name, "grad_output", "stream"), default)
            yield CoverageEntry(info.name, _NAME, "not observed", reason)


def _moments(now: Snapshot, info: LayerInfo, tap: str) -> Moments | None:
    if tap == "grad_output":
        found = now.get(info.name, "grad_output", "stream", "moments")
    else:
        found = now.get(info.name, "output", "probe", "moments") or now.get(
            info.name, "output", "stream", "moments"
        )
    return found if isinstance(found, Moments) else None


def _is_start(now: Snapshot) -> bool:
    """Whether a checkpoint is known to be of the network before its first update."""
    says = now.facts.get("step_from") in ("the checkpoint", "the name")
    return says and now.step == 0 and not now.facts.get("optimizer_step")


def _read_law(now: Snapshot, info: LayerInfo) -> Iterator[Reading]:
    law = now.get(info.name, "weight", "weights", "law")
    if not info.fan_in or not info.fan_out:
        return
    if not isinstance(law, WeightLaw):
        yield from _read_scale(now, info, info.fan_in)
        return
    std = float(law.std)
    detail: dict[str, Scalar] = {
        "laws": _laws(law, info.fan_in, info.fan_out),
        "critical_gain": critical_gain(info.activation),
        "std": round(std, 6),
        "applies": not info.before_norm and not info.is_output,
        "is_zero": std == 0.0,
        "fan_in": info.fan_in,
        "activation": info.activation,
        "as_drawn": law.is_within(1 / math.sqrt(info.fan_in)),
    }
    error = 2 / math.sqrt(2 * int(law.entries))
    gain = info.fan_in * std * std
    yield Reading(
        _NAME, "weight_gain", info.name, now.step, gain, gain * error, int(law.entries), None, detail
    )


def _laws(law: WeightLaw, fan_in: int, fan_out: int) -> str:
    """The known laws that a weight may come from."""
    if law.is_constant or law.is_orthogonal:
        return "constant" if law.is_constant else "orthogonal"
    distances = {name: float(getattr(law, name)) for name in ("uniform", "normal", "truncated")}
    found = fitting_laws(float(law.std), int(law.entries), distances, int(law.sampled), fan_in, fan_out)
    return "; ".join(found) or UNKNOWN_LAW


def _read_recurrent_law(now: Snapshot, info: LayerInfo) -> Iterator[Reading]:
    """Of a recurrent matrix: H Var(W), and its law; all gates together."""
    law = now.get(info.name, "weight", "weights", "law")
    if isinstance(law, WeightLaw) and info.units:
        gain, count = info.units * float(law.std) ** 2, int(law.entries)
        detail: dict[str, Scalar] = {
            "laws": _laws(law, info.units, info.units),
            "std": round(float(law.std), 6),
        }
        detail["as_drawn"] = law.is_within(1 / math.sqrt(info.units))
        error = gain * 2 / math.sqrt(2 * count)
        yield Reading(_NAME, "recurrent_gain", info.name, now.step, gain, error, count, None, detail)


def _read_scale(now: Snapshot, info: LayerInfo, fan_in: int) -> Iterator[Reading]:
    """What the norm of a weight says alone: the gain, and not the law."""
    flow = now.get(info.name, "grad", "weights", f"flow/{info.weight or 'weight'}")
    if not isinstance(flow, ParameterFlow) or now.source != "checkpoint" or not int(flow.entries):
        return
    square = float(flow.weight) ** 2 / int(flow.entries)
    detail: dict[str, Scalar] = {
        "laws": None,
        "critical_gain": critical_gain(info.activation),
        "std": round(math.sqrt(square), 6),
        "applies": not info.before_norm and not info.is_output,
        "is_zero": square == 0.0,
        "fan_in": fan_in,
        "activation": info.activation,
    }
    yield Reading(
        _NAME, "weight_gain", info.name, now.step, fan_in * square, n=int(flow.entries), detail=detail
    )


def _read_gradients(visit: Visit, flows: list[tuple[LayerInfo, Moments]]) -> Iterator[Reading]:
    now, age = visit.now, visit.now.step - visit.first.step
    squares = [_gradient_square(moments) for _, moments in flows]
    for (info, moments), square in zip(flows, squares, strict=True):
        yield Reading(_NAME, "mean_square_gradient", info.name, now.step, square, n=int(moments.k))
    if len(flows) < 2:
        return
    ratios = gradient_ratios(squares)
    for (info, _), ratio in zip(flows, ratios, strict=False):
        yield Reading(_NAME, "gradient_ratio", info.name, now.step, ratio)
    if min(squares) == 0 and age < ZERO_AGE:
        return
    gain = total_gain(squares)
    detail: dict[str, Scalar] = {"first": flows[0][0].name, "last": flows[-1][0].name, "layers": len(flows)}
    detail |= {"shrinking": _blamed(flows, steep=False), "growing": _blamed(flows, steep=True)}
    yield Reading(_NAME, "gradient_gain", None, now.step, gain, detail=detail)


def _gradient_square(moments: Moments) -> float:
    """E[(sum over positions of delta)^2], over samples and units: what a sample tells a unit's bias.

    Entry by entry, an average over S positions would divide the mean square by S^2, though the weights behind
    it, which add up what all positions tell, learn as fast as before.
    """
    samples = max(1, int(moments.k))
    positions = moments.n.double() / samples
    squares = positions.square() * (moments.cluster_m2 / samples + moments.cluster_mean.square())
    return float(squares.mean())


def _blamed(flows: list[tuple[LayerInfo, Moments]], *, steep: bool) -> str:
    """The layers that do at least half of their even share of the change, the worst first.

    Judged by the gradient of a whole layer, not of a unit: to spread few outputs over many units, as each
    head does, is no fault of its weights.
    """
    ratios = gradient_ratios([_gradient_square(moments) * moments.n.numel() for _, moments in flows])
    logs = [math.log(max(ratio, 1e-300)) if math.isfinite(ratio) else 700.0 for ratio in ratios]
    even = sum(logs) / len(logs)
    limit = even / 2 if (even > 0) == steep else even
    # Layer l's ratio is the work of the weights behind it: those of layer l + 1.
    blame = [(log, flows[place + 1][0].name) for place, log in enumerate(logs)]
    chosen = [b for b in blame if (b[0] >= limit if steep else b[0] <= limit)]
    return "|".join(name for _, name in sorted(chosen, reverse=steep))


def _read_signal(now: Snapshot, layers: list[LayerInfo]) -> Iterator[Reading]:
    shares: list[tuple[float, LayerInfo]] = []
    for info in layers:
        moments = _moments(now, info, "output")
        if moments is None or int(moments.n.sum()) == 0:
            continue
        share = variance_share(float(moments.mean.square().mean()), float(moments.variance.mean()))
        yield Reading(_NAME, "variance_share", info.name, now.step, share, n=int(moments.k))
        if not info.is_output and int(moments.k) > 1:
            shares.append((share, info))
    if shares:
        share, last = shares[-1]
        low = "|".join(info.name for value, info in shares if value < MIN_SIGNAL)
        detail: dict[str, Scalar] = {"layer": last.name, "low": low}
        yield Reading(_NAME, "signal_share", None, now.step, share, detail=detail)


def _is_learning(view: View) -> bool:
    """Whether the loss has left its first value by 5%; unknown counts as yes."""
    loss = view.run("loss")
    if loss is None or not math.isfinite(loss.first.value):
        return True
    start = loss.first.value
    return min(reading.value for reading in loss.recent) < start - 0.05 * abs(start)


def _is_late(view: View, first: Reading) -> bool:
    total = view.run("total_steps")
    patience = max(PATIENCE, total.last.value / 10 if total else 0)
    return view.step - first.step > patience


def _severity(view: View, first: Reading) -> Severity:
    is_stuck = _is_late(view, first) and not _is_learning(view) and not view.has_rivals
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
    if gain.value >= view.threshold and not is_flat:
        return None
    blamed = (
        gain.detail["shrinking"] if gain.value < view.threshold else signal.detail["low"] if signal else ""
    )
    places = tuple(str(blamed).split("|")) if blamed else (str(gain.detail["first"]),)
    return Verdict(_severity(view, first), gain.value, _evidence(view, gain), places)


def _judge_exploding(view: View) -> Verdict | None:
    """ND312: total gain above 1e3; or it was at the first visit, and the loss, far above chance, is so still."""
    gain, first = view.now("gradient_gain"), view.first("gradient_gain")
    if gain is None or first is None:
        return None
    is_lasting = first.value > view.threshold and view.is_far_above_chance()
    shown = first if is_lasting and gain.value <= view.threshold else gain
    if shown.value <= view.threshold:
        return None
    places = tuple(str(shown.detail["growing"]).split("|"))
    severity = Severity.WARNING if is_lasting else _severity(view, first)
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
    factor = f" by about {each**-0.5:.1f} each" if 0 < each < 1 else ""
    change = (
        f"Raise the initial weights of {case.where}{factor}: torch.nn.init.kaiming_normal_ for ReLU,"
        " xavier_normal_ with gain 5/3 for tanh; for sigmoid stacks use tanh or ReLU, residual connections or"
        " normalization. It worked when `nndiag/initialization/gradient_gain` at step 0 is between 0.001 and 1000."
    )
    return Advice(message, change)


def _advise_exploding(case: Case) -> Advice:
    e = case.leading.evidence
    gain = float(e["gradient_gain"] or 0)
    each = gain ** (1 / max(1, int(e["layers"] or 2) - 1)) if math.isfinite(gain) else math.inf
    message = f"The squared gradient grows {gain:.1e} times from the output to the first layer ({each:.2g} a layer)."
    factor = f" by about {each**0.5:.1f} each" if math.isfinite(each) else ""
    change = (
        f"Divide the initial weights of {case.where}{factor}, or use torch.nn.init.kaiming_normal_ (ReLU) or"
        " xavier_normal_ (tanh); clip gradients meanwhile."
        " It worked when `nndiag/initialization/gradient_gain` at step 0 is between 0.001 and 1000."
    )
    return Advice(message, change)


def _judge_law(view: View) -> Verdict | None:
    """ND313 (info): constant weights, or a gain more than ten times off critical where that means something."""
    reading = view.now("weight_gain")
    if reading is None or not reading.detail["applies"] or reading.detail["is_zero"]:
        return None
    ratio = reading.value / float(reading.detail["critical_gain"] or 1)
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


_RULES = (
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
        explains=("ND313", "ND601", "ND605"),
        lower_is_worse=True,
    ),
    Rule(
        id="ND312",
        name="signal-explodes",
        measure=_NAME,
        summary="the gradient grows beyond measure on its way to the first layer",
        reads="gradient_gain",
        judge=_judge_exploding,
        advise=_advise_exploding,
        threshold=1e3,
        persistence="at once",
        is_of_run=True,
        explains=("ND602", "ND313"),
    ),
    Rule(
        id="ND313",
        name="init-law",
        measure=_NAME,
        summary="which laws the initial weights fit, and how far their scale is from critical",
        reads="weight_gain",
        judge=_judge_law,
        advise=_advise_law,
        threshold=10.0,
        persistence="at once",
    ),
)

MEASURE = Measure(
    name=_NAME,
    summary="What is left of signal and gradient through depth; which law the weights were drawn from.",
    needs=frozenset({Need.WEIGHT_LAWS, Need.GRADIENT_MOMENTS, Need.OUTPUT_MOMENTS}),
    read=read,
    rules=_RULES,
    worst={
        "gradient_gain": "far from one",
        "gradient_ratio": "far from one",
        "weight_gain": "far from one",
        "mean_square_gradient": "low",
        "signal_share": "low",
        "variance_share": "low",
    },
)
