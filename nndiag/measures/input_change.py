"""A change of what the network is given, in the middle of a run: the rule's part of ND102 that is about data."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from nndiag.findings import Reading, Scalar, Severity
from nndiag.functional import last_change
from nndiag.rules import Advice, Case, Series, Verdict, View
from nndiag.snapshot import Snapshot
from nndiag.statistics import BatchMeans

_NAME = "activation_shift"

DIVIDED = 0.75
"""Share of the variance of batch means between the batches before and after: a straight trend gives this much."""

SAME_MAP = 0.95
"""Correlation of the features' means before and after beyond which one linear map made the new ones."""

UNLIKE = 3.0
"""Standard deviations within a batch that the middle feature's mean moved: other units, not other samples."""

WORSE = 1.5
"""Times that the loss must have risen over its usual value."""


def read(now: Snapshot) -> Iterator[Reading]:
    """How the newest training batches divide into two kinds, of each layer that is given the network's input."""
    for key, means in now.statistics.items():
        if not isinstance(means, BatchMeans):
            continue
        found = last_change(means.means.numpy(), means.variances.numpy())
        if found is not None:
            detail: dict[str, Scalar] = {"batches": means.batches, "since": found.after}
            detail |= {"agreement": found.agreement, "slope": found.slope, "apart": found.apart}
            yield Reading(_NAME, "input_change", key.layer, now.step, found.share, None, None, None, detail)


def judge(view: View) -> Verdict | None:
    """Inputs went through another map from one batch to the next, for good, and the loss rose with it."""
    series = view.series("input_change")
    if series is None or series.last.step != view.step or not _is_changed(series.last):
        return None
    first = next(reading for reading in series.recent if _is_changed(reading))
    rose = _risen_loss(view, series, first.step)
    evidence: dict[str, Scalar] = {name: _plain(series.last.detail[name]) for name in series.last.detail}
    evidence |= {"input_change": round(series.last.value, 4), "seen_at": first.step}
    evidence["loss_rose"] = None if rose is None else round(rose, 4)
    severity = Severity.WARNING if rose is not None and rose > WORSE else Severity.INFO
    return Verdict(severity, series.last.value, evidence)


def _is_changed(reading: Reading) -> bool:
    return reading.value > DIVIDED and (
        _is_mapped(reading.detail) or float(reading.detail["apart"] or 0) > UNLIKE
    )


def _is_mapped(detail: Mapping[str, Scalar]) -> bool:
    """Whether one factor, far from 1, made the new means of the old ones, apart from a constant."""
    return abs(float(detail["agreement"] or 0)) > SAME_MAP and not 0.5 < float(detail["slope"] or 0) < 2


def _risen_loss(view: View, series: Series, since: int) -> float | None:
    """The largest loss since the change over the usual one of before."""
    loss = view.run("loss")
    if loss is None:
        return None
    before = [reading.value for reading in (loss.first, *loss.recent) if reading.step < since]
    after = [reading.value for reading in loss.recent if reading.step >= since]
    usual = statistics.median(before[-3:]) if before else 0.0
    return max(after) / usual if after and usual > 0 else None


def advise(case: Case) -> Advice:
    """What was seen of the data, and where to look."""
    e = case.leading.evidence
    how = (
        f"each feature's mean is {float(e['slope'] or 0):.2g} times what it was, and a constant"
        if _is_mapped(e)
        else f"half of all features have moved by more than {float(e['apart'] or 0):.2g} standard deviations"
    )
    times = float(e["loss_rose"] or 0)
    rose = f", and the loss rose {times:.2g} times" if times > 1 else ""
    return Advice(
        f"Since step {e['seen_at']}, or shortly before, {case.where} is given other inputs: {how}{rose}.",
        "Compare how inputs are made before and after that step: normalization, sign, division by 255, the order of"
        " columns, a script that resumes with other settings. If the change is meant, ignore ND102 here."
        " It worked when `nndiag/activation_shift/input_change` stays below 0.75.",
    )


def _plain(value: Scalar) -> Scalar:
    return round(value, 4) if isinstance(value, float) else value
