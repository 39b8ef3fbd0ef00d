"""The rules about parameters that do not learn: ND605 and ND606."""

from __future__ import annotations

from nndiag.findings import Reading, Scalar, Severity
from nndiag.functional import UNKNOWN_LAW
from nndiag.rules import ABSTAIN, LEARNS, Abstention, Advice, Case, Rule, Verdict, View

_NAME = "gradient_flow"

SILENT_VISITS = 9
"""Visits without a gradient before a parameter is said to receive none: the first one and the eight newest."""

SETTLED = 60
"""Steps before a network has stopped learning rather than not begun."""

SILENT_SHARE = 0.25
"""Share of all trainable numbers without a gradient from which that is a warning: an unused head is not."""

LAW_ENTRIES = 1000
"""Weights from which learned ones are told from freshly drawn ones by the shape of their law."""

BOUND_ENTRIES = 200
"""The same by the bounds of their law: of 200 weights that moved by a tenth of it, some have left it (99%)."""


def _judge_silent(view: View) -> Verdict | Abstention | None:
    """ND605: parameters that received no gradient, or zeros only, at every visit so far."""
    series = view.series("silent_share")
    if series is None or series.last.step != view.step:
        return None
    if view.source == "checkpoint":
        return _judge_stored_silence(series.last)
    if len(series.recent) < SILENT_VISITS - 1:
        return ABSTAIN
    seen = [set(str(r.detail["silent"]).split("|")) - {""} for r in (series.first, *series.recent)]
    always = set.intersection(*seen)
    if not always:
        return None
    trainable = _total(view, "entries")
    share = int(series.last.detail["silent_entries"] or 0) / max(1, trainable)
    network = _total(view, "silent_entries") / max(1, trainable)
    evidence: dict[str, Scalar] = {"parameters": ", ".join(sorted(always)), "visits": len(seen)}
    evidence |= {"share_of_trainable": round(share, 4), "silent_share_of_network": round(network, 4)}
    evidence["called"] = series.last.detail["called"]
    evidence["in_optimizer"] = series.last.detail.get("owned", True)
    # A target network, a teacher, a frozen backbone; a head whose task is over.
    is_meant = not series.last.detail.get("owned", True) or not series.last.detail["called"]
    severity = Severity.WARNING if network >= SILENT_SHARE and not is_meant else Severity.INFO
    return Verdict(severity, share, evidence)


def _judge_stored_silence(reading: Reading) -> Verdict | Abstention | None:
    """ND605 of a checkpoint: the optimizer's mean square gradient is exactly zero after enough updates."""
    updates, network = int(reading.detail["updates"] or 0), float(reading.detail["network_share"] or 0)
    if updates < SILENT_VISITS:
        return ABSTAIN
    if reading.value == 0:
        return None
    evidence: dict[str, Scalar] = {"updates": updates, "silent_share_of_network": round(network, 4)}
    severity = Severity.WARNING if network >= SILENT_SHARE else Severity.INFO
    return Verdict(severity, reading.value, evidence)


def _total(view: View, name: str) -> int:
    """A sum over all layers of the optimizer that were read at this step."""
    return view.history.once(
        _NAME,
        name,
        lambda: sum(
            int(reading.detail[name] or 0)
            for _, reading in view.across_now("silent_share", _NAME)
            if reading.detail.get("owned", True)
        ),
    )


