"""Mergeable sufficient statistics: the only things that hold numbers computed on a device."""

from nndiag.statistics.base import STATISTICS, Statistic
from nndiag.statistics.disagreement import Disagreement
from nndiag.statistics.entropy import AttentionEntropy
from nndiag.statistics.histogram import Histogram
from nndiag.statistics.law import WeightLaw
from nndiag.statistics.moments import Moments
from nndiag.statistics.signature import RowSignature
from nndiag.statistics.slope import Slope
from nndiag.statistics.tails import Tails
from nndiag.statistics.view import Rows, Unreadable, canonical, unreadable

__all__ = [
    "STATISTICS",
    "AttentionEntropy",
    "Disagreement",
    "Histogram",
    "Moments",
    "RowSignature",
    "Rows",
    "Slope",
    "Statistic",
    "Tails",
    "Unreadable",
    "WeightLaw",
    "canonical",
    "unreadable",
]
