"""How batch normalization is set, and what became of its buffers: ND407."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from nndiag.findings import Scalar, Severity
from nndiag.measures import stored_norms
from nndiag.rules import Advice, Case, Rule, Verdict, View

_NAME = "norm_drift"

STALE = 0.02
"""PreciseBN distance of a warning."""

MISTAKEN = 0.3
"""Share of predictions that training and evaluation mode may disagree about."""

FOREIGN = 0.4
"""Squared Hellinger distance of frozen statistics to the data: a shift by two standard deviations."""

NEWEST = 0.9
"""Momentum from which running statistics are those of the newest batch: others call it 0.1."""

SETTLED = 60
"""Steps from which what a gap shows is no longer that of a network that has just begun."""


def is_mistaken(view: View) -> bool:
    """Whether predictions in evaluation mode are others than with the statistics of a batch."""
    gap = view.of(None).series("train_eval_gap")
    mismatch = gap.last.detail.get("mismatch") if gap else None
    return (
        gap is not None and gap.last.step >= SETTLED and isinstance(mismatch, float) and mismatch > MISTAKEN
    )


def _judge_setting(view: View) -> Verdict | None:
    """ND407: how batch normalization is set, and what its buffers did."""
    reading = view.now("batches_tracked")
    if reading is None:
        return None
    fault = _fault(reading.detail) or ("set back" if _is_set_back(view) else _foreign(view))
    if fault is None:
        return None
    if fault == "never updated" and reading.detail["untouched"] and _is_idle(view):
        fault = "never used"
    moved = float(reading.detail.get("moved") or 0)
    grave = fault in (
        "momentum 0",
        "never updated",
        "never used",
        "evaluates its initial values",
        *stored_norms.GRAVE,
    ) or (fault in ("moves while frozen", "unfrozen") and moved > STALE)
    grave = grave or (fault == "other data" and not view.had_learned())
    grave = grave or (fault in ("set back", "newest only") and is_mistaken(view))
    severity = Severity.WARNING if grave else Severity.INFO
    told = {"tracked": reading.detail["tracked"]} if "stored" in reading.detail else dict(reading.detail)
    return Verdict(severity, None, told | {"fault": fault})


def _is_idle(view: View) -> bool:
    """Whether no batch was seen to pass the layer, and no gradient came back from it."""
    silent = view.series("silent_share", "gradient_flow")
    return view.series("values_per_statistic") is None and silent is not None and silent.last.value == 1.0


def _foreign(view: View) -> str | None:
    """Whether a layer in evaluation mode is far from what it is given; less far, it serves as an affine map."""
    series = view.series("running_distance")
    if series is None or not series.last.detail.get("frozen"):
        return None
    far = min(series.last.value, float(series.last.detail["typical"] or 0))
    return "other data" if far > FOREIGN else None


def _is_set_back(view: View) -> bool:
    """Whether the count of batches has gone down between two visits."""
    series = view.series("batches_tracked")
    counts = [reading.value for reading in series.recent] if series else []
    return any(after < before for before, after in itertools.pairwise(counts))


def _fault(d: Mapping[str, Scalar]) -> str | None:
    if "stored" in d:
        return str(d["stored"]) or None
    if not d["training"]:
        # Never fed and not going to be: it normalizes nothing. Frozen and fed before: as it should be.
        return "evaluates its initial values" if d["untouched"] and d["trainable"] else None
    if d["momentum"] == 0:
        return "momentum 0"
    if d["still"]:
        return "never updated"
    if d["momentum"] is not None and float(d["momentum"]) >= NEWEST:
        return "newest only"
    if not d["trained_at_first_visit"] and not (d["trainable"] and d["input_trainable"]):
        return "unfrozen"
    updates = d.get("updates_per_batch")
    if d["trainable"] is False and d["input_trainable"] is False:
        return (
            "moves while frozen" if updates is not None else None
        )  # an average of weights runs in evaluation only
    return "updated twice" if isinstance(updates, float) and updates > 1.9 else None


_FELT_IN_TRAINING = ("evaluates its initial values", "other data", "unfrozen")
"""Faults that change what the layers behind are given while training; the others are felt in evaluation."""

_FAULTS: Mapping[str, tuple[str, str]] = {
    **stored_norms.FAULTS,
    "set back": (
        "has its running statistics set back while training goes on: what evaluation uses is never more than the last"
        " few batches remember",
        "Call reset_running_stats() once, before statistics are computed anew over the training set, not each epoch.",
    ),
    "momentum 0": (
        "has momentum 0: its running statistics never change, while training uses those of each batch",
        "Set momentum to 0.1, or put the layer in eval mode if its statistics are meant to be frozen.",
    ),
    "newest only": (
        "keeps the statistics of the newest batch only: here momentum is the weight of the new batch, in other"
        " libraries that of the old average",
        "Set momentum to 1 minus what it is (0.1 is usual).",
    ),
    "other data": (
        "evaluates frozen statistics that are not those of your data: they are two standard deviations off, or more",
        "Prepare inputs as they were where the statistics come from (mean, scale, order of channels, inversion), or"
        " let the statistics adapt: leave the layer in training mode, or pass 1,000 samples in training mode without"
        " gradients first.",
    ),
    "never updated": (
        "trains with batch statistics, but its running statistics do not move",
        "Let the training forward pass reach the layer's own buffers (functional_call with copied buffers, or an"
        " update that is undone, do not).",
    ),
    "never used": (
        "gets no batch in training: if evaluation sends anything through it, its initial statistics (0, 1) are used",
        "Check what decides which normalization a batch goes through (a domain, a mode, a flag that is not passed"
        " on); take the layer out if nothing is meant to.",
    ),
    "moves while frozen": (
        "has frozen gains behind frozen weights, but is in training mode: it normalizes by batches and overwrites the"
        " statistics it was trained with",
        "Call .eval() on the frozen part after every model.train(); requires_grad_(False) does not freeze buffers.",
    ),
    "unfrozen": (
        "was in eval mode at the first visit and is now in training mode: a .train() call has unfrozen it",
        "Override train() of the model so that frozen normalization layers stay in eval mode.",
    ),
    "updated twice": (
        "updates its running statistics more than once a batch (activation checkpointing runs it again, or a second"
        " forward pass does)",
        "Take the layer out of the checkpointed part, or use the square root rule: momentum 1 - sqrt(1 - a).",
    ),
    "evaluates its initial values": (
        "is in eval mode while training and still holds its initial statistics (0, 1): it normalizes nothing",
        "Call model.train() before training, or load the statistics that it should hold.",
    ),
}


def _advise_setting(case: Case) -> Advice:
    e = case.leading.evidence
    seen, change = _FAULTS[str(e["fault"])]
    moved = e.get("moved")
    far = f" Since the first visit they moved by {moved} (squared Hellinger)." if moved else ""
    return Advice(
        f"{case.where} {seen}.{far}",
        f"{change} It worked when the finding is gone and `nndiag/norm_drift/running_distance` is below 0.005.",
    )


SETTING = Rule(
    id="ND407",
    name="bn-misconfigured",
    measure=_NAME,
    summary="momentum 0, never updated, updated twice a batch, or frozen and yet moving",
    reads="batches_tracked",
    judge=_judge_setting,
    advise=_advise_setting,
    threshold=0.0,
    explains=("ND101", "ND202", "ND311", "ND312", "ND401", "ND402", "ND403", "ND404"),
    spares=lambda e: () if e.get("fault") in _FELT_IN_TRAINING else ("ND101", "ND202", "ND311", "ND312"),
)
