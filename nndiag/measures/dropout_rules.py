"""The rules of dropout capacity: ND501 to ND504."""

from __future__ import annotations

from nndiag.findings import Reading, Scalar, Severity
from nndiag.functional import GRID
from nndiag.rules import ABSTAIN, LEARNS, Abstention, Advice, Case, Rule, Verdict, View

_NAME = "dropout_capacity"

MAX_CLASSES = 64
"""Outputs up to which degrees of freedom are compared with classes."""

NEAR_OUTPUT = 1
"""Hidden layers that may lie between a judged dropout and the output layer: the rule was tried on these only.

Nor is it judged where a sample has several positions: a readout that sees them all has more to go by.
"""

MIN_KEPT = 2.0
"""Units that must be kept on average, wherever the dropout stands."""

FEW_KEPT, SETTLED = 6.0, 60
"""Units kept on average, in a network that has learned nothing by that step; 6.4 or more in healthy runs."""

IDLE = 0.005
"""Disagreement of masks below which dropout hardly does anything."""


def _judge_capacity(view: View) -> Verdict | Abstention | None:
    """ND501: hardly any unit kept, the output dropped, or too few degrees of freedom for the classes."""
    kept, dof = view.now("kept_units"), view.now("effective_dof")
    if kept is None:
        return None
    evidence: dict[str, Scalar] = {
        "p": kept.detail["p"],
        "units": kept.detail["units"],
        "kept": round(kept.value, 3),
    }
    if dof is not None:
        evidence |= {"effective_dof": round(dof.value, 3), "samples": dof.n}
        evidence |= {name: dof.detail[name] for name in dof.detail if name.startswith("at p=")}
    outputs = view.run("output_units")
    classes = int(outputs.last.value) if outputs else 0
    evidence["outputs"] = classes or None
    if kept.detail["acts_on_output"]:
        return Verdict(Severity.WARNING, kept.value, evidence | {"fault": "output"})
    if kept.value < MIN_KEPT:
        return Verdict(Severity.WARNING, kept.value, evidence | {"fault": "kept"})
    needed = max(1, classes - 1)
    if dof is None or not classes or not _can_judge(dof.detail, classes, dof.n or 0):
        return _judge_few(view, kept, evidence)
    upper = float(dof.detail["upper"] or 0)
    if upper >= needed or float(evidence.get("at p=0") or 0) < needed:  # then it is not the dropout
        return _judge_few(view, kept, evidence)
    if dof.detail.get("bn_warmup") and _safe_p(evidence, needed) == 0:
        return ABSTAIN  # statistics that are not those of the data yet make features look nearly constant
    evidence |= {"needed": needed, "fault": "freedom", "upper": round(upper, 3)}
    fell = view.loss_fell()  # of training, where masks are drawn: what learns under them has enough
    learns = fell is not None and fell >= LEARNS
    severity = Severity.WARNING if upper < view.threshold * needed and not learns else Severity.INFO
    return Verdict(severity, dof.value, evidence)


def _judge_few(view: View, kept: Reading, evidence: dict[str, Scalar]) -> Verdict | Abstention | None:
    """ND501 where degrees of freedom do not say it: few units kept, and nothing learned in time."""
    if kept.value >= FEW_KEPT or float(kept.detail["p"] or 0) <= 0.5 or view.has_learned():
        return None
    if view.step < SETTLED or view.loss_fell() is None:
        return ABSTAIN
    return Verdict(Severity.WARNING, kept.value, evidence | {"fault": "kept"})


def _can_judge(detail: dict[str, Scalar] | object, classes: int, rows: int) -> bool:
    d = detail if isinstance(detail, dict) else {}
    near = int(d["hidden_behind"] or 0) <= NEAR_OUTPUT and int(d["positions"] or 0) == 1
    return near and bool(d["separable"]) and classes <= MAX_CLASSES and rows >= 2 * (classes - 1)


def _safe_p(evidence: dict[str, Scalar] | object, needed: float) -> float:
    """The largest drop probability of the what-if curve that leaves enough."""
    e = evidence if isinstance(evidence, dict) else {}
    return max((p for p in GRID if float(e.get(f"at p={p:g}") or 0) >= needed), default=0.0)


def _advise_capacity(case: Case) -> Advice:
    e = dict(case.leading.evidence)
    check = " It worked when `nndiag/dropout_capacity/effective_dof` is above the number of outputs less one."
    if e["fault"] == "output":
        return Advice(
            f"{case.where} drops the network's output: nothing with weights comes after it.",
            f"Remove {case.where}, or move it in front of the last layer. It worked when the finding is gone.",
        )
    if e["fault"] == "kept":
        units, p = int(e["units"] or 1), float(e["p"] or 0)
        most = min(0.5, max(0.0, 1 - 8 / units))
        p_safe = min(most, _safe_p(e, int(e.get("outputs") or 1) - 1) or 0.1)
        return Advice(
            f"{case.where} keeps {e['kept']} of {units} units on average (p = {p:g} is the probability of being"
            f" dropped): hardly any signal passes.",
            f"Lower p to {p_safe:.2g} or less, or widen the layer."
            " It worked when `nndiag/dropout_capacity/kept_units` of this layer is above 8.",
        )
    needed = float(e["needed"] or 1)
    safe = _safe_p(e, needed)
    change = f"Lower p from {e['p']} to {safe:g}" if safe else "Remove the dropout"
    return Advice(
        f"Behind {case.where} (p = {e['p']}, {e['units']} units) {e['effective_dof']} effective degrees of freedom"
        f" are left for {e['outputs']} outputs; telling these apart takes {needed:g}.",
        f"{change} (a prediction at today's activations), or widen the layer.{check}",
    )


