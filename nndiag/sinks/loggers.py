"""Which sinks a Lightning Trainer's loggers call for, and what loggers other than TensorBoard's are told.

A logger gets about ten numbers a visit, through its own ``log_metrics``: never ``self.log``, which would put them
among the user's metrics, and never a chart for each layer. Where it can show a table or a text, it gets the findings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nndiag.diagnosis import Update
from nndiag.findings import Severity
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.report.inert import plain_text
from nndiag.sinks.base import Sink
from nndiag.sinks.console import ConsoleSink
from nndiag.sinks.html import HtmlSink
from nndiag.sinks.jsonl import RecordSink
from nndiag.sinks.tensorboard import TensorBoardSink, own_writer
from nndiag.sinks.worst import worst_readings

HEADLINE = (
    "gradient_flow/global_gradient_norm",
    "gradient_flow/update_ratio",
    "saturation/saturated",
    "saturation/dead_share",
    "neuron_symmetry/symmetry_index",
    "activation_shift/step_shift",
    "norm_drift/train_eval_gap",
    "dropout_capacity/effective_dof",
)
"""Readings that stand beside the user's own metrics: with the findings of each severity about ten charts."""

COLUMNS = ("severity", "rule", "finding", "layers", "since step", "status", "what", "what to do")
"""Of the table of findings."""


def headline(update: Update) -> dict[str, float]:
    """Active findings by severity, and the worst value over layers of a few readings."""
    counts = {
        f"findings_{severity}": float(sum(f.is_active and f.severity is severity for f in update.findings))
        for severity in Severity
    }
    worst = worst_readings(update.readings)
    return counts | {name: worst[name] for name in HEADLINE if name in worst}


class MetricsSink(ABC):
    """Tells a logger the headline numbers of each visit, and the findings when they change.

    Each kind of logger has a sink of its own, so that one that fails is switched off without the others.

    Args:
        logger: One of Lightning's, or anything with ``log_metrics(metrics, step)``.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._step = -1
        self._verdicts: list[tuple[str, ...]] | None = None

    def write(self, update: Update) -> None:
        """The numbers; a step that was already told is left out.

        The findings are shown again when there is another one, or one is graver or resolved: not when one has
        spread to more layers, which may happen at every visit.
        """
        if update.step <= self._step:
            return
        self._step = update.step
        self._logger.log_metrics({f"nndiag/{k}": v for k, v in headline(update).items()}, step=update.step)
        verdicts = [(f.rule, f.status, f.severity) for top in update.findings for f in top.walk()]
        before, self._verdicts = self._verdicts, sorted(verdicts)
        if before != self._verdicts:
            run = {"last_step": update.step}
            self._show(Report(update.findings, update.readings, update.coverage, run), update.step)

    def close(self, report: Report) -> None:
        """The findings as the run ended; nothing if nothing was looked at."""
        if self._step >= 0:
            self._show(report, self._step)

    @abstractmethod
    def _show(self, report: Report, step: int) -> None:
        """Shows the findings, where the logger can."""


class PlainLoggerSink(MetricsSink):
    """A logger that knows numbers only, as ``CSVLogger``."""

    def _show(self, report: Report, step: int) -> None:
        """Its counts of findings say that there are some; the record says which."""


class WandbSink(MetricsSink):
    """``WandbLogger``: the findings are the table ``nndiag/findings``."""

    def _show(self, report: Report, step: int) -> None:
        self._logger.log_table("nndiag/findings", columns=list(COLUMNS), data=_rows(report), step=step)


class MLFlowSink(MetricsSink):
    """``MLFlowLogger``: the report is the artifact ``nndiag/report.md``, of which the newest stays."""

    def _show(self, report: Report, step: int) -> None:
        self._logger.experiment.log_text(self._logger.run_id, report.to_markdown(), "nndiag/report.md")


_SINKS = {"WandbLogger": WandbSink, "MLFlowLogger": MLFlowSink}


def sinks_for(trainer: Any, options: MonitorOptions) -> list[Sink]:
    """The sinks of one fit.

    TensorBoard is written through the logger's own writer: a second file in one run directory hides the
    first. The record lies beside it. Other loggers get a few numbers. Without a logger that has a directory, with
    ``fast_dev_run`` and with ``barebones``, nothing is written unless ``log_dir`` says where. A rank above 0
    writes its record only, and only there: where rank 0's logger writes, it does not know.
    """
    silent = bool(trainer.fast_dev_run) or bool(getattr(trainer, "barebones", False))
    loggers = [] if silent else list(trainer.loggers)
    return logger_sinks(loggers, options, int(getattr(trainer, "global_rank", 0)))


def logger_sinks(loggers: Sequence[Any], options: MonitorOptions, rank: int = 0) -> list[Sink]:
    """The sinks of one run, told of what loggers there are.

    Args:
        loggers: Lightning's, or others with ``log_metrics(metrics, step)``.
        options: Of the monitor.
        rank: Of this process.
    """
    if rank:
        return [RecordSink(options.log_dir, rank)] if options.log_dir is not None else []
    writer = next((logger.experiment for logger in loggers if _is_a(logger, "TensorBoardLogger")), None)
    directory = options.log_dir or next(filter(None, map(_directory, loggers)), None)
    sinks: list[Sink] = []
    if writer is not None:
        sinks.append(TensorBoardSink(writer))
    elif options.log_dir is not None:
        sinks.append(TensorBoardSink(own_writer(options.log_dir)))
    sinks += [_sink_of(logger) for logger in loggers if not _is_a(logger, "TensorBoardLogger")]
    if directory is not None:
        sinks.append(RecordSink(directory))
    if options.html and (directory is not None or isinstance(options.html, str)):
        sinks.append(HtmlSink(options.html if isinstance(options.html, str) else None, directory))
    if options.console:
        sinks.append(ConsoleSink())
    return sinks


def _sink_of(logger: Any) -> Sink:
    kinds = (kind for name, kind in _SINKS.items() if _is_a(logger, name))
    return next(kinds, PlainLoggerSink)(logger)


def _is_a(logger: Any, name: str) -> bool:
    """By name: the loggers of Lightning's two namespaces are different classes."""
    return any(kind.__name__ == name for kind in type(logger).__mro__)


def _rows(report: Report) -> list[list[Any]]:
    """A line for each finding, symptoms under their cause."""
    return [
        [
            *(str(finding.severity), finding.rule, finding.name, plain_text(", ".join(finding.layers))),
            *(finding.first_step, finding.status),
            *(plain_text(finding.message), plain_text(finding.recommendation)),
        ]
        for top in report.findings
        for finding in top.walk()
    ]


def _directory(logger: Any) -> str | None:
    """Where a logger writes; an address (``s3://...``) is no place for a file that is opened at each visit."""
    log_dir = getattr(logger, "log_dir", None)
    if not isinstance(log_dir, (str, Path)) or "://" in str(log_dir):
        return None
    return str(Path(log_dir))
