"""Mergeable sufficient statistics: the only things that hold numbers computed on a device."""

from nndiag.statistics.answers import Answers
from nndiag.statistics.base import STATISTICS, Statistic
from nndiag.statistics.batch_drift import BatchDrift, Running
from nndiag.statistics.batches import BatchLabels, BatchMeans
from nndiag.statistics.disagreement import Disagreement
from nndiag.statistics.dropout import DropoutUse, Spectrum
from nndiag.statistics.entropy import AttentionEntropy
from nndiag.statistics.feature_scales import FeatureScales, Reduction, centered
from nndiag.statistics.flow import ParameterFlow, UpdateSize
from nndiag.statistics.histogram import Histogram
from nndiag.statistics.law import WeightLaw
from nndiag.statistics.moments import Moments
from nndiag.statistics.norm_state import NormState
from nndiag.statistics.sample import strided_sample
from nndiag.statistics.sample_scales import SampleScales
from nndiag.statistics.signature import RowSignature
from nndiag.statistics.slope import Slope
from nndiag.statistics.tails import Tails
from nndiag.statistics.time_reach import TimeReach
from nndiag.statistics.view import Rows, Unreadable, as_reals, canonical, unreadable

__all__ = [
    "STATISTICS",
    "Answers",
    "AttentionEntropy",
    "BatchDrift",
    "BatchLabels",
    "BatchMeans",
    "Disagreement",
    "DropoutUse",
    "FeatureScales",
    "Histogram",
    "Moments",
    "NormState",
    "ParameterFlow",
    "Reduction",
    "RowSignature",
    "Rows",
    "Running",
    "SampleScales",
    "Slope",
    "Spectrum",
    "Statistic",
    "Tails",
    "TimeReach",
    "Unreadable",
    "UpdateSize",
    "WeightLaw",
    "as_reals",
    "canonical",
    "centered",
    "strided_sample",
    "unreadable",
]
