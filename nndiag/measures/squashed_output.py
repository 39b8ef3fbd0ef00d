"""Outputs that are squashed twice, by the network and by its loss: ND201's part that is about losses.

Of numbers from 0 to 1 a second softmax makes nearly equal ones, and a second sigmoid none below a half: the loss
cannot come near 0, and hardly any gradient passes both.
"""

from __future__ import annotations

from collections.abc import Iterator

from nndiag.findings import Reading, Scalar, Severity
from nndiag.rules import Advice, Case, Verdict, View
from nndiag.snapshot import Snapshot

_NAME = "saturation"


def read(now: Snapshot) -> Iterator[Reading]:
    """Whether the loss applies the function that the network has applied already; only where its graph was seen."""
    function, layer = now.facts.get("squashed_twice"), now.facts.get("squashed_at")
    if function is None and "loss_form" not in now.facts:
        return
    if layer not in now.layers:
        layer = next((info.name for info in now.layers.values() if info.is_output), None)
    detail: dict[str, Scalar] = {"function": function, "loss_form": now.facts.get("loss_form")}
    named = None if layer is None else str(layer)
    yield Reading(_NAME, "squashed_twice", named, now.step, float(function is not None), detail=detail)


def judge(view: View) -> Verdict | None:
    """The graph of the loss is proof: there is no threshold, and one visit is enough."""
    twice = view.now("squashed_twice")
    if twice is None or twice.value == 0:
        return None
    evidence: dict[str, Scalar] = dict(twice.detail) | {"squashed_twice": True}
    loss, guessing = view.run("loss"), view.guessing()
    if loss is not None:
        evidence |= {"first_loss": round(loss.first.value, 4), "loss": round(loss.last.value, 4)}
    if guessing is not None:
        evidence["loss_of_guessing"] = round(guessing, 4)
    return Verdict(Severity.WARNING, twice.value, evidence, is_conclusive=True)


def advise(case: Case) -> Advice:
    """Where to take the first one out."""
    function = str(case.leading.evidence["function"])
    loss = "cross_entropy" if function == "softmax" else "binary_cross_entropy_with_logits"
    floor = (
        "the loss cannot come near 0, and an answer that is wrong and sure of itself gets next to no gradient"
        if function == "softmax"
        else "no probability can be below a half"
    )
    return Advice(
        f"The output of {case.where} goes through a {function}, and the loss applies a {function} of its own to that:"
        f" {floor}.",
        f"Take the {function} behind {case.where} out of the model for training: {loss} wants the numbers in front of"
        " it. Apply it for predictions only."
        " It worked when `nndiag/saturation/squashed_twice` is 0 and the loss falls further.",
    )
