"""Initialization laws: the law that a weight was drawn from is among those kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nndiag.functional import LAWS, Law, critical_gain, fitting_laws, ks_critical
from nndiag.statistics import WeightLaw

CUT_STD = stats.truncnorm.std(-2, 2)
SHAPES = [(10, 16), (64, 27), (128, 128), (256, 784)]
UNIT = {
    "uniform": lambda rng, shape: rng.uniform(-math.sqrt(3), math.sqrt(3), shape),
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "truncated": lambda rng, shape: stats.truncnorm.rvs(-2, 2, size=shape, random_state=rng) / CUT_STD,
}


def laws_of(weight: Tensor) -> list[str]:
    """What is said of a weight [out, in, ...]."""
    law = WeightLaw.of(weight)
    distances = {name: float(getattr(law, name)) for name in ("uniform", "normal", "truncated")}
    field = weight[0, 0].numel()
    fans = weight.shape[1] * field, weight.shape[0] * field
    return fitting_laws(float(law.std), int(law.entries), distances, int(law.sampled), *fans)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_the_true_law_is_kept(law: Law, shape: tuple[int, int]) -> None:
    for seed in range(5):
        unit = UNIT[law.family](np.random.default_rng(seed), shape)
        weight = torch.from_numpy(unit * law.std(shape[1], shape[0])).float()
        assert law.name in laws_of(weight), seed


@pytest.mark.parametrize(
    ("name", "fill"),
    [
        ("torch default (uniform in +-1/sqrt(fan_in))", lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5))),
        ("LeCun normal", lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear")),
        ("LeCun uniform", lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear")),
        ("Xavier uniform", nn.init.xavier_uniform_),
        ("Xavier normal", nn.init.xavier_normal_),
        ("He uniform (fan_in)", lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu")),
        ("He normal (fan_in)", lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
        ("He normal (fan_out)", lambda w: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")),
        ("normal, std 0.02", lambda w: nn.init.normal_(w, std=0.02)),
        ("normal, std 0.02", lambda w: nn.init.trunc_normal_(w, std=0.02)),
        ("normal, std 0.01", lambda w: nn.init.normal_(w, std=0.01)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(60, 100), (32, 16, 3, 3)], ids=["linear", "convolution"])
def test_what_torch_draws_is_recognized(name: str, fill, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert name in laws_of(fill(torch.empty(shape)))


@pytest.mark.parametrize("layer", [lambda: nn.Linear(100, 60), lambda: nn.Conv2d(16, 32, 3)])
def test_the_default_of_torch_is_like_no_other(layer) -> None:
    torch.manual_seed(0)
    assert laws_of(layer().weight.detach()) == [LAWS[0].name]


def test_square_layers_do_not_tell_xavier_from_lecun() -> None:
    torch.manual_seed(0)
    kept = laws_of(nn.init.xavier_uniform_(torch.empty(128, 128)))
    assert kept == ["LeCun uniform", "Xavier uniform"]


def test_a_trained_weight_fits_no_law() -> None:
    heavy = torch.from_numpy(stats.t.rvs(3, size=(60, 100), random_state=np.random.default_rng(0)))
    assert laws_of(heavy / heavy.std() / 10) == []


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_another_scale_fits_no_law(factor: float) -> None:
    torch.manual_seed(0)
    assert laws_of(nn.Linear(100, 60).weight.detach() * factor) == []


@pytest.mark.parametrize(
    ("std", "entries", "sampled"), [(0.0, 10, 10), (0.1, 0, 0), (math.nan, 10, 10), (math.inf, 10, 10)]
)
def test_nothing_to_fit(std: float, entries: int, sampled: int) -> None:
    distances = dict.fromkeys(("uniform", "normal", "truncated"), 0.0)
    assert fitting_laws(std, entries, distances, sampled, 4, 4) == []


@pytest.mark.parametrize("samples", [20, 100, 1000, 20_000])
@pytest.mark.parametrize("alpha", [1e-3, 0.05])
def test_kolmogorov_smirnov_limit(samples: int, alpha: float) -> None:
    assert ks_critical(samples, alpha) == pytest.approx(stats.kstwo.isf(alpha, samples), rel=0.02)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [(None, 1), ("tanh", 1), ("softsign", 1), ("relu", 2), ("ReLU", 2), ("gelu", 2), ("sigmoid", 16)],
)
def test_critical_gain(activation: str | None, gain: float) -> None:
    assert critical_gain(activation) == gain


def test_gains_of_the_laws() -> None:
    gains = {law.name: 64 * law.std(64, 64) ** 2 for law in LAWS}
    assert gains[LAWS[0].name] == pytest.approx(1 / 3)
    for name in ("LeCun uniform", "LeCun normal", "Xavier uniform", "Xavier normal"):
        assert gains[name] == pytest.approx(critical_gain("tanh"))
    for name in ("He uniform (fan_in)", "He normal (fan_in)", "He normal (fan_out)"):
        assert gains[name] == pytest.approx(critical_gain("relu"))
