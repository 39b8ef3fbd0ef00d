"""``nndiag compare``: two checkpoints, or two recorded runs.

Units have no order of their own: two networks that differ by it compute the same. A snapshot holds the norm of each
unit, which no order of the units in this layer or the one before changes; units are matched by it, and what is left
is at most the true change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nndiag.checkpoints import read
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.checkpoints.reading import AnyPath
from nndiag.errors import ConfigurationError
from nndiag.findings import Finding, Scalar
from nndiag.layers import LayerInfo
from nndiag.measures.stored_parameters import parameter_flows
from nndiag.offline.checking import judge
from nndiag.offline.comparison import Comparison, FindingChange, LayerChange
from nndiag.options import Selection
from nndiag.report import Report, plain_text
from nndiag.sinks import read_run, rediagnose
from nndiag.sinks.ranks import record_name
from nndiag.snapshot import Snapshot
from nndiag.statistics import ParameterFlow, RowSignature

ROUNDING = 1e-6
"""Relative difference of norms that the order of summation makes."""

_MOST_MATCHED = 1024
"""Units up to which pairs are sought one by one; the matching of sorted norms is as good."""


def compare(first: AnyPath, second: AnyPath, *, selection: Selection | None = None) -> Comparison:
    """What differs between two checkpoints, or between two recorded runs.

    Args:
        first: A checkpoint, or the directory (or record) of a run.
        second: Another one of the same kind.
        selection: The rules to judge by; None: all.

    Raises:
        CheckpointError: one of them cannot be read.
        ConfigurationError: one is a checkpoint and the other a run.
    """
    kinds = [_is_run(Path(path)) for path in (first, second)]
    if kinds[0] != kinds[1]:
        raise ConfigurationError(
            f"{plain_text(first, 500)} and {plain_text(second, 500)} cannot be compared: one is a checkpoint, the"
            " other a recorded run."
        )
    chosen = selection or Selection()
    return _runs(first, second, chosen) if kinds[0] else _checkpoints(first, second, chosen)


def _is_run(path: Path) -> bool:
    return path.suffix == ".jsonl" or (path / record_name(0)).is_file()


def _runs(first: AnyPath, second: AnyPath, selection: Selection) -> Comparison:
    runs = [read_run(Path(path)) for path in (first, second)]
    old, new = ({k: v for visit in run.visits for k, v in visit.layers.items()} for run in runs)
    reports = [rediagnose(run, selection) for run in runs]
    layers = [_structure(name, old.get(name), new.get(name)) for name in dict.fromkeys((*old, *new))]
    return Comparison(
        str(first),
        str(second),
        tuple(layers),
        *_findings(*reports),
        facts={
            "source": "run",
            "first_step": runs[0].visits[-1].step,
            "second_step": runs[1].visits[-1].step,
        },
        notes=("a record holds no parameters: layers are compared by their kinds and units only",),
    )


def _structure(name: str, old: LayerInfo | None, new: LayerInfo | None) -> LayerChange:
    if old is None or new is None:
        return LayerChange(name, "added" if old is None else "removed")
    is_alike = (old.kind, old.units) == (new.kind, new.units)
    shapes = f"{_shape(old)} -> {_shape(new)}"
    return LayerChange(name, "not compared") if is_alike else LayerChange(name, "reshaped", detail=shapes)


def _shape(info: LayerInfo) -> str:
    return info.kind if info.units is None else f"{info.kind} of {info.units} units"


def _checkpoints(first: AnyPath, second: AnyPath, selection: Selection) -> Comparison:
    with ReadingProcess() as process:
        old, new = (read(path, process=process) for path in (first, second))
    reports = [judge([snapshot], selection, {}) for snapshot in (old, new)]
    facts: dict[str, Scalar] = {"source": "checkpoint", "first_step": old.step, "second_step": new.step}
    facts |= {"first_step_from": old.facts["step_from"], "second_step_from": new.facts["step_from"]}
    layers = tuple(layer_changes(old, new))
    notes = [note for note in dict.fromkeys((*old.notes, *new.notes)) if "inferred" in note]
    if any(change.compared for change in layers):
        notes.append(
            "a snapshot holds norms, not weights: what is said to have changed changed by at least this much"
        )
    if any(change.compared == "norms of parameters" for change in layers):
        notes.append("layers without units were compared by the norms of their parameters only")
    return Comparison(str(first), str(second), layers, *_findings(*reports), facts=facts, notes=tuple(notes))


def layer_changes(old: Snapshot, new: Snapshot) -> Iterator[LayerChange]:
    """How each layer of either snapshot differs in the other."""
    before, after = (parameter_flows(snapshot) for snapshot in (old, new))
    for name in dict.fromkeys((*old.layers, *before, *new.layers, *after)):
        is_old, is_new = (name in s.layers or name in sizes for s, sizes in ((old, before), (new, after)))
        if not is_old or not is_new:
            yield LayerChange(name, "added" if is_new else "removed")
            continue
        shapes = _reshaped(
            before.get(name, {}), after.get(name, {}), old.layers.get(name), new.layers.get(name)
        )
        yield (
            LayerChange(name, "reshaped", detail=shapes) if shapes else _change(name, old, new, before, after)
        )


_Sizes = Mapping[str, Mapping[str, ParameterFlow]]


def _reshaped(
    old: Mapping[str, ParameterFlow],
    new: Mapping[str, ParameterFlow],
    before: LayerInfo | None,
    after: LayerInfo | None,
) -> str:
    """What is of another shape; empty: nothing."""
    counts = [{name: int(flow.entries) for name, flow in flows.items()} for flows in (old, new)]
    parts = [
        f"{name} {counts[0].get(name, 'none')} -> {counts[1].get(name, 'none')} numbers"
        for name in dict.fromkeys((*counts[0], *counts[1]))
        if counts[0].get(name) != counts[1].get(name)
    ]
    if before is not None and after is not None and (before.kind, before.units) != (after.kind, after.units):
        parts.insert(0, f"{_shape(before)} -> {_shape(after)}")
    return ", ".join(parts)


def _change(name: str, old: Snapshot, new: Snapshot, before: _Sizes, after: _Sizes) -> LayerChange:
    pairs = [
        (float(flow.weight), float(after[name][key].weight)) for key, flow in before.get(name, {}).items()
    ]
    units = _matched(name, old, new)
    if not pairs and units is None:
        return LayerChange(name, "not compared")
    size = math.hypot(*(a for a, _ in pairs)) or math.hypot(*(b for _, b in pairs)) or 1.0
    by_parameters = math.hypot(*(b - a for a, b in pairs)) / size
    if units is None:
        has_moved = by_parameters > ROUNDING
        return LayerChange(name, "changed" if has_moved else "same", by_parameters, "norms of parameters")
    left, moved = (each / size for each in units)
    change = max(left, by_parameters)
    if change > ROUNDING:
        return LayerChange(name, "changed", change, "norms of units")
    return LayerChange(name, "reordered" if moved > ROUNDING else "same", change, "norms of units")


def _matched(name: str, old: Snapshot, new: Snapshot) -> tuple[float, float] | None:
    """Norm of the differences of unit norms when units are matched, and when their order stands; None: no units."""
    left = moved = 0.0
    before, after = (snapshot.parts(name, "weight", "weights", "signature") for snapshot in (old, new))
    found = False
    for part, signature in after.items():
        earlier = before.get(part)
        if not isinstance(signature, RowSignature) or not isinstance(earlier, RowSignature):
            continue
        if earlier.norms.shape != signature.norms.shape:
            continue
        a, b = earlier.norms.double().numpy(), signature.norms.double().numpy()
        found = True
        left, moved = math.hypot(left, _distance(a, b[partners(a, b)])), math.hypot(moved, _distance(a, b))
    return (left, moved) if found else None


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(b - a))


def partners(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int64]:
    """[n] the unit of ``b`` for each of ``a`` such that the sum of squared differences is smallest."""
    if len(a) > _MOST_MATCHED:
        found = np.empty(len(a), dtype=np.int64)
        found[a.argsort(kind="stable")] = b.argsort(kind="stable")
        return found
    from scipy.optimize import linear_sum_assignment

    columns: NDArray[np.int64] = linear_sum_assignment((a[:, None] - b[None, :]) ** 2)[1]
    return columns


def _findings(old: Report, new: Report) -> tuple[tuple[FindingChange, ...], tuple[FindingChange, ...]]:
    """What appeared, and what is resolved."""
    before, after = _active(old), _active(new)
    return tuple(_only(after, before)), tuple(_only(before, after))


def _active(report: Report) -> dict[str, Finding]:
    every = (finding for top in report.findings for finding in top.walk())
    return {finding.rule: finding for finding in every if finding.is_active}


def _only(here: Mapping[str, Finding], there: Mapping[str, Finding]) -> Iterator[FindingChange]:
    """Findings that hold here and not there, the gravest first."""
    for rule, finding in sorted(here.items(), key=lambda item: (-item[1].severity.rank, item[0])):
        other = there.get(rule)
        known = set(other.layers) if other is not None else set()
        layers = tuple(layer for layer in finding.layers if layer not in known)
        if layers or other is None:
            yield FindingChange(rule, finding.name, finding.severity, layers)
