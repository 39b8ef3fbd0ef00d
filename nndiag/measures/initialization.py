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

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.functional import (
    UNKNOWN_LAW,
    critical_gain,
    fitting_laws,
    gradient_ratios,
    total_gain,
    variance_share,
)
from nndiag.layers import LayerInfo
from nndiag.measures import initialization_rules
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.initialization_rules import MIN_SIGNAL
from nndiag.measures.stored_parameters import NO_GRADIENTS
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import Moments, ParameterFlow, WeightLaw

_NAME = "initialization"

ZERO_AGE = 3
"""Updates before a gradient of exactly zero is judged: zero-initialized heads and branches pass it by then."""


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
            elif info.role == "embedding":
                yield from _read_embedding(now, info)
    flows = [(info, m) for info in layers if (m := _moments(now, info, "grad_output")) is not None]
    yield from _read_loss(now)
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


def _read_embedding(now: Snapshot, info: LayerInfo) -> Iterator[Reading]:
    """Of a table of vectors: the mean square of its entries, which is what the layers behind it are given."""
    law = now.get(info.name, "weight", "weights", "law")
    if isinstance(law, WeightLaw):
        detail: dict[str, Scalar] = {"std": round(float(law.std), 6), "width": info.units}
        square, count = float(law.std) ** 2, int(law.entries)
        yield Reading(_NAME, "embedding_square", info.name, now.step, square, None, count, None, detail)


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


def _read_loss(now: Snapshot) -> Iterator[Reading]:
    """The loss over that of guessing: of a network that begins well about 1, or its own noise is on top."""
    loss, guessing = now.facts.get("loss"), now.facts.get("loss_of_guessing")
    if isinstance(loss, float) and isinstance(guessing, float) and guessing > 0:
        yield Reading(_NAME, "loss_over_guessing", None, now.step, loss / guessing)


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
    detail["gain_of_layers"] = total_gain(_whole_squares(flows))
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


def _whole_squares(flows: list[tuple[LayerInfo, Moments]]) -> list[float]:
    """Of whole layers: He's initialization by fan_in keeps these, whatever the widths."""
    return [_gradient_square(moments) * moments.n.numel() for _, moments in flows]


def _blamed(flows: list[tuple[LayerInfo, Moments]], *, steep: bool) -> str:
    """The layers that do at least half of their even share of the change, the worst first.

    Judged by the gradient of a whole layer, not of a unit: to spread few outputs over many units, as each
    head does, is no fault of its weights.
    """
    ratios = gradient_ratios(_whole_squares(flows))
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


MEASURE = Measure(
    name=_NAME,
    summary="What is left of signal and gradient through depth; which law the weights were drawn from.",
    needs=frozenset({Need.WEIGHT_LAWS, Need.GRADIENT_MOMENTS, Need.OUTPUT_MOMENTS}),
    read=read,
    rules=initialization_rules.RULES,
    worst={
        "gradient_gain": "far from one",
        "gradient_ratio": "far from one",
        "weight_gain": "far from one",
        "mean_square_gradient": "low",
        "signal_share": "low",
        "variance_share": "low",
    },
)
