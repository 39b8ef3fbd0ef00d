"""Data: the scale of what the network is given.

Weights are initialized for inputs that are centered and of unit scale; gradients of the first layer are
proportional to its inputs, so a column a hundred times larger than the others takes the whole step.

Source: LeCun, Bottou, Orr, Mueller 1998, "Efficient backprop".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from nndiag.findings import CoverageEntry, Reading, Scalar, Severity
from nndiag.layers import LayerInfo
from nndiag.measures.base import Measure, Need, Visit
from nndiag.rules import Advice, Case, Rule, Verdict, View
from nndiag.snapshot import Snapshot
from nndiag.statistics import Moments

_NAME = "data"

MAX_SCALE = 20.0
"""Standard deviation of inputs above which they are too large."""

MIN_SCALE = 0.05
"""Standard deviation below which they are too small, where a whole sample is also shorter than 1."""

MAX_COLUMN = 100.0
"""How many times the median column's scale a single one may be."""


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of the layers that are given the network's input."""
    now = visit.now
    for info in now.layers.values():
        moments = now.get(info.name, "input", "probe", "moments")
        moments = moments or now.get(info.name, "input", "stream", "moments")
        if not isinstance(moments, Moments) or not int(moments.n.sum()):
            yield CoverageEntry(info.name, _NAME, "not applicable", "does not read the network's input")
        elif info.role == "norm":
            yield CoverageEntry(info.name, _NAME, "not applicable", "a normalization comes first")
        else:
            yield from _read_input(now, info, moments)


def _read_input(now: Snapshot, info: LayerInfo, moments: Moments) -> Iterator[Reading]:
    square = moments.mean_square
    mean = float((moments.mean * moments.n).sum() / moments.n.sum())
    scale = math.sqrt(max(square - mean * mean, 0.0))
    columns = moments.variance.sqrt()
    constant = columns <= 1e-12 * max(1.0, float(columns.max()))
    varying = columns[~constant]
    middle = float(varying.median()) if len(varying) else 0.0
    detail: dict[str, Scalar] = {
        "mean": round(mean, 6),
        "scale": round(scale, 6),
        "columns": len(columns),
        "constant_columns": int(constant.sum()),
        "twin_columns": _twins(moments, constant),
        "sample_norm": round(math.sqrt(square * len(columns)), 6),
        "largest_column": int(columns.argmax()),
    }
    k = int(moments.k)
    yield Reading(_NAME, "input_scale", info.name, now.step, scale, None, k, None, detail)
    offset = abs(mean) / scale if scale > 0 else math.inf if mean else 0.0
    yield Reading(_NAME, "input_offset", info.name, now.step, offset, n=k)
    if middle > 0:
        ratio = float(varying.max()) / middle
        yield Reading(_NAME, "column_ratio", info.name, now.step, ratio, None, k, tuple(columns.tolist()))


def _twins(moments: Moments, constant: torch.Tensor) -> int:
    """Columns whose mean and variance equal another one's to the last digits."""
    pairs = zip(moments.mean[~constant].tolist(), moments.m2[~constant].tolist(), strict=True)
    return int((~constant).sum()) - len(set(pairs))


def _judge_scale(view: View) -> Verdict | None:
    """ND701: inputs far from centered unit scale; constant and equal columns are a note."""
    reading = view.now("input_scale")
    if reading is None:
        return None
    scale, offset, ratio = reading.value, view.value("input_offset", 0.0), view.value("column_ratio", 1.0)
    evidence: dict[str, Scalar] = dict(reading.detail) | {"samples": reading.n}
    evidence |= {"offset_in_sd": round(offset, 4), "column_ratio": round(ratio, 4)}
    small = 0 < scale < MIN_SCALE and float(reading.detail["sample_norm"] or 0) < 1
    faults = [
        (scale / MAX_SCALE, "large") if scale > MAX_SCALE else None,
        (MIN_SCALE / scale, "small") if small else None,
        (offset / view.threshold, "offset") if offset > view.threshold else None,
        (ratio / MAX_COLUMN, "columns") if ratio > MAX_COLUMN else None,
    ]
    worst = max((fault for fault in faults if fault is not None), default=None)
    if worst is not None:
        # One column makes the scale and the mean of all: what cures these would leave the others at nothing.
        fault = "columns" if ratio > MAX_COLUMN else worst[1]
        return Verdict(Severity.WARNING, worst[0], evidence | {"fault": fault})
    odd = int(reading.detail["constant_columns"] or 0) + int(reading.detail["twin_columns"] or 0)
    return Verdict(Severity.INFO, None, evidence | {"fault": "none"}, is_harmless=True) if odd else None


def _advise_scale(case: Case) -> Advice:
    e = case.leading.evidence
    what = {
        "large": f"have a standard deviation of {e['scale']}",
        "small": f"have a standard deviation of {e['scale']} only",
        "offset": f"lie {e['offset_in_sd']} standard deviations from zero (mean {e['mean']})",
        "columns": f"hold a column (number {e['largest_column']}) that is {e['column_ratio']} times the scale of the"
        " median column",
    }.get(str(e["fault"]))
    if what is None:
        return Advice(
            f"The inputs of {case.where} hold {e['constant_columns']} constant and {e['twin_columns']} equal columns"
            f" among {e['columns']}.",
            "Constant columns carry nothing and can go; if they are meant to vary, check how the data are loaded."
            " It worked when the finding is gone.",
        )
    change = (
        "Standardize each column of the inputs with its mean and standard deviation over the training set; take the"
        " logarithm of long-tailed ones first."
        if e["fault"] == "columns"
        else f"Standardize the inputs with statistics of the training set: (x - {e['mean']}) / {e['scale']}."
    )
    return Advice(
        f"The inputs of {case.where} {what}: first-layer gradients are of that scale too, and the initial weights are"
        " made for inputs of mean 0 and scale 1.",
        f"{change} It worked when `nndiag/data/input_scale` is near 1 and `nndiag/data/column_ratio` below 100.",
    )


MEASURE = Measure(
    name=_NAME,
    summary="Mean, scale and columns of the network's floating-point input.",
    needs=frozenset({Need.NETWORK_INPUT}),
    read=read,
    rules=(
        Rule(
            id="ND701",
            name="input-scale",
            measure=_NAME,
            summary="network inputs far from centered unit scale",
            reads="input_scale",
            judge=_judge_scale,
            advise=_advise_scale,
            threshold=3.0,
            persistence="at once",
            is_of_run=True,
            explains=(
                *("ND101", "ND102", "ND201", "ND202", "ND203", "ND311", "ND312", "ND313"),
                *("ND601", "ND602", "ND603", "ND604"),
            ),
        ),
    ),
    worst={"input_scale": "far from one"},
)