def _judge_resting(view: View) -> Verdict | Abstention | None:
    """ND606: parameters that get gradients and have never moved."""
    if view.layer is None:
        return _judge_unregistered(view)
    series = view.series("resting_share")
    if series is None or series.last.step != view.step:
        return None
    if view.source == "checkpoint":
        return _judge_stored_rest(view, series.last)
    if series.last.detail.get("frozen"):
        return _judge_frozen(view, series.last)
    if len(series.recent) < SILENT_VISITS - 1:
        return ABSTAIN
    seen = [set(str(r.detail["resting"]).split("|")) - {""} for r in (series.first, *series.recent)]
    always = set.intersection(*seen)
    if not always:
        return None
    detail = series.last.detail
    evidence: dict[str, Scalar] = {"parameters": ", ".join(sorted(always)), "visits": len(seen)}
    evidence["in_optimizer"] = detail["owned"]
    evidence["lr"] = 0.0 if detail["idle"] else detail["lr"]
    evidence["initial_law"] = _random_law(view)
    if not detail["owned"] or evidence["lr"] == 0.0:
        is_grave = evidence["initial_law"] is not None and any("weight" in name for name in always)
        is_grave = is_grave or (not detail["owned"] and _is_missed(view))
    else:
        is_grave = bool(evidence["lr"]) and not view.had_learned()  # who has learned has hardly a gradient
    return Verdict(Severity.WARNING if is_grave else Severity.INFO, series.last.value, evidence)


def _judge_unregistered(view: View) -> Verdict | Abstention | None:
    """ND606 of what the model never registered: no optimizer can be blamed, or asked."""
    series = view.series("unregistered")
    if series is None or series.last.step != view.step or series.last.value == 0:
        return None
    if len(series.recent) < SILENT_VISITS - 1:
        return ABSTAIN
    evidence: dict[str, Scalar] = {"parameters": series.last.detail["parameters"], "unregistered": True}
    evidence |= {"entries": int(series.last.value), "visits": SILENT_VISITS}
    return Verdict(Severity.WARNING, series.last.value, evidence, is_conclusive=True)


def _is_missed(view: View) -> bool:
    """Whether what no optimizer holds is most of what asks for gradients, and the rest has stopped short of learning.

    Who trains a head alone may have left the body out on purpose: then the head learns.
    """
    rows = [reading for _, reading in view.across_now("silent_share", _NAME)]
    left = sum(int(row.detail["entries"] or 0) for row in rows if not row.detail.get("owned", True))
    whole = sum(int(row.detail["entries"] or 0) for row in rows)
    fell = view.loss_fell()
    has_stopped = view.step >= SETTLED and not view.is_improving() and not view.has_rivals
    return left > whole / 2 and has_stopped and fell is not None and fell < LEARNS


def _judge_frozen(view: View, reading: Reading) -> Verdict | None:
    """ND606 of what is frozen: untouched since it was drawn, among frozen layers that had learned elsewhere."""
    law = _drawn(view, BOUND_ENTRIES)
    if law is None or not law.detail.get("as_drawn"):
        return None
    frozen = (
        layer for layer, series in view.across("resting_share", _NAME) if series.last.detail.get("frozen")
    )
    drawn = [found for layer in frozen if (found := _drawn(view.of(layer))) is not None]
    learned = [found.layer for found in drawn if found.detail["laws"] == UNKNOWN_LAW]
    if not learned:
        return None
    evidence: dict[str, Scalar] = {"frozen": True, "initial_law": law.detail["laws"], "learned": learned[0]}
    return Verdict(Severity.WARNING, reading.value, evidence)


def _judge_stored_rest(view: View, reading: Reading) -> Verdict | None:
    """ND606 of checkpoints: a layer is what it was in the first one, while others moved."""
    if reading.value < 1:
        return None
    evidence: dict[str, Scalar] = {"parameters": str(reading.detail["resting"]).replace("|", ", ")}
    evidence |= {"since": reading.detail["since"], "lr": reading.detail["lr"]}
    evidence["initial_law"] = _random_law(view)
    severity = Severity.INFO if evidence["initial_law"] is None else Severity.WARNING
    return Verdict(severity, reading.value, evidence)


def _random_law(view: View) -> str | None:
    """The law that the layer's first weights were drawn from; None for weights that were learned elsewhere."""
    few = _drawn(view, BOUND_ENTRIES)
    drawn = _drawn(view) or (few if few is not None and few.detail.get("as_drawn") else None)
    law = None if drawn is None else drawn.detail["laws"]
    return None if law is None or law == UNKNOWN_LAW else str(law)


