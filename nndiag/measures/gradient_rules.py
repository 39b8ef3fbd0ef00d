"""The rules of gradients and updates, ND601 to ND604, and of parameters that do not learn."""

from __future__ import annotations

import math
import statistics

from nndiag.findings import Reading, Scalar, Severity
from nndiag.measures import learning_rate, parameter_rules, runaway, weight_scale
from nndiag.rules import ABSTAIN, LEARNS, Abstention, Advice, Case, Rule, Verdict, View

_NAME = "gradient_flow"

GRACE = 20
"""Steps before gradients over depth are judged: zero-initialized heads and branches have healed by then."""

SETTLED = 60
"""Steps before the size of updates is judged: small initial weights grow in large relative steps."""

SPIKE = 100.0
"""A gradient norm this many times its own median is an explosion."""

VAIN = 0.2
"""Share of the limit of steps that is too much for a network whose loss is no better than at the start."""

MOST = 100.0
"""Times that a learning rate is advised to be lowered by at once: a step that large has made weights of its own."""

WHOLE = 0.5
"""|dW| / |W| of one step above which little of the initial weights is left."""

FADED = 1e-2
"""Share of its first norm below which a gradient has faded."""

TINY_GAIN = 0.05
"""fan_in Var(W) below this share of its critical value: small on purpose, as last layers of actors are."""

TINY_STEP = 1e-5
"""|dW| / |W| below which a step is too small to matter within a run."""


def _is_bad(view: View) -> bool:
    return view.loss_fell() is not None and not view.has_learned()


def _judge_vanishing(view: View) -> Verdict | Abstention | None:
    """ND601: saliency in the first quarter of depth is below a thousandth of that in the last.

    Of a recurrent layer, the gradient at the first quarter of the time steps against that at the last.
    """
    ratio = view.now("saliency_ratio")
    if ratio is not None and view.layer is not None and ratio.step < SETTLED:
        return ABSTAIN
    if ratio is None or not ratio.value < view.threshold:
        return None
    if view.layer is not None:  # short memory is no fault where the task asks for no more
        severity = Severity.WARNING if _is_bad(view) and not view.is_improving() else Severity.INFO
        evidence = {"saliency_ratio": ratio.value, "time_steps": ratio.detail["time_steps"]}
        return Verdict(severity, ratio.value, _losses(view) | evidence)
    severity = Severity.WARNING if _is_bad(view) else Severity.INFO
    places = tuple(str(ratio.detail["first_layers"]).split("|"))
    return Verdict(severity, ratio.value, _losses(view) | _saliencies(ratio), places)


def _judge_exploding(view: View) -> Verdict | Abstention | None:
    """ND602: saliency grows a thousandfold towards the input, or the gradient's norm jumps far above its median.

    Judged while the loss is still bad.
    """
    norm = view.series("global_gradient_norm")
    if norm is None or norm.last.step != view.step:
        return None
    if view.step < GRACE:
        return ABSTAIN
    ratio = view.now("saliency_ratio")
    usual = statistics.median(reading.value for reading in norm.recent)
    jump = norm.last.value / usual if usual > 0 and math.isfinite(norm.last.value) else 0.0
    evidence = _losses(view) | {"gradient_norm": norm.last.value, "median_gradient_norm": usual}
    if view.has_learned():
        return None  # what has learned passes hardly any gradient: ratios of nothing mean nothing
    back = _steepest(view)
    if back is not None and back.value > view.threshold:
        evidence |= {"saliency_ratio": back.value, "time_steps": back.detail["time_steps"]}
        return Verdict(_severity(view), back.value, evidence, (str(back.layer),))
    if ratio is not None and ratio.value > view.threshold:
        places = tuple(str(ratio.detail["first_layers"]).split("|"))
        return Verdict(_severity(view), ratio.value, evidence | _saliencies(ratio), places)
    if jump > SPIKE:
        return Verdict(_severity(view), jump, evidence | {"jump": round(jump, 1)})
    return None


def _steepest(view: View) -> Reading | None:
    """The recurrent layer in which gradients grow the most on their way back in time."""
    read = (reading for layer, reading in view.across_now("saliency_ratio") if layer)
    return max(read, key=lambda reading: reading.value, default=None)


