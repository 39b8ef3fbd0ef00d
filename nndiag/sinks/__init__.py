"""Where updates and reports go."""

from nndiag.sinks.base import Sink
from nndiag.sinks.console import ConsoleSink
from nndiag.sinks.html import HtmlSink, recorded_page
from nndiag.sinks.jsonl import RecordSink
from nndiag.sinks.loggers import sinks_for
from nndiag.sinks.ranks import own_rank
from nndiag.sinks.recorded import RecordedRun, read_run, rediagnose
from nndiag.sinks.tensorboard import TensorBoardSink, own_writer

__all__ = [
    "ConsoleSink",
    "HtmlSink",
    "RecordSink",
    "RecordedRun",
    "Sink",
    "TensorBoardSink",
    "own_rank",
    "own_writer",
    "read_run",
    "recorded_page",
    "rediagnose",
    "sinks_for",
]
