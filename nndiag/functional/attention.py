"""How sharp a row of attention is."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def normalized_entropy(probabilities: ArrayLike, valid_keys: int) -> float:
    """H / ln n of one row that may look at n keys: 1 uniform, 0 a single key.

    Args:
        probabilities: [keys], summing to one.
        valid_keys: n, at least 2: a row with a single key has no choice.
    """
    p = np.asarray(probabilities, dtype=float)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum() / np.log(valid_keys))


def jacobian_share(probabilities: ArrayLike, valid_keys: int) -> float:
    """(1 - sum p^2) / (1 - 1/n): the share of the softmax Jacobian's trace that is left.

    Args:
        probabilities: [keys], summing to one.
        valid_keys: n, at least 2.
    """
    p = np.asarray(probabilities, dtype=float)
    return float((1 - (p * p).sum()) / (1 - 1 / valid_keys))
