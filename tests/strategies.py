"""Tensors for property tests, and how to make each registered statistic from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from nndiag.functional import tail_edges
from nndiag.statistics import (
    AttentionEntropy,
    BatchDrift,
    BatchLabels,
    BatchMeans,
    Disagreement,
    DropoutUse,
    FeatureScales,
    Histogram,
    Moments,
    NormState,
    ParameterFlow,
    RowSignature,
    Running,
    SampleScales,
    Slope,
    Spectrum,
    Statistic,
    Tails,
    TimeReach,
    UpdateSize,
    WeightLaw,
    centered,
)

TANH = tail_edges("tanh", torch.tanh)


def _attention(x: Tensor) -> AttentionEntropy:
    """Each sample's positions attend to five fixed keys."""
    keys = torch.linspace(-1, 1, 5 * x.shape[-1]).reshape(1, 1, 5, -1).to(x.dtype).sin()
    return AttentionEntropy.of(x.unsqueeze(1), keys)


def _units(x: Tensor) -> Tensor:
    """[C, N * S]: the units of a view as rows."""
    return x.flatten(0, 1).T


def _labels(x: Tensor) -> Statistic:
    labels = BatchLabels.of(x[:, 0, 0].abs().clamp(max=9).long())
    assert labels is not None
    return labels


def _drift(x: Tensor) -> BatchDrift:
    units = x.shape[-1]
    return BatchDrift.of(x, Running(torch.zeros(units), torch.ones(units), torch.tensor(7), 0.1, 1e-5))


def _norm_state(x: Tensor) -> NormState:
    rows = x.flatten(0, 1)
    settings: dict[str, Any] = {"momentum": 0.1, "eps": 1e-5, "training": True, "trainable": None}
    return NormState.of(rows.mean(0), rows.square().mean(0), torch.tensor(len(rows)), **settings)


MAKERS: dict[str, Callable[[Tensor], Statistic]] = {
    "moments": Moments.of,
    "tails": lambda x: Tails.of(x, -0.5, 0.75),
    "slope": lambda x: Slope.of(x, TANH),
    "histogram": Histogram.of,
    "attention_entropy": _attention,
    "disagreement": lambda x: Disagreement.of([x, x.flip(-1), x.square()]),
    "feature_scales": lambda x: FeatureScales.of(centered(x, "layer")),
    "sample_scales": lambda x: SampleScales.of(centered(x, "layer"), 1e-5),
    "batch_drift": _drift,
    "time_reach": TimeReach.of,
    "batch_means": BatchMeans.of,
    "batch_labels": _labels,
    "norm_state": _norm_state,
    "dropout_use": lambda x: DropoutUse.of(len(x) / 10, active=len(x) % 2 == 0),
    "spectrum": Spectrum.of,
    "law": lambda x: WeightLaw.of(_units(x)),
    "signature": lambda x: RowSignature.of(_units(x), _units(x).cos()),
    "flow": lambda x: ParameterFlow.of(_units(x), _units(x).cos()),
    "update": lambda x: UpdateSize.of(x.flatten(), x.flatten().sin()),
}
"""Every registered statistic, made from a view X[N, S, C]."""

NEWEST = frozenset(("law", "signature", "flow", "update", "norm_state", "spectrum"))
"""Readings that are no sums over samples: in a merge the newer one stands."""

IN_ORDER = frozenset(("batch_means", "batch_labels"))
"""Rows of the newest batches: the order of parts is kept."""

OF_BATCHES = frozenset(("batch_drift", "dropout_use"))
"""Sums over batches or calls: the order of parts must not matter; where a batch ends does."""

SUMMED = sorted(set(MAKERS) - NEWEST - IN_ORDER - OF_BATCHES)
"""Statistics of samples: neither the order nor the size of parts must matter. A new one counts as such."""


def make(name: str, x: Tensor) -> Any:
    """The statistic of that name of a view X[N, S, C]."""
    return MAKERS[name](x)


@st.composite
def views(draw: st.DrawFn, samples: st.SearchStrategy[int] | None = None, *, holes: bool = False) -> Tensor:
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
