"""Dropout's effective capacity: how much a layer can still say when part of its units is dropped.

Units are kept with probability q = 1 - p. Counting kept units, or the 2^N masks, is blind to redundancy; the
effective degrees of freedom d_eff = sum_i lam_i / (lam_i + p / q), over the spectrum of the scaled covariance of
the layer's activations, are those of the ridge regression that training with dropout amounts to.

Sources: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting"; Wager,
Wang, Liang 2013, "Dropout training as adaptive regularization"; Li et al. 2019, "Understanding the disharmony
between dropout and batch normalization by variance shift".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.functional import GRID, effective_dof, kept_units, what_if
from nndiag.layers import LayerInfo
from nndiag.measures.base import Measure, Need, Visit
from nndiag.measures.dropout_rules import RULES
from nndiag.measures.norm_warm_up import is_warming_up
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import Disagreement, DropoutUse, Moments, NormState, Spectrum

_NAME = "dropout_capacity"


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """Readings of every dropout layer, and of the batch normalization behind one."""
    now = visit.now
    for info in now.layers.values():
        if info.role == "dropout":
            yield from _read_dropout(now, info)
        elif info.role in ("recurrent", "attention"):
            yield from _read_fused(now, info)
        elif info.role == "norm":
            yield from _read_norm(now, info)
        else:
            yield CoverageEntry(info.name, _NAME, "not applicable", "not a dropout")
    for key, found in now.statistics.items():
        if isinstance(found, Disagreement) and key.statistic == "disagreement":
            detail: dict[str, Scalar] = {"masks": int(found.masks), "layer": key.layer}
            rows = int(found.rows)
            yield Reading(
                _NAME, "disagreement", None, now.step, found.rate, 1 / max(1, rows), rows, detail=detail
            )


def _use(now: Snapshot, info: LayerInfo) -> DropoutUse | None:
    """How the layer was called: in training where that was seen, else in the probe's evaluation."""
    for observer in ("stream", "probe"):
        found = now.get(info.name, "input", observer, "dropout_use")
        if isinstance(found, DropoutUse):
            return found
    return None