def _drawn(view: View, least: int = LAW_ENTRIES) -> Reading | None:
    """What the layer's weights were at the first visit; None where they are too few to tell."""
    gains = (view.series(name, "initialization") for name in ("weight_gain", "recurrent_gain"))
    first = next((series.first for series in gains if series is not None), None)
    return None if first is None or (first.n or 0) < least else first


def _advise_silent(case: Case) -> Advice:
    e = case.leading.evidence
    if "updates" in e:
        return Advice(
            f"After {e['updates']} updates the optimizer's mean square gradient is exactly zero for parameters of"
            f" {case.where} (layers with {float(e['silent_share_of_network'] or 0):.0%} of all numbers).",
            _reach(),
        )
    return Advice(
        f"No gradient reached {e['parameters']} of {case.where} at any of {e['visits']} visits"
        f" ({float(e['silent_share_of_network'] or 0):.0%} of all trainable numbers get none).",
        _reach(),
    )


def _reach() -> str:
    return (
        "If they shall learn, look for a detach(), a torch.no_grad() or an output that reaches no loss; if not, set"
        " requires_grad_(False) to save memory."
        " It worked when `nndiag/gradient_flow/silent_share` of this layer is 0."
    )


def _advise_resting(case: Case) -> Advice:
    e = case.leading.evidence
    if e.get("frozen"):
        return Advice(
            f"{case.where} is frozen at the weights it was drawn with ({e['initial_law']}), among frozen layers that"
            f" have learned, such as {e['learned']}.",
            "A new layer has to learn: set requires_grad_(True) on it after the others are frozen, and pass it to"
            " the optimizer. If its random weights are meant to stay, ignore ND606 here."
            " It worked when `nndiag/gradient_flow/resting_share` of this layer is 0.",
        )
    if "unregistered" in e:
        return Advice(
            f"{e['parameters']} get gradients, and did not change at any of {e['visits']} visits: they are in a plain"
            " list, tuple or dict, so that parameters() does not list them"
            f" ({int(e['entries'] or 0):,} numbers in all).",
            "Hold the modules in an nn.ModuleList or nn.ModuleDict, and single parameters in an nn.ParameterList;"
            " make the optimizer after that. If they shall stay as they are, set requires_grad_(False) on them."
            " It worked when the finding is gone.",
        )
    fresh = f" Its weights are as they were drawn: {e['initial_law']}." if e["initial_law"] else ""
    if "since" in e:
        return Advice(
            f"{case.where} ({e['parameters']}) did not move since the checkpoint of step {e['since']}, while other"
            f" layers did.{fresh}",
            "If it is frozen on purpose, or a buffer, nothing is wrong. Else it is in no optimizer, or gets no"
            " gradient: pass it to the optimizer, and look for a detach()."
            " It worked when `nndiag/gradient_flow/resting_share` of this layer is 0.",
        )
    why = (
        "Most likely something puts them back after each step (load_state_dict, a copy of an average of weights):"
        " take that out. Or their updates are smaller than the precision of the weights can hold: keep float32 master"
        " weights, or raise the learning rate"
        if e["in_optimizer"] and e["lr"]
        else "Most likely they are in no optimizer, or its learning rate is 0: pass them to the optimizer, or set"
        " requires_grad_(False) to save their gradients"
    )
    return Advice(
        f"{e['parameters']} of {case.where} get gradients, and did not move at any of {e['visits']} visits.{fresh}",
        f"{why}. It worked when `nndiag/gradient_flow/resting_share` of this layer is 0.",
    )


RULES = (
    Rule(
        id="ND605",
        name="no-gradient",
        measure=_NAME,
        summary="parameters that never receive a gradient",
        reads="silent_share",
        judge=_judge_silent,
        advise=_advise_silent,
        threshold=0.0,
        lead="earliest",
    ),
    Rule(
        id="ND606",
        name="parameter-not-updated",
        measure=_NAME,
        summary="parameters that get gradients and never move",
        reads="resting_share",
        also_reads=("unregistered",),
        judge=_judge_resting,
        advise=_advise_resting,
        threshold=0.0,
        lead="earliest",
    ),
)
"""In the order of the catalogue."""
