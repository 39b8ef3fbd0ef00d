"""Checkpoints on disk: checked by the rules of a live run, and compared with each other."""

from nndiag.offline.checking import check
from nndiag.offline.comparing import compare
from nndiag.offline.comparison import Comparison, FindingChange, LayerChange
from nndiag.offline.importing import data_of, lightning_of, model_of
from nndiag.offline.probing import Subject
from nndiag.offline.repairing import check_free, repair

__all__ = [
    "Comparison",
    "FindingChange",
    "LayerChange",
    "Subject",
    "check",
    "check_free",
    "compare",
    "data_of",
    "lightning_of",
    "model_of",
    "repair",
]
