"""Pure mathematics on numbers and small arrays; nothing here knows a model."""

from nndiag.functional.attention import jacobian_share, normalized_entropy
from nndiag.functional.change_point import Change, last_change
from nndiag.functional.cosine_null import max_cosine_pvalue, max_cosine_quantile
from nndiag.functional.distances import (
    debiased,
    hellinger2,
    hellinger2_floor,
    jeffreys,
    mean_shift,
    scale_shift,
    sigma_equiv,
)
from nndiag.functional.dropout import (
    GRID,
    effective_dof,
    kept_units,
    largest_safe_p,
    variance_shift,
    what_if,
)
from nndiag.functional.homogeneity import Dispersion, Homogeneity, homogeneity, label_dispersion
from nndiag.functional.initialization import (
    LAWS,
    UNKNOWN_LAW,
    Law,
    critical_gain,
    fitting_laws,
    ks_critical,
)
from nndiag.functional.normalization import (
    SignalGain,
    effective_rate,
    ema_batches,
    ema_noise,
    log_scale_spread,
    signal_gain,
    warm_up,
)
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
    "GRID",
    "LAWS",
    "UNKNOWN_LAW",
    "Change",
    "Dispersion",
    "Homogeneity",
    "Law",
    "SignalGain",
    "SymmetryIndex",
    "TailEdges",
    "UnitVerdict",
    "critical_gain",
    "debiased",
    "effective_dof",
    "effective_rate",
    "ema_batches",
    "ema_noise",
    "equal_rows",
    "fitting_laws",
    "gradient_ratios",
    "hellinger2",
    "hellinger2_floor",
    "homogeneity",
    "jacobian_share",
    "jeffreys",
    "judge_units",
    "kept_units",
    "ks_critical",
    "label_dispersion",
    "largest_safe_p",
    "last_change",
    "log_scale_spread",
    "max_cosine_pvalue",
    "max_cosine_quantile",
    "mean_shift",
    "normalized_entropy",
    "scale_shift",
    "sigma_equiv",
    "signal_gain",
    "symmetry_index",
    "tail_edges",
    "total_gain",
    "variance_share",
    "variance_shift",
    "warm_up",
    "what_if",
]