def _judge_idle(view: View) -> Verdict | None:
    """ND502 (info): masks change hardly any prediction."""
    reading, outputs = view.now("disagreement"), view.run("output_units")
    if reading is None or outputs is None or outputs.last.value < 2 or reading.value >= view.threshold:
        return None
    spare = [reading.value for _, reading in view.across_now("effective_dof")]
    if not spare or min(spare) <= 5 * (outputs.last.value - 1):
        return None
    evidence: dict[str, Scalar] = {
        "disagreement": reading.value,
        "masks": reading.detail["masks"],
        "rows": reading.n,
    }
    return Verdict(Severity.INFO, reading.value, evidence, is_harmless=True)


def _advise_idle(case: Case) -> Advice:
    e = case.leading.evidence
    return Advice(
        f"Dropout hardly does anything: two masks predict differently for {float(e['disagreement'] or 0):.2%} of"
        f" {e['rows']} rows.",
        "If the network overfits, raise p; if not, dropout can go. Neither needs to change the accuracy."
        " It worked when `nndiag/dropout_capacity/disagreement` is above 0.005.",
    )


def _judge_order(view: View) -> Verdict | None:
    """ND503: a batch normalization learned a variance under dropout that it does not meet without."""
    reading = view.now("variance_shift")
    if reading is None:
        return None
    ratio = reading.value
    evidence: dict[str, Scalar] = dict(reading.detail) | {
        "variance_ratio": round(ratio, 4),
        "samples": reading.n,
    }
    dropout, norm = str(reading.detail["dropout"]), str(view.layer)
    places = (
        (norm, dropout) if ":" in dropout else (dropout, norm)
    )  # a module is found more easily than a call
    severity = Severity.INFO if view.threshold <= ratio <= 1 / view.threshold else Severity.WARNING
    return Verdict(severity, ratio, evidence, places)


def _advise_order(case: Case) -> Advice:
    e = case.leading.evidence
    return Advice(
        f"{e['dropout']} (p = {float(e['p'] or 0):g}) reaches a batch normalization: without masks its input has"
        f" {float(e['variance_ratio'] or 0):.2f} of the variance that it learned to expect.",
        "Move the dropout behind the last batch normalization, or lower its p"
        " (p = 0.1 shifts the variance by about 6%, p = 0.5 by 25%, p = 0.7 by 40%)."
        " It worked when `nndiag/dropout_capacity/variance_shift` is between 0.5 and 2.",
    )


def _judge_mode(view: View) -> Verdict | None:
    """ND504: masks are drawn in evaluation, or training draws none although something before it learns."""
    active, idle = view.now("active_in_eval"), view.now("idle_in_training")
    if active is not None and active.value > view.threshold:
        evidence: dict[str, Scalar] = {"fault": "evaluation", "p": active.detail["p"]}
        return Verdict(Severity.WARNING, active.value, evidence)
    if idle is not None and idle.value > view.threshold and idle.detail["trainable_before"]:
        return Verdict(Severity.WARNING, idle.value, {"fault": "training", "p": idle.detail["p"]})
    return None


def _advise_mode(case: Case) -> Advice:
    e = case.leading.evidence
    if e["fault"] == "evaluation":
        return Advice(
            f"{case.where} (p = {e['p']}) draws masks in evaluation too: predictions are random.",
            "Pass `training=self.training` to torch.nn.functional.dropout (its default is True), or use"
            " torch.nn.Dropout. If masks at evaluation are meant (Monte Carlo dropout), ignore ND504."
            " It worked when `nndiag/dropout_capacity/active_in_eval` is 0.",
        )
    return Advice(
        f"{case.where} (p = {e['p']}) draws no masks in training: it is in evaluation mode, and does nothing.",
        "Call model.train() before training, and again after each evaluation; with functional dropout pass"
        " `training=self.training`. It worked when `nndiag/dropout_capacity/idle_in_training` is 0.",
    )


RULES = (
    Rule(
        id="ND501",
        name="dropout-capacity-low",
        measure=_NAME,
        summary="dropout leaves too little for the outputs, hardly any unit, or acts on the output",
        reads="kept_units",
        judge=_judge_capacity,
        advise=_advise_capacity,
        threshold=0.5,
        explains=("ND404", "ND601", "ND311", "ND603"),
        lower_is_worse=True,
    ),
    Rule(
        id="ND502",
        name="dropout-idle",
        measure=_NAME,
        summary="dropout changes nothing measurable",
        reads="disagreement",
        judge=_judge_idle,
        advise=_advise_idle,
        threshold=IDLE,
        lower_is_worse=True,
    ),
    Rule(
        id="ND503",
        name="dropout-before-batchnorm",
        measure=_NAME,
        summary="dropout shifts the variance that a batch normalization behind it learns",
        reads="variance_shift",
        judge=_judge_order,
        advise=_advise_order,
        threshold=0.5,
        lower_is_worse=True,
        explains=("ND101", "ND401", "ND402", "ND403", "ND404"),
    ),
    Rule(
        id="ND504",
        name="dropout-active-in-eval",
        measure=_NAME,
        summary="masks are drawn in evaluation, or none in training",
        reads="drop_probability",
        judge=_judge_mode,
        advise=_advise_mode,
        threshold=0.0,
        persistence="at once",
    ),
)
"""In the order of the catalogue."""