def _severity(view: View) -> Severity:
    fell = view.loss_fell()
    return Severity.CRITICAL if fell is not None and not fell > -1 else Severity.WARNING


def _saliencies(ratio: Reading) -> dict[str, Scalar]:
    names = ("first_saliency", "last_saliency", "last_layers")
    return {"saliency_ratio": ratio.value} | {name: ratio.detail[name] for name in names}


def _losses(view: View) -> dict[str, Scalar]:
    loss = view.run("loss")
    return (
        {} if loss is None else {"first_loss": round(loss.first.value, 4), "loss": round(loss.last.value, 4)}
    )


def _judge_update(view: View) -> Verdict | Abstention | None:
    """ND603: a step changes a weight matrix by more than a tenth; or hardly at all while the loss is bad.

    A step larger than the weights themselves throws the initialization away, and counts for as long as the network
    has not learned in spite of it. Where gradients have faded, small steps are not the learning rate's doing.
    """
    if view.source == "checkpoint":
        return runaway.judge(view)
    reading, first, fell = view.now("update_ratio"), view.first("update_ratio"), view.loss_fell()
    if reading is None or first is None:
        return None
    if view.step < GRACE:
        return ABSTAIN
    facts: dict[str, Scalar] = {"lr": learning_rate.now(view), "update_ratio": reading.value}
    facts |= _losses(view)
    before = learning_rate.before_jump(view)
    if before is not None:
        rose = learning_rate.now(view) / before
        return Verdict(Severity.CRITICAL, rose, facts | {"lr_before": before}, is_conclusive=True)
    began = learning_rate.before_it_ran_out(view)
    if began is not None:
        return Verdict(Severity.WARNING, reading.value, facts | {"lr_at_first": began}, is_harmless=True)
    ratio, largest, lr = reading.value, float(reading.detail["largest_so_far"] or 0.0), view.run("lr")
    if (
        first.step == 0
        and largest > WHOLE
        and fell is not None
        and not fell >= LEARNS
        and not _was_tiny(view)
    ):
        ratio = largest
    elif view.step < SETTLED:
        return ABSTAIN
    evidence: dict[str, Scalar] = {"update_ratio": ratio, "parameter": reading.detail["of"]}
    evidence |= {"lr": lr.last.value if lr else None} | _losses(view)
    is_vain = ratio > VAIN * view.threshold and fell is not None and not fell > 0 and not view.has_rivals
    if ratio > view.threshold or is_vain:
        return Verdict(Severity.WARNING, ratio, evidence)
    is_warm = lr is None or lr.last.value >= 0.5 * max(r.value for r in (lr.first, *lr.recent))
    if 0 < ratio < TINY_STEP and is_warm and _is_bad(view) and not _has_faded(view):
        return Verdict(Severity.INFO, ratio, evidence, is_harmless=True)
    return None


def _was_tiny(view: View) -> bool:
    """Whether the initial weights were far below their usual scale: to leave them is to learn."""
    began = weight_scale.first_of(view)
    return began is not None and began < TINY_GAIN


def _has_faded(view: View) -> bool:
    """Whether a layer's gradient is a small part of what it was at the first visit."""
    norm = view.series("gradient_norm")
    return norm is not None and norm.last.value < FADED * norm.first.value


def _judge_finite(view: View) -> Verdict | Abstention | None:
    """ND604: the loss or a gradient was NaN or infinite; what was seen when that began stands."""
    series = view.series("non_finite")
    if series is None or series.last.step != view.step or series.last.value <= view.threshold:
        return None
    reading = series.last
    for earlier in reversed(list(series.recent)[:-1]):
        if earlier.value <= view.threshold:
            break
        reading = earlier
    else:
        if len(series.recent) > 1:
            return ABSTAIN  # older than what is kept
    evidence: dict[str, Scalar] = dict(reading.detail)
    loss = view.run("loss")
    if loss is not None:
        finite = [r.value for r in (loss.first, *loss.recent) if math.isfinite(r.value)]
        evidence["last_finite_loss"] = round(finite[-1], 4) if finite else None
    layers = str(reading.detail.get("layers") or reading.detail["layer"] or "")
    return Verdict(Severity.CRITICAL, reading.value, evidence, tuple(filter(None, layers.split("|"))))


