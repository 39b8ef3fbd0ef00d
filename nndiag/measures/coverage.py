"""Coverage: what nndiag could not see, and what it switched off.

These are statements about nndiag, not about the network: "not observed" never counts against a layer.
"""

from __future__ import annotations

from collections.abc import Iterator

from nndiag.findings import CoverageEntry, Reading, Severity
from nndiag.measures.base import Measure, Visit
from nndiag.rules import Advice, Case, Rule, Verdict, View
from nndiag.snapshot import Snapshot

_NAME = "coverage"


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """How many layers no activation was seen of, faults so far, and whether the probe was refused."""
    now = visit.now
    blind = {gap.layer: why for gap, why in now.gaps.items() if gap.tap in ("input", "output")}
    seen = {key.layer for key in now.statistics if key.tap in ("input", "output")}
    unseen = [
        layer for layer in blind if layer is not None and layer not in seen and not _is_part(now, layer)
    ]
    reasons = "; ".join(dict.fromkeys(blind[layer] for layer in unseen))
    yield Reading(
        *(_NAME, "layers_not_observed", None, now.step, float(len(unseen))),
        detail={"layers": ", ".join(unseen[:8]), "reasons": reasons[:300]},
    )
    faults = {
        name.removeprefix("fault "): str(cause)
        for name, cause in now.facts.items()
        if name.startswith("fault ")
    }
    yield Reading(
        *(_NAME, "features_with_faults", None, now.step, float(len(faults))),
        detail=dict(faults),
    )
    refusal = now.facts.get("probe_refused")
    yield Reading(
        *(_NAME, "probe_refused", None, now.step, float(refusal is not None)),
        detail={"why": str(refusal)} if refusal is not None else {},
    )


def _is_part(now: Snapshot, layer: str) -> bool:
    """Whether a layer is computed by the attention module it belongs to, and never called by itself."""
    owner = now.layers.get(layer.rpartition(".")[0])
    return owner is not None and owner.role == "attention"


def _judge(reading_name: str, severity: Severity, view: View) -> Verdict | None:
    reading = view.now(reading_name)
    if reading is None or reading.value <= view.threshold:
        return None
    return Verdict(severity, reading.value, dict(reading.detail))


def _judge_unseen(view: View) -> Verdict | None:
    return _judge("layers_not_observed", Severity.INFO, view)


def _judge_faults(view: View) -> Verdict | None:
    """A note, unless no visit was ever read: then nothing is known of the network, and "ok" would be a guess."""
    is_blind = view.series("layers_not_observed") is None
    return _judge("features_with_faults", Severity.WARNING if is_blind else Severity.INFO, view)


def _judge_refused(view: View) -> Verdict | None:
    return _judge("probe_refused", Severity.INFO, view)


def _advise_unseen(case: Case) -> Advice:
    e, count = case.leading.evidence, int(case.leading.value or 0)
    return Advice(
        f"The activations of {count} layer{'s' if count > 1 else ''} could not be seen ({e.get('layers')}):"
        f" {e.get('reasons')}.",
        "Nothing is concluded about these layers. If they matter, see the reasons above: a layer inside a compiled"
        " function is seen when the module is compiled instead of the function.",
    )


def _advise_faults(case: Case) -> Advice:
    what = "; ".join(f"{feature}: {cause}" for feature, cause in case.leading.evidence.items())
    is_blind = case.leading.severity is Severity.WARNING
    blind = " Nothing was observed: this says nothing about the network." if is_blind else ""
    return Advice(
        f"Parts of nndiag failed and are switched off if they keep failing. Training is not affected. {what}.{blind}",
        "Please report this with the text above. `strict=True` raises the fault where it happens.",
    )


def _advise_refused(case: Case) -> Advice:
    return Advice(
        f"The probe, which replays recorded batches in a sandbox, is off: {case.leading.evidence.get('why')}.",
        "Nothing to do: activations are read in visited training steps instead, with more noise."
        " `probe=False` silences this.",
    )


MEASURE = Measure(
    name=_NAME,
    summary="What could not be observed, and which parts of nndiag are off.",
    needs=frozenset(),
    read=read,
    rules=(
        Rule(
            id="ND901",
            name="not-observed",
            measure=_NAME,
            summary="layers that could not be seen, and why",
            reads="layers_not_observed",
            judge=_judge_unseen,
            advise=_advise_unseen,
            threshold=0.0,
        ),
        Rule(
            id="ND902",
            name="monitor-fault",
            measure=_NAME,
            summary="a feature of nndiag failed; it switches itself off after three faults",
            reads="features_with_faults",
            judge=_judge_faults,
            advise=_advise_faults,
            threshold=0.0,
            persistence="at once",
        ),
        Rule(
            id="ND903",
            name="probe-refused",
            measure=_NAME,
            summary="the sandbox cannot vouch for this model, and why",
            reads="probe_refused",
            judge=_judge_refused,
            advise=_advise_refused,
            threshold=0.0,
            persistence="at once",
        ),
    ),
)
