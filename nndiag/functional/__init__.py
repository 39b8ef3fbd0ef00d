"""Pure mathematics on numbers and small arrays; nothing here knows a model."""

from nndiag.functional.attention import jacobian_share, normalized_entropy
from nndiag.functional.cosine_null import max_cosine_pvalue, max_cosine_quantile
from nndiag.functional.initialization import LAWS, Law, critical_gain, fitting_laws, ks_critical
from nndiag.functional.orbits import (
    SymmetryIndex,
    UnitVerdict,
    equal_rows,
    judge_units,
    symmetry_index,
)
from nndiag.functional.propagation import gradient_ratios, total_gain, variance_share
from nndiag.functional.tails import ELEMENTWISE, TailEdges, tail_edges

__all__ = [
    "ELEMENTWISE",
    "LAWS",
    "Law",
    "SymmetryIndex",
    "TailEdges",
    "UnitVerdict",
    "critical_gain",
    "equal_rows",
    "fitting_laws",
    "gradient_ratios",
    "jacobian_share",
    "judge_units",
    "ks_critical",
    "max_cosine_pvalue",
    "max_cosine_quantile",
    "normalized_entropy",
    "symmetry_index",
    "tail_edges",
    "total_gain",
    "variance_share",
]
