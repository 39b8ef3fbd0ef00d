"""Which sinks a Lightning Trainer's loggers call for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nndiag.options import MonitorOptions
from nndiag.sinks.base import Sink
from nndiag.sinks.console import ConsoleSink
from nndiag.sinks.html import HtmlSink
from nndiag.sinks.jsonl import RecordSink
from nndiag.sinks.tensorboard import TensorBoardSink, own_writer


def sinks_for(trainer: Any, options: MonitorOptions) -> list[Sink]:
    """The sinks of one fit.

    TensorBoard is written through the logger's own writer: a second file in one run directory hides the
    first. The record lies beside it. Without a logger that has a directory, with ``fast_dev_run`` and with
    ``barebones``, nothing is written unless ``log_dir`` says where. A rank above 0 writes its record only, and
    only there: where rank 0's logger writes, it does not know.
    """
    rank = int(getattr(trainer, "global_rank", 0))
    if rank:
        return [RecordSink(options.log_dir, rank)] if options.log_dir is not None else []
    silent = bool(trainer.fast_dev_run) or bool(getattr(trainer, "barebones", False))
    loggers = [] if silent else list(trainer.loggers)
    writer = next((logger.experiment for logger in loggers if _is_tensorboard(logger)), None)
    directory = options.log_dir or next(filter(None, map(_directory, loggers)), None)
    sinks: list[Sink] = []
    if writer is not None:
        sinks.append(TensorBoardSink(writer))
    elif options.log_dir is not None:
        sinks.append(TensorBoardSink(own_writer(options.log_dir)))
    if directory is not None:
        sinks.append(RecordSink(directory))
    if options.html and (directory is not None or isinstance(options.html, str)):
        sinks.append(HtmlSink(options.html if isinstance(options.html, str) else None, directory))
    if options.console:
        sinks.append(ConsoleSink())
    return sinks


def _is_tensorboard(logger: Any) -> bool:
    """By name: the loggers of Lightning's two namespaces are different classes."""
    return any(kind.__name__ == "TensorBoardLogger" for kind in type(logger).__mro__)


def _directory(logger: Any) -> str | None:
    """Where a logger writes; an address (``s3://...``) is no place for a file that is opened at each visit."""
    log_dir = getattr(logger, "log_dir", None)
    if not isinstance(log_dir, (str, Path)) or "://" in str(log_dir):
        return None
    return str(Path(log_dir))
