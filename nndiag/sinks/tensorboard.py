"""TensorBoard: one event a visit, a few scalars, the report under Text, histograms where something is wrong.

Hundreds of charts help nobody, and load slowly. A reading is one scalar, its worst value over layers; the
layers themselves are in what the dashboard draws (``tab.py``), in the report and in the record.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiag import compat
from nndiag.diagnosis import Update
from nndiag.findings import Finding, Severity
from nndiag.report import Report
from nndiag.sinks.tab import TabData, stable_tag
from nndiag.sinks.tensorboard_links import with_links
from nndiag.sinks.worst import worst_readings
from nndiag.statistics import Histogram

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

TEXT_TAG = "nndiag/report/text_summary"
MAX_SCALARS = 60
MAX_HISTOGRAMS = 8


class TensorBoardSink:
    """Writes to a ``SummaryWriter``, torch's or tensorboardX's.

    Args:
        writer: The writer, or a function that opens one, given the first step.
    """

    def __init__(self, writer: Any) -> None:
        self._open: Callable[[int], Any] | None = writer if callable(writer) else None
        self._writer = None if callable(writer) else writer
        self._tags: set[str] = set()
        self._tab = TabData()
        self._critical: frozenset[str] = frozenset()
        self._step = -1

    def write(self, update: Update) -> None:
        """Writes one event; a step that was already written is left out, because x axes must go on.

        A finding that has become critical is flushed at once: the run may not live much longer.
        """
        if update.step <= self._step:
            return
        if self._writer is None and self._open is not None:
            self._writer = self._open(update.step)
        compat.write_summary(self._writer, self._summary(update), update.step)
        self._step = update.step
        every = (finding for top in update.findings for finding in top.walk())
        critical = frozenset(f.rule for f in every if f.is_active and f.severity is Severity.CRITICAL)
        if self._writer is not None and critical - self._critical:
            self._writer.flush()
        self._critical = critical

    def close(self, report: Report) -> None:
        """Writes the report as it ended, and flushes the writer; closes it if it was opened here."""
        if self._writer is None:
            return
        if report.readings:
            from tensorboard.compat.proto.summary_pb2 import Summary

            ending = self._tab.ending(report, compat.event_writer(self._writer))
            summary = Summary(value=[self._report(report), *ending])
            compat.write_summary(self._writer, summary, self._step + 1)
        self._writer.flush()
        if self._open is not None:
            self._writer.close()
            self._writer = None

    def _summary(self, update: Update) -> Summary:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in self._scalars(update)]
        if update.changed or self._step < 0:
            report = Report(update.findings, update.readings, update.coverage, {"last_step": update.step})
            values.append(self._report(report))
        values += [_histogram(tag, histogram) for tag, histogram in _histograms(update)]
        values += self._tab.values(update, compat.event_writer(self._writer))
        return Summary(value=values)

    def _report(self, report: Report) -> Summary.Value:
        locate = getattr(compat.event_writer(self._writer), "get_logdir", None)
        directory = str(locate()) if callable(locate) else None
        return _text(with_links(report.to_markdown(), report.findings, directory))

    def _scalars(self, update: Update) -> Iterator[tuple[str, float]]:
        """Findings by severity and the worst readings; the tags that came first stay."""
        for severity in Severity:
            count = sum(finding.is_active and finding.severity is severity for finding in update.findings)
            yield f"nndiag_summary/findings_{severity}", float(count)
        room = MAX_SCALARS - len(Severity)
        for name, value in worst_readings(update.readings).items():
            tag = stable_tag(f"nndiag_summary/{name}")
            if tag in self._tags or len(self._tags) < room:
                self._tags.add(tag)
                yield tag, value


def own_writer(log_dir: str | os.PathLike[str]) -> Callable[[int], Any]:
    """A function that opens a writer of nndiag's own in ``<log_dir>/nndiag``, given its first step.

    It has its own directory, because a second file in one directory hides the first from TensorBoard. Events
    that an earlier session left from that step on are marked as void.
    """

    def open_writer(step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(Path(log_dir) / "nndiag"), purge_step=step)

    return open_writer


def _text(markdown: str) -> Summary.Value:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    plugin = SummaryMetadata.PluginData(plugin_name="text")
    return Summary.Value(
        tag=TEXT_TAG,
        metadata=SummaryMetadata(plugin_data=plugin),
        tensor=TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape),
    )


def _histograms(update: Update) -> Iterator[tuple[str, Histogram]]:
    """Inputs of activations at the layers that active findings name; the probe's before the stream's."""
    if update.snapshot is None:
        return
    named = {layer for top in update.findings for layer in _active_layers(top)}
    found: dict[str, Histogram] = {}
    for key, statistic in sorted(update.snapshot.statistics.items(), key=lambda item: item[0].observer):
        info = update.layers.get(key.layer)
        if isinstance(statistic, Histogram) and info is not None and {info.place, info.name} & named:
            found.setdefault(stable_tag(f"nndiag_{key.tap}s/{key.layer}"), statistic)
    filled = ((tag, histogram) for tag, histogram in found.items() if int(histogram.counts.sum()))
    yield from list(filled)[:MAX_HISTOGRAMS]


def _active_layers(finding: Finding) -> Iterator[str]:
    for each in finding.walk():
        if each.is_active:
            yield from each.layers


def _histogram(tag: str, histogram: Histogram) -> Summary.Value:
    """Empty outer bins are left out: TensorBoard moves the outermost edges to the extremes."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

    counts, edges = histogram.counts.tolist(), histogram.edges()
    filled = [place for place, count in enumerate(counts) if count]
    first, last = filled[0], filled[-1]
    proto = HistogramProto(
        min=float(histogram.minimum),
        max=float(histogram.maximum),
        num=sum(counts),
        sum=float(histogram.total),
        sum_squares=float(histogram.squares),
        bucket_limit=edges[first + 1 : last + 2],
        bucket=counts[first : last + 1],
    )
    return Summary.Value(tag=tag, histo=proto)
