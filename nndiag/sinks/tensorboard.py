"""TensorBoard: one event a visit, a few scalars, the report under Text, histograms where something is wrong.

Hundreds of charts help nobody. Readings are written as the worst value over layers; the layers themselves are
in the record and the report.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from nndiag import compat
from nndiag.diagnosis import Update
from nndiag.findings import Finding, Reading, Severity
from nndiag.report import Report
from nndiag.snapshot import Snapshot
from nndiag.statistics import Histogram

_LOWER_IS_WORSE = frozenset(
    [
        "distinct_share",
        "effective_width",
        "transmission",
        "variance_share",
        "signal_share",
        "gradient_gain",
        "attention_entropy",
        "mean_square_gradient",
        "gradient_ratio",
    ]
)
"""Readings whose worst value over layers is the smallest; of all others it is the largest."""

_MAX_HISTOGRAMS = 8
_TAG = 200


class TensorBoardSink:
    """Writes to a ``SummaryWriter``, torch's or tensorboardX's.

    Args:
        writer: The writer, or a function that makes one at the first visit.
    """

    def __init__(self, writer: Any) -> None:
        self._open: Callable[[], Any] = writer if callable(writer) else lambda: writer
        self._owned = callable(writer)
        self._writer: Any = None
        self._critical: frozenset[str] = frozenset()
        self._step = -1

    def write(self, update: Update) -> None:
        """One event; a new critical finding is flushed at once."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            self._writer = self._open()
        if update.step <= self._step:  # a second fit in one directory: x axes must go on
            return
        self._step = update.step
        values = list(_scalars(update))
        if update.changed:
            report = Report(update.findings, update.readings, update.coverage, {"last_step": update.step})
            values += _text("nndiag/report", report.to_markdown())
        if update.snapshot is not None:
            values += _histograms(update.findings, update.snapshot)
        compat.event_writer(self._writer).add_summary(Summary(value=values), update.step)
        critical = frozenset(
            f.rule for f in update.findings if f.is_active and f.severity is Severity.CRITICAL
        )
        if critical - self._critical:
            self._writer.flush()
        self._critical = critical

    def close(self, report: Report) -> None:
        """Flushes; closes a writer of nndiag's own."""
        if self._writer is None:
            return
        self._writer.flush()
        if self._owned:
            self._writer.close()


def own_writer(log_dir: str) -> Callable[[], Any]:
    """Opens a writer of nndiag's own when the first event is written."""

    def open_writer() -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(log_dir=log_dir)

    return open_writer


def _scalars(update: Update) -> Iterable[Any]:
    from torch.utils.tensorboard.summary import scalar

    for severity in Severity:
        count = sum(f.is_active and f.severity is severity for f in update.findings)
        yield from scalar(f"nndiag_summary/findings_{severity}", count).value
    for name, value in _worst(update.readings).items():
        if math.isfinite(value):
            yield from scalar(_tag(f"nndiag_summary/{name}"), value).value


def _worst(readings: Iterable[Reading]) -> dict[str, float]:
    """The worst value over layers of each reading; facts of the run are not readings of a measure."""
    worst: dict[str, float] = {}
    for reading in readings:
        if reading.measure in ("run", "coverage"):
            continue
        name = f"{reading.measure}/{reading.name}"
        pick = min if reading.name in _LOWER_IS_WORSE else max
        worst[name] = pick(worst.get(name, reading.value), reading.value)
    return worst


def _text(tag: str, markdown: str) -> list[Any]:
    from torch.utils.tensorboard.summary import text

    return list(text(tag, markdown).value)


def _histograms(findings: Iterable[Finding], snapshot: Snapshot) -> list[Any]:
    """Inputs of activations at the layers that active findings name."""
    named = {layer for top in findings for f in top.walk() if f.is_active for layer in f.layers}
    values: list[Any] = []
    for key, statistic in snapshot.statistics.items():
        info = snapshot.layers.get(key.layer)
        if not isinstance(statistic, Histogram) or info is None or not {info.place, info.name} & named:
            continue
        if len(values) < _MAX_HISTOGRAMS:
            values += _histogram(_tag(f"nndiag_inputs/{key.layer}"), statistic)
    return values


def _histogram(tag: str, histogram: Histogram) -> list[Any]:
    """Empty outer bins are left out: TensorBoard moves the outermost edges to the extremes."""
    from torch.utils.tensorboard.summary import histogram_raw

    counts, edges = histogram.counts.tolist(), histogram.edges()
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return []
    first, last = filled[0], filled[-1]
    proto = histogram_raw(
        tag,
        float(histogram.minimum),
        float(histogram.maximum),
        sum(counts),
        float(histogram.total),
        float(histogram.squares),
        edges[first + 1 : last + 2],
        counts[first : last + 1],
    )
    return list(proto.value)


def _tag(name: str) -> str:
    """Names of layers may be long or strange; tags must be short, plain, and still distinct."""
    plain = re.sub(r"[^A-Za-z0-9_./:#-]", "_", name)
    if plain == name and len(name) <= _TAG:
        return name
    return f"{plain[: _TAG - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
