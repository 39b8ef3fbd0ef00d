"""ND203: attention that looks at a single key, because it collapsed or because its scores began too large."""

from __future__ import annotations

from nndiag.findings import Reading, Scalar, Severity
from nndiag.measures import weight_scale
from nndiag.rules import LEARNS, Advice, Case, Rule, Verdict, View

_NAME = "saturation"

SHARP = 0.5
"""Share of rows with a single key that says more than a few sure heads."""


def _judge_collapse(view: View) -> Verdict | None:
    """ND203: a head's normalized entropy fell from above 0.3 to below 0.05."""
    reading, first = view.now("attention_entropy"), view.first("attention_entropy")
    if reading is None or first is None or not first.units or not reading.units:
        return None
    fallen = [
        (now, head)
        for head, (then, now) in enumerate(zip(first.units, reading.units, strict=False))
        if then > 0.3 and now < view.threshold
    ]
    if not fallen:
        return _judge_sharp_start(view, first, reading)
    value, head = min(fallen)
    evidence: dict[str, Scalar] = {
        "head": head,
        "entropy": round(value, 4),
        "entropy_at_first_visit": round(first.units[head], 4),
        "heads_collapsed": len(fallen),
        "heads": len(reading.units),
    }
    fell = view.loss_fell()
    has_learned_to_point = fell is not None and fell >= LEARNS
    severity = Severity.INFO if has_learned_to_point else Severity.WARNING
    return Verdict(severity, value, evidence, (view.info.place,) if view.info else ())


def _judge_sharp_start(view: View, first: Reading, reading: Reading) -> Verdict | None:
    """ND203 of scores that begin too large: most rows looked at one key at the first visit, and do so still.

    Trained attention may be as sharp: a warning where weights that make the scores began far too large, or where the
    network does not learn.
    """
    sharp = view.series("attention_saturated_rows")
    if sharp is None or min(sharp.first.value, sharp.last.value) < SHARP:
        return None
    place = view.info.place if view.info else ""
    large = _large_weights(view, place)
    evidence: dict[str, Scalar] = {"head": 0, "entropy": round(reading.value, 4)}
    evidence |= {"entropy_at_first_visit": round(first.value, 4), "rows": round(sharp.last.value, 4)}
    evidence |= {"from_the_start": True, "large_weights": ", ".join(large)}
    fell = view.loss_fell()
    learns = view.had_learned() or (fell is not None and fell >= LEARNS)
    is_grave = bool(large) or not learns
    return Verdict(Severity.WARNING if is_grave else Severity.INFO, reading.value, evidence, (place, *large))


def _large_weights(view: View, place: str) -> list[str]:
    """Layers inside a module whose weights were far above the scale that fits them at the first visit."""
    first = weight_scale.first_of_all(view)
    return [
        layer
        for layer, reading in first
        if layer.startswith(f"{place}.") and weight_scale.over_critical(reading) > weight_scale.OFF
    ]


def _advise_collapse(case: Case) -> Advice:
    e = case.leading.evidence
    if e.get("from_the_start"):
        return Advice(
            f"{float(e['rows'] or 0):.0%} of the rows of attention in {case.worst} look at a single key, and did so"
            " at the first visit: scores begin so large that hardly any gradient reaches queries and keys."
            + case.others,
            "Divide the scores by the square root of the size of the queries, shrink the initial weights of queries"
            " and keys, or normalize both (QK norm)."
            " It worked when `nndiag/saturation/attention_entropy` starts above 0.3.",
        )
    message = (
        f"Attention of {case.worst} collapsed: in {e['heads_collapsed']} of {e['heads']} heads nearly every query"
        f" looks at one key only (normalized entropy {e['entropy']}, {e['entropy_at_first_visit']} at first)."
    )
    change = (
        "Lower the learning rate or lengthen warm-up; normalize queries and keys before their product (QK norm)."
        " It worked when `nndiag/saturation/attention_entropy` stays above 0.3."
    )
    return Advice(message + case.others, change)


RULE = Rule(
    id="ND203",
    name="attention-collapse",
    measure=_NAME,
    summary="attention heads that came to look at a single key",
    reads="attention_entropy",
    judge=_judge_collapse,
    advise=_advise_collapse,
    threshold=0.05,
    explains=("ND101", "ND601"),
    lower_is_worse=True,
)
