"""Tensors for property tests, and how to make each registered statistic from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from nndiag.functional import tail_edges
from nndiag.statistics import (
    STATISTICS,
    AttentionEntropy,
    Disagreement,
    Histogram,
    Moments,
    ParameterFlow,
    RowSignature,
    Slope,
    Statistic,
    Tails,
    UpdateSize,
    WeightLaw,
)

TANH = tail_edges("tanh", torch.tanh)


def _attention(x: Tensor) -> AttentionEntropy:
    """Each sample's positions attend to five fixed keys."""
    keys = torch.linspace(-1, 1, 5 * x.shape[-1]).reshape(1, 1, 5, -1).to(x.dtype).sin()
    return AttentionEntropy.of(x.unsqueeze(1), keys)


def _units(x: Tensor) -> Tensor:
    """[C, N * S]: the units of a view as rows."""
    return x.flatten(0, 1).T


MAKERS: dict[str, Callable[[Tensor], Statistic]] = {
    "moments": Moments.of,
    "tails": lambda x: Tails.of(x, -0.5, 0.75),
    "slope": lambda x: Slope.of(x, TANH),
    "histogram": Histogram.of,
    "attention_entropy": _attention,
    "disagreement": lambda x: Disagreement.of([x, x.flip(-1), x.square()]),
    "law": lambda x: WeightLaw.of(_units(x)),
    "signature": lambda x: RowSignature.of(_units(x), _units(x).cos()),
    "flow": lambda x: ParameterFlow.of(_units(x), _units(x).cos()),
    "update": lambda x: UpdateSize.of(x.flatten(), x.flatten().sin()),
}
"""Every registered statistic, made from a view X[N, S, C]."""

NEWEST = frozenset(("law", "signature", "flow", "update"))
"""Readings of parameters: they are no samples, and in a merge the newer one stands."""

SUMMED = sorted(set(STATISTICS) - NEWEST)
"""Statistics of samples: the order and the size of parts must not matter."""


def make(name: str, x: Tensor) -> Any:
    """The statistic of that name of a view X[N, S, C]."""
    if name not in MAKERS:
        pytest.fail(f"statistic {name!r} is new: say in tests/strategies.py how it is made from a view")
    return MAKERS[name](x)


@st.composite
def views(
    draw: st.DrawFn, samples: st.SearchStrategy[int] | None = None, *, holes: bool = False
) -> Tensor:
    """X[N, S, C] in float64: normal, rectified, constant, far from zero, or of unlike scales.

    Args:
        draw: Given by hypothesis.
        samples: N.
        holes: Whether NaN and infinities may be among the entries; each sample keeps its last position.
    """
    shape = (draw(samples or st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    return _filled(draw, shape, holes)


@st.composite
def parts(draw: st.DrawFn, *, holes: bool = False, empty: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Three views of the same layer, of unequal numbers of samples.

    Args:
        draw: Given by hypothesis.
        holes: As in ``views``.
        empty: Whether a part may hold no sample.
    """
    positions, units = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    sizes = [draw(st.integers(0 if empty else 1, 6)) for _ in range(3)]
    first, second, third = (_filled(draw, (size, positions, units), holes) for size in sizes)
    return first, second, third


def _filled(draw: st.DrawFn, shape: tuple[int, int, int], holes: bool) -> Tensor:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = torch.from_numpy(rng.standard_normal(shape))
    kind = draw(st.sampled_from(["normal", "rectified", "constant", "far", "scales"]))
    if kind == "rectified":
        x = x.relu()
    elif kind == "constant":
        x = torch.full_like(x, 0.25)
    elif kind == "far":
        x = x * 0.01 + 100
    elif kind == "scales":
        x = x * torch.logspace(-3, 3, shape[-1], dtype=x.dtype)
    if holes and shape[1] > 1:
        where = torch.from_numpy(rng.random(shape) < 0.2)
        where[:, -1] = False
        x = x.masked_fill(where, draw(st.sampled_from([torch.nan, torch.inf, -torch.inf])))
    return x


def partition(labels: Any) -> list[int]:
    """Class labels in order of first appearance: two labelings are equal when their partitions are."""
    seen: dict[int, int] = {}
    return [seen.setdefault(int(label), len(seen)) for label in labels]
