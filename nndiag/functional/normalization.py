"""What normalization does to statistics, and what it leaves of unlike features.

Sources: Ioffe, Szegedy 2015, "Batch normalization"; Ba, Kiros, Hinton 2016, "Layer normalization"; Salimans,
Kingma 2016, "Weight normalization"; van Laarhoven 2017, "L2 regularization versus batch and weight
normalization".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONSTANT = 1e-12
"""A feature whose variance is below this share of the largest one does not tell samples apart."""


def ema_noise(momentum: float) -> float:
    """Variance of a running mean over that of one batch's mean: a / (2 - a).

    Args:
        momentum: a, the weight of the newest batch; 1 / t after t batches of a cumulative average.
    """
    return momentum / (2 - momentum)


def ema_batches(momentum: float) -> float:
    """How many batches of equal weight are as good as the running average: (2 - a) / a.

    Args:
        momentum: a, above 0.
    """
    return (2 - momentum) / momentum if momentum > 0 else math.inf


def warm_up(momentum: float, share: float = 0.01) -> float:
    """Batches until the initial value weighs less than ``share`` in a running average: (1 - a)^t < share.

    Args:
        momentum: a; at 0 the initial value stays for ever.
        share: What may be left of it.
    """
    if momentum >= 1:
        return 1.0
    return math.ceil(math.log(share) / math.log1p(-momentum)) if momentum > 0 else math.inf


class SignalGain(NamedTuple):
    """What layer normalization leaves of the part of each feature that tells samples apart.

    Attributes:
        gamma: Typical size of that part after normalization: 1 all features alike, 0.1 most of them enter
            the next layer as a signal of size 0.1.
        scales: The factor due to unlike scales, sqrt(GM(s^2) / AM(s^2)).
        offsets: eta^2, the share of the energy that is constant offset; its factor is sqrt(1 - eta^2).
        constant: Features that do not vary at all, left out of the geometric mean.
        largest: The feature with the largest variance.
        share: Its share of the variance of all features.
    """

    gamma: float
    scales: float
    offsets: float
    constant: int
    largest: int
    share: float


def signal_gain(means: ArrayLike, variances: ArrayLike) -> SignalGain:
    """Gamma = sqrt(GM_h(s_h^2) / (mean_h s_h^2 + mean_h m_h^2)) = scales sqrt(1 - offsets).

    By the inequality of the means at most 1, where no feature is constant.

    Args:
        means: [H] mean over samples of each feature, after centering within each sample where the layer
            centers (then mean_h m_h^2 is their variance over features); RMS normalization does not.
        variances: [H] variance over samples, likewise.
    """
    m, v = np.asarray(means, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    largest = int(v.argmax())
    varying = v > CONSTANT * v[largest]
    signal, offset = float(v.mean()), float(np.square(m).mean())
    if not varying.any():
        return SignalGain(0.0, 0.0, 1.0 if offset > 0 else 0.0, len(v), largest, 0.0)
    typical = math.exp(float(np.log(v[varying]).mean()))
    return SignalGain(
        gamma=math.sqrt(typical / (signal + offset)),
        scales=math.sqrt(typical / signal),
        offsets=offset / (signal + offset),
        constant=int((~varying).sum()),
        largest=largest,
        share=float(v[largest] / v.sum()),
    )


def log_scale_spread(features: int) -> float:
    """Standard deviation over samples of ln sigma, for independent Gaussian features: 1 / sqrt(2 H).

    Args:
        features: H.
    """
    return 1 / math.sqrt(2 * features)


def effective_rate(first_norm: float, norm: float) -> float:
    """(|w_0| / |w|)^2: what is left of a step's size where only the direction of w counts.

    A gradient at c w is 1 / c of that at w, and turns it by 1 / c of that again.

    Args:
        first_norm: Norm at the start.
        norm: Norm now.
    """
    return (first_norm / norm) ** 2 if norm > 0 else math.inf