def _advise_vanishing(case: Case) -> Advice:
    e = case.leading.evidence
    if "time_steps" in e:
        return Advice(
            f"What {case.where} says at the end of {e['time_steps']} time steps hardly depends on how they began:"
            f" the gradient at the first quarter is {float(e['saliency_ratio'] or 0):.1e} of that at the last, and"
            f" the loss went from {e.get('first_loss')} to {e.get('loss')}.",
            "Lengthen its memory: an LSTM or GRU instead of a plain recurrence, a forget bias of 1 or more, recurrent"
            " weights that begin orthogonal, shorter sequences, or a readout (mean, attention) that sees all steps."
            " It worked when `nndiag/gradient_flow/saliency_ratio` of this layer is above 0.001 and the loss falls.",
        )
    return Advice(
        f"Gradients fade on their way to the input: in {case.where} the median unit saliency is"
        f" {float(e['saliency_ratio'] or 0):.1e} of that in the last layers, and the loss went from"
        f" {e.get('first_loss')} to {e.get('loss')}.",
        "Let the gradient through: ReLU-like activations instead of sigmoid or tanh in deep stacks, residual"
        " connections, normalization between layers, or initial weights that keep the gradient's scale"
        " (torch.nn.init.kaiming_normal_, xavier_normal_)."
        " It worked when `nndiag/gradient_flow/saliency_ratio` is above 0.001 and the loss falls.",
    )


def _advise_exploding(case: Case) -> Advice:
    e = case.leading.evidence
    what = (
        f"the gradient's norm is {float(e['jump'] or 0):.0f} times its median"
        if "jump" in e
        else f"{_growth(case)} {float(e['saliency_ratio'] or 0):.1e} times as large"
    )
    usual = float(e["median_gradient_norm"] or 0)
    change = (
        f"Let the recurrent matrix of {case.where} begin orthogonal (torch.nn.init.orthogonal_), clip gradients"
        " (torch.nn.utils.clip_grad_norm_ at 1), and shorten the sequences that are backpropagated through."
        if "time_steps" in e
        else f"Clip gradients (torch.nn.utils.clip_grad_norm_ at about {max(usual, 1e-3):.2g}) and lower the learning"
        " rate."
    )
    return Advice(
        f"Gradients explode: {what} (norm {float(e['gradient_norm'] or 0):.3g}, median {usual:.3g}).",
        f"{change} It worked when `nndiag/gradient_flow/global_gradient_norm` stays within ten times its median.",
    )


def _growth(case: Case) -> str:
    steps = case.leading.evidence.get("time_steps")
    if steps is not None:
        return f"over the {steps} time steps of {case.where}, the gradient at the first quarter, against the last, is"
    return f"saliency in {case.where}, against the last layers, is"


def _advise_update(case: Case) -> Advice:
    if "growth" in case.leading.evidence:
        return runaway.advise(case)
    e, ratio = case.leading.evidence, float(case.leading.evidence["update_ratio"] or 0)
    if "lr_before" in e:
        return Advice(
            f"The learning rate went from {e['lr_before']:g} to {e['lr']:g}, and the loss is not finite since.",
            f"Correct the schedule: keep the rate near {e['lr_before']:g} (a factor below 1, where one above 1 was"
            " given?), and go on from a checkpoint before the jump."
            " It worked when `nndiag/gradient_flow/update_ratio` is below 0.1; about 0.001 is usual.",
        )
    if "lr_at_first" in e:
        return Advice(
            f"The learning rate fell from {e['lr_at_first']:g} to {e['lr']:g}: nothing is learned since.",
            "Look at the schedule: a decay that is meant for each epoch may be applied at each step. Call"
            " scheduler.step() once an epoch, or take the root of its factor."
            " It worked when `nndiag/gradient_flow/update_ratio` is near 0.001 until shortly before the end.",
        )
    if ratio < TINY_STEP:
        return Advice(
            f"A step changes {case.where} by {ratio:.1e} of its norm, and the loss is still {e.get('loss')}"
            f" (first {e.get('first_loss')}).",
            "Raise the learning rate: about 1e-3 of a weight's norm a step is usual."
            " It worked when `nndiag/gradient_flow/update_ratio` is above 1e-5 and the loss falls.",
        )
    factor = min(ratio / 1e-2, MOST)
    what = (
        f"A step changed {case.where} by {ratio:.1f} times its norm: little of its initial weights is left."
        if ratio > WHOLE
        else f"Every step changes {case.where} by {ratio:.0%} of its norm: it cannot settle."
    )
    return Advice(
        what,
        f"Lower the learning rate (now {e.get('lr')}) by about {factor:.0f} times, or add warm-up;"
        " clip gradients (torch.nn.utils.clip_grad_norm_) where single batches do it."
        f" It worked when `nndiag/gradient_flow/update_ratio` is below {0.1 if ratio > 0.1 else 0.01:g}; about 0.001"
        " is usual.",
    )


