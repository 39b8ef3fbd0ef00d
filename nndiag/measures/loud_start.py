"""Networks that begin loud: their first loss is far above that of guessing. ND312's part without depth.

An answer that is the same for every sample costs the loss of guessing. A first loss of twice that says that the
network's own noise weighs as much as all there is to learn: its initial weights are too large for what reads them.
Healthy networks get rid of it in some tens of steps; a loss that has not shows that they could not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from nndiag.findings import Scalar, Severity
from nndiag.measures.weight_scale import over_critical
from nndiag.rules import ABSTAIN, Abstention, Advice, Case, Verdict, View

_NAME = "initialization"

LOUD = 2.0
"""First loss over that of guessing: the noise of the start weighs as much as all there is to learn."""

LOUDEST = 20.0
"""First loss over that of guessing from which a fall to it is no learning yet: 5 in healthy runs, 96 in sick ones."""

PATIENCE = 40
"""Steps after which a network that began loud should have learned something, or be about to."""

LONG = 100
"""Steps after which its noise should be gone, even if the loss still falls."""

RECURRENT = 2.0
"""H Var(W) at which a recurrent ReLU layer keeps its scale (He et al. 2015); others need less."""


def judge(view: View) -> Verdict | Abstention | None:
    """ND312 of the loss and of time: loud at step 0, and not quiet when it should be."""
    series = view.series("loss_over_guessing")
    if series is None or series.last.step != view.step or series.first.step != 0 or view.has_rivals:
        return None
    echoes, first = _echoes(view), series.first.value
    if first <= LOUD and not echoes:
        return None
    total = view.run("total_steps")
    share = total.last.value / 10 if total else 0.0
    if view.step <= max(PATIENCE, share):
        return ABSTAIN
    newest = statistics.median(reading.value for reading in list(series.recent)[-3:])
    is_stuck = not view.has_learned() and (first > LOUDEST or not view.is_improving())
    evidence: dict[str, Scalar] = {"loss_over_guessing": round(first, 4), "now": round(newest, 4)}
    evidence |= _losses(view)
    if echoes and not view.has_learned():
        evidence["time_gain"] = worst = max(echoes.values())
        return Verdict(Severity.WARNING, worst, evidence, tuple(echoes))
    large = [name for name, _ in sorted(_too_large(view), key=lambda item: -item[1])]
    if first <= LOUD or not large or not (is_stuck or (newest > LOUD and view.step > max(LONG, share))):
        return None
    return Verdict(Severity.WARNING, first, evidence, tuple(large))


def _losses(view: View) -> dict[str, Scalar]:
    loss, guessing = view.run("loss"), view.guessing()
    evidence: dict[str, Scalar] = (
        {} if loss is None else {"first_loss": loss.first.value, "loss": loss.last.value}
    )
    return evidence | ({} if guessing is None else {"loss_of_guessing": guessing})


def _echoes(view: View) -> dict[str, float]:
    """Recurrent layers that began too large, and back through whose time steps gradients grew a thousandfold."""
    found = {}
    for layer, over in _too_large(view):
        reach = view.of(layer).series("saliency_ratio", "gradient_flow")
        is_read = reach is not None and view.of(layer).series("recurrent_gain") is not None
        if is_read and reach is not None and over > 1 and reach.first.value > view.threshold:
            found[layer] = reach.first.value
    return found


def _too_large(view: View) -> Iterator[tuple[str, float]]:
    """Layers that began above the scale that keeps signals, and by how much.

    Of a table of embeddings of width d it is an entry's mean square of d^-1/2: products of two such vectors are of
    unit scale.
    """
    for layer, series in view.across("weight_gain", _NAME):
        yield from _over(layer, over_critical(series.first))
    for layer, series in view.across("recurrent_gain", _NAME):
        yield from _over(layer, series.first.value / RECURRENT)
    for layer, series in view.across("embedding_square", _NAME):
        yield from _over(layer, series.first.value * float(series.first.detail["width"] or 1) ** 0.5)


def _over(layer: str, scale: float) -> Iterator[tuple[str, float]]:
    if scale > 1:
        yield layer, scale


def advise(case: Case) -> Advice:
    """By how much to shrink what began too large."""
    e = case.leading.evidence
    if "time_gain" in e:
        return Advice(
            f"At the start, gradients grew {float(e['time_gain'] or 0):.1e} times on their way back through the time"
            f" steps of {case.where}, and the loss ({e.get('first_loss')} at first, {e.get('loss')} now) is no"
            " better.",
            f"Let the recurrent matrix of {case.where} begin orthogonal (torch.nn.init.orthogonal_) and what it reads"
            " its input with by xavier_uniform_, and clip gradients (torch.nn.utils.clip_grad_norm_ at 1)."
            " It worked when `nndiag/gradient_flow/saliency_ratio` of this layer is below 1000 at step 0.",
        )
    ratio = float(e["loss_over_guessing"] or LOUD)
    return Advice(
        f"The first loss ({float(e.get('first_loss') or 0):.3g}) was {ratio:.2g} times that of one answer for all"
        f" samples ({float(e.get('loss_of_guessing') or 0):.3g}), and it is {float(e['now'] or 0):.2g} times now: the"
        " network began with noise far larger than what it is to say, and has not got rid of it.",
        f"Shrink the initial weights of {case.where} until the first loss is near that of guessing: the output layer"
        " or the embeddings first (a standard deviation of 0.1 or less), recurrent weights orthogonal, others by"
        " torch.nn.init.kaiming_normal_ or xavier_normal_. Or standardize the targets."
        " It worked when `nndiag/initialization/loss_over_guessing` is near 1 at step 0.",
    )