def _read_dropout(now: Snapshot, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    use = _use(now, info)
    if use is None:
        yield CoverageEntry(info.name, _NAME, "not observed", _why(now, info))
        return
    yield from _read_mode(now, info, use)
    spectrum = now.get(info.name, "input", "probe", "spectrum")
    if use.rate == 0 or not isinstance(spectrum, Spectrum):
        why = "p is 0" if use.rate == 0 else _why(now, info)
        yield CoverageEntry(info.name, _NAME, "not applicable" if use.rate == 0 else "not observed", why)
        return
    yield from _read_capacity(now, info, use.rate, spectrum)


def _why(now: Snapshot, info: LayerInfo) -> str:
    gaps = (now.gaps.get(Gap(info.name, "input", observer)) for observer in ("probe", "stream"))
    return next((gap for gap in gaps if gap), "not called in the observed steps")


def _read_capacity(now: Snapshot, info: LayerInfo, p: float, spectrum: Spectrum) -> Iterator[Reading]:
    units, rows = int(spectrum.units), int(spectrum.rows)
    kept = kept_units(units, p)
    detail: dict[str, Scalar] = {
        "p": p,
        "units": units,
        "alive": int(spectrum.alive),
        "sd": round(kept.sd, 4),
    }
    detail |= {
        "all_off": kept.none,
        "acts_on_output": _acts_on_output(now, info),
        "hidden_behind": _behind(now, info),
    }
    yield Reading(_NAME, "kept_units", info.name, now.step, kept.mean, None, rows, None, detail)
    yield Reading(_NAME, "log2_subnetworks", info.name, now.step, kept.log2_subnetworks, n=rows)
    yield Reading(_NAME, "entropy_bits", info.name, now.step, kept.entropy_bits, n=rows)
    values = spectrum.eigenvalues
    dof = effective_dof(values, p)
    curve: dict[str, Scalar] = {
        f"at p={each:g}": round(left, 3) for each, left in what_if(values, GRID).items()
    }
    facts = detail | curve | {"upper": upper_end(dof, rows), "positions": int(spectrum.positions)}
    facts |= {"separable": int(spectrum.samples) > 1, "bn_warmup": is_warming_up(now, info)}
    error = upper_end(dof, rows) - dof
    yield Reading(_NAME, "effective_dof", info.name, now.step, dof, error, rows, None, facts)


def upper_end(dof: float, rows: int) -> float:
    """What d_eff may be at most, given that few samples make it too small: d / (1 - d / n).

    For 64 independent units at p = 0.5 (exactly 32), 32 samples give 18.3, 64 give 24.2, 128 give 28.0 and 1,024
    give 31.5 on average. The spectrum of n samples acts like the true one under a larger penalty k, where
    k (1 - d / n) = p / q; a penalty that is c times smaller raises d by c at most.

    Args:
        dof: d_eff as measured.
        rows: n samples.
    """
    return dof / max(1e-9, 1 - dof / max(1, rows))


def _behind(now: Snapshot, info: LayerInfo) -> int:
    """Layers with weights between a dropout and the output layer."""
    after = [each for each in now.layers.values() if each.depth > info.depth and not each.is_output]
    return sum(each.role in ("weight", "recurrent", "attention") for each in after)


def _acts_on_output(now: Snapshot, info: LayerInfo) -> bool:
    """Whether it reads the output layer and nothing with parameters comes after it."""
    source = now.layers.get(info.source or "")
    rest = [each for each in now.layers.values() if each.depth > info.depth]
    is_last = not any(each.role in ("weight", "recurrent", "attention", "norm") for each in rest)
    return source is not None and source.is_output and is_last


def _read_mode(now: Snapshot, info: LayerInfo, use: DropoutUse) -> Iterator[Reading]:
    """How it is set; masks in evaluation, and their absence in training."""
    yield Reading(_NAME, "drop_probability", info.name, now.step, use.rate, n=int(use.calls))
    evaluated = now.get(info.name, "input", "probe", "dropout_use")
    trained = now.get(info.name, "input", "stream", "dropout_use")
    if isinstance(evaluated, DropoutUse) and evaluated.rate > 0:
        share = int(evaluated.active) / int(evaluated.calls)
        yield Reading(_NAME, "active_in_eval", info.name, now.step, share, detail={"p": evaluated.rate})
    if isinstance(trained, DropoutUse) and trained.rate > 0:
        own = info.role != "dropout" and info.kind != "scaled_dot_product_attention"
        upstream = any(
            each.trainable and each.role in ("weight", "recurrent", "attention")
            for each in now.layers.values()
            if each.depth < info.depth or (own and each is info)
        )
        share = 1 - int(trained.active) / int(trained.calls)
        detail: dict[str, Scalar] = {"p": trained.rate, "trainable_before": upstream}
        yield Reading(_NAME, "idle_in_training", info.name, now.step, share, detail=detail)


def _read_fused(now: Snapshot, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    use = _use(now, info)
    if use is None or not int(use.fused):
        yield CoverageEntry(info.name, _NAME, "not applicable", "no dropout of its own was seen")
        return
    yield from _read_mode(now, info, use)
    if info.role == "recurrent" and info.units and use.rate > 0:
        kept = kept_units(info.units, use.rate)
        facts: dict[str, Scalar] = {"p": use.rate, "units": info.units, "acts_on_output": False}
        yield Reading(_NAME, "kept_units", info.name, now.step, kept.mean, detail=facts)
    why = (
        f"masks are drawn inside a fused kernel (p = {use.rate:g}): neither they nor their input can be seen"
    )
    yield CoverageEntry(info.name, _NAME, "not observed", why)


def _read_norm(now: Snapshot, info: LayerInfo) -> Iterator[Reading | CoverageEntry]:
    """The variance a batch normalization has learned under dropout, against the one it meets without."""
    dropout = _dropout_before(now, info)
    if dropout is None:
        yield CoverageEntry(info.name, _NAME, "not applicable", "not a dropout")
        return
    state = next(
        (s for k, s in now.statistics.items() if k.layer == info.name and isinstance(s, NormState)), None
    )
    met = now.get(info.name, "input", "probe", "moments/batch")
    if state is None or not len(state.variance) or not isinstance(met, Moments):
        return
    learned, without = state.variance, met.variance
    known = (learned > 1e-12) & (without > 1e-12) & (met.n > 1)
    if not bool(known.any()) or not _is_settled(state):
        return
    ratio = float(torch.median((without / learned)[known]))
    detail: dict[str, Scalar] = {
        "dropout": dropout.name,
        "p": _rate(now, dropout),
        "channels": int(known.sum()),
    }
    yield Reading(_NAME, "variance_shift", info.name, now.step, ratio, None, int(met.k), None, detail)


def _is_settled(state: NormState) -> bool:
    """Whether the running statistics have forgotten their start."""
    momentum, tracked = float(state.momentum), int(state.tracked)
    return not 0 < momentum < 1 or tracked < 0 or tracked >= math.log(0.01) / math.log1p(-momentum)


def _rate(now: Snapshot, info: LayerInfo) -> float:
    use = _use(now, info)
    return use.rate if use is not None else 0.0


def _dropout_before(now: Snapshot, info: LayerInfo) -> LayerInfo | None:
    """The nearest dropout ahead of a norm in order of execution, without another norm in between."""
    ahead = sorted(
        (each for each in now.layers.values() if each.depth < info.depth), key=lambda each: -each.depth
    )
    for each in ahead:
        if each.role == "norm":
            return None
        if each.role == "dropout" and _rate(now, each) > 0:
            return each
    return None


MEASURE = Measure(
    name=_NAME,
    summary="What dropout leaves of a layer: kept units, effective degrees of freedom, disagreement of its masks.",
    needs=frozenset({Need.DROPOUT_INPUTS, Need.DROPOUT_MASKS, Need.NORM_STATE, Need.BATCH_STATISTICS}),
    read=read,
    rules=RULES,
    worst={
        "kept_units": "low",
        "effective_dof": "low",
        "entropy_bits": "low",
        "log2_subnetworks": "low",
        "variance_shift": "far from one",
    },
)