def _advise_finite(case: Case) -> Advice:
    e = case.leading.evidence
    if "held_by" in e:
        return Advice(
            f"{e['numbers']} numbers of the checkpoint of step {e['first_step']} are NaN or infinite:"
            f" {e['held_by']}.",
            "Go on from the newest checkpoint without any, with a lower learning rate or clipped gradients, and watch"
            " the run with nndiag.Monitor: it names the step and the layer where they begin."
            " It worked when `nndiag/gradient_flow/non_finite` of new checkpoints is 0.",
        )
    where = f"; the first layer with non-finite numbers was {case.layers[0]}" if case.layers else ""
    return Advice(
        f"NaN or infinity at step {e['first_step']}{where}. The last finite loss seen was"
        f" {e.get('last_finite_loss')}. From there on nothing is learned.",
        "Look for log(0), division by zero and exp of large numbers in the loss (use torch.nn.functional"
        ".cross_entropy or log_softmax instead of log(softmax), add an eps), then lower the learning rate or clip"
        " gradients; torch.autograd.set_detect_anomaly(True) names the operation."
        " It worked when `nndiag/gradient_flow/non_finite` stays 0.",
    )


RULES = (
    Rule(
        id="ND601",
        name="vanishing-gradient",
        measure=_NAME,
        summary="gradients fade over depth while the loss is still bad",
        reads="saliency_ratio",
        judge=_judge_vanishing,
        advise=_advise_vanishing,
        threshold=1e-3,
        lower_is_worse=True,
    ),
    Rule(
        id="ND602",
        name="exploding-gradient",
        measure=_NAME,
        summary="gradients grow beyond measure over depth, or from one visit to the next",
        reads="global_gradient_norm",
        judge=_judge_exploding,
        advise=_advise_exploding,
        threshold=1e3,
        is_of_run=True,
        explains=("ND603", "ND604"),
    ),
    Rule(
        id="ND603",
        name="update-ratio",
        measure=_NAME,
        summary="a step changes a weight matrix by far too much, or hardly at all",
        reads="update_ratio",
        also_reads=("growth",),
        judge=_judge_update,
        advise=_advise_update,
        threshold=0.1,
        acts_by_updates=True,
        is_of_run=True,
        explains=(
            *("ND101", "ND102", "ND201", "ND202", "ND203", "ND311", "ND312"),
            *("ND401", "ND402", "ND403", "ND406", "ND501", "ND601", "ND602", "ND604", "ND605"),
        ),
    ),
    Rule(
        id="ND604",
        name="non-finite",
        measure=_NAME,
        summary="the loss or a gradient was NaN or infinite",
        reads="non_finite",
        judge=_judge_finite,
        advise=_advise_finite,
        threshold=0.0,
        acts_by_updates=True,
        persistence="at once",
        is_of_run=True,
        explains=(
            *(
                "ND101",
                "ND102",
                "ND201",
                "ND202",
                "ND203",
                "ND304",
                "ND311",
                "ND312",
                "ND401",
                "ND402",
                "ND403",
            ),
            *("ND404", "ND406", "ND408", "ND410", "ND601", "ND602", "ND603", "ND605", "ND606"),
        ),
    ),
    *parameter_rules.RULES,
)
"""In the order of the catalogue."""
