"""``nndiag.check``: the rules of a live run on one checkpoint, or on a series of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from nndiag.checkpoints import find, read_series, reading
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.checkpoints.reading import AnyPath, Progress
from nndiag.diagnosis import Diagnosis
from nndiag.errors import ConfigurationError
from nndiag.findings import Scalar
from nndiag.layers import discover
from nndiag.measures import MEASURES, ON_DEMAND
from nndiag.measures.stored_parameters import ORDER_GIVEN
from nndiag.offline.probing import Forward, Subject, loaded
from nndiag.options import Selection
from nndiag.report import Report
from nndiag.sinks import TensorBoardSink, own_writer
from nndiag.snapshot import Snapshot
from nndiag.switch import is_enabled

_MOST_NAMED = 20


def check(
    paths: AnyPath | Iterable[AnyPath],
    model: nn.Module | None = None,
    data: Iterable[Any] | None = None,
    *,
    forward: Forward | None = None,
    measures: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    select: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """What checkpoints on disk say about a network; nothing in the files is executed.

    Of one checkpoint: repeated units, statistics of normalizations that were never updated, channels that are
    constant, numbers that are not finite, layers no gradient has reached. Of several of one run also what moved
    between them, and what never did. With a model and data, also what the activations of each checkpoint say; that
    runs the model.

    Args:
        paths: A checkpoint, a folder of them, or several, of one run.
        model: Tells the kinds of layers, and is run on ``data`` with the tensors of each checkpoint, in evaluation
            mode; it has its own tensors back in the end.
        data: Yields what the model is called with: of a tuple or list the first element, a mapping as keywords, else
            as it is. Batches are taken until they make up 1,024 samples.
        forward: Called with the model and a batch instead.
        measures: Names; None: all.
        layers: Glob patterns, "!pattern" excludes; None: all.
        select: Rule ids or prefixes to judge, "ND202:backbone.*" for some layers; None: all.
        ignore: As ``select``, for what shall not be judged.
        thresholds: New thresholds by rule id.
        log_dir: Where event files for TensorBoard go; None: nowhere.
        progress: Told after each checkpoint how many are read, of how many, and which was the newest.

    Raises:
        CheckpointError: one cannot be read; the text is one line.
        ConfigurationError: an option is wrong.
    """
    selection = Selection.checked(measures, layers, select, ignore, thresholds)
    if not is_enabled():
        return Report.empty()
    if model is None and (data is not None or forward is not None):
        raise ConfigurationError("`data` and `forward` say how a model is run: `model` is missing.")
    places = find(paths)
    known = None if model is None else discover(model)
    if model is not None and data is None:
        _check_fit(model, places)
    if model is None or data is None:
        read = read_series(places, layers=known, progress=progress)
    else:
        read = _observed(places, Subject(model, data, forward), selection, progress)
    snapshots = plainly_numbered(read)
    selection.check_layers({name for snapshot in snapshots for name in snapshot.layers})
    return judge(snapshots, selection, facts_of(places, snapshots), log_dir)


def _check_fit(model: nn.Module, places: Sequence[Path]) -> None:
    """Says where tensors do not fit; without data nothing else is done with the model."""
    for place in places:
        with loaded(model, place):
            pass


def _observed(
    places: Sequence[Path], subject: Subject, selection: Selection, progress: Progress | None
) -> tuple[Snapshot, ...]:
    """Checkpoints one after the other, each in the model, in the order of their steps."""
    chosen = {**MEASURES, **ON_DEMAND}
    needs = frozenset(need for name in selection.measures or MEASURES for need in chosen[name].needs)
    found = []
    with ReadingProcess() as process:
        for done, place in enumerate(places, 1):
            snapshot = reading.read(place, layers=subject.layers, process=process)
            found.append(subject.observe(snapshot, place, needs, selection.keeps_layer))
            if progress is not None:
                progress(done, len(places), place)
    return reading.ordered(found)


def judge(
    snapshots: Iterable[Snapshot],
    selection: Selection,
    run: Mapping[str, Scalar],
    log_dir: str | os.PathLike[str] | None = None,
) -> Report:
    """The report on snapshots in the order of their steps; each is written to event files on the way."""
    diagnosis = Diagnosis(selection, dict(run))
    sink = None if log_dir is None else TensorBoardSink(own_writer(log_dir))
    for snapshot in snapshots:
        update = diagnosis.add(snapshot)
        if sink is not None:
            sink.write(update)
    report = diagnosis.report()
    if sink is not None:
        sink.close(report)
    return report


def plainly_numbered(snapshots: Sequence[Snapshot]) -> tuple[Snapshot, ...]:
    """Where one checkpoint of a series does not say its step, no number of the series is a step of the run."""
    if len(snapshots) < 2 or all(s.facts.get("step_from") != "unknown" for s in snapshots):
        return tuple(snapshots)
    return tuple(replace(s, facts={**s.facts, "step_from": ORDER_GIVEN}) for s in snapshots)


def facts_of(places: Sequence[Path], snapshots: Sequence[Snapshot]) -> dict[str, Scalar]:
    """What a report says of the files it rests on."""
    origins = {str(snapshot.facts.get("step_from")) for snapshot in snapshots}
    formats = {str(snapshot.facts.get("format")) for snapshot in snapshots}
    facts: dict[str, Scalar] = {
        "source": "checkpoint",
        "files": _listed(str(place) for place in places),
        "format": ", ".join(sorted(formats)),
        "visits": len(snapshots),
        "steps": _listed(str(snapshot.step) for snapshot in snapshots),
        "step_from": ", ".join(sorted(origins)),
    }
    if not origins & {"unknown", ORDER_GIVEN}:
        facts["last_step"] = snapshots[-1].step
    return facts


def _listed(words: Iterable[str]) -> str:
    return ", ".join(_shortened(list(words)))


def _shortened(words: list[str]) -> Iterator[str]:
    yield from words[:_MOST_NAMED]
    if len(words) > _MOST_NAMED:
        yield f"and {len(words) - _MOST_NAMED} more"
