"""Inputs of normalization layers: batches against running statistics, scales of features and of samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from nndiag.layers import LayerInfo, Role
from nndiag.measures import Need
from nndiag.observe.buffers import Norm, norm_of
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import (
    BatchDrift,
    BatchMeans,
    FeatureScales,
    Moments,
    SampleScales,
    Unreadable,
    centered,
    unreadable,
)

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _input_of(reader: TapReader, call: Call) -> tuple[Norm, Tensor] | None:
    """The normalization of a call and what it is given; None inside another normalization layer."""
    owner = reader.wiring.layers.get(call.owner) if call.module is None else None
    norm, tensor = norm_of(call), first_tensor((call.args, call.kwargs))
    if norm is None or tensor is None or (owner is not None and owner.role == "norm"):
        return None
    return norm, tensor


def _read_drift(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    """Before the running statistics take the batch in."""
    found = _input_of(reader, call)
    if found is None or found[0].running is None:
        return
    running, tensor = found[0].running, found[1]
    if isinstance(running, Unreadable):
        reader.gap(info.name, "input", running.reason)
        return
    x = reader.canonical(call.key, info, "input", tensor) if tensor.dim() > 1 else None
    if x is None or x.shape[0] * x.shape[1] < 2:
        return
    if x.shape[2] != len(running.mean) or len(running.mean) != len(running.variance):
        reader.gap(info.name, "input", "its channels are not those of its running statistics")
        return
    reader.file(info.name, "input", "batch_drift", BatchDrift.of(x, running))


def _read_scales(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    """What layer, RMS and group normalization squeeze into one scale; in training only without a probe."""
    found = _input_of(reader, call)
    if found is None or (reader.observer == "stream" and not reader.stands_in):
        return
    norm, tensor = found
    if norm.reduction == "batch":
        return
    if norm.reduction != "group":
        last = tensor if unreadable(tensor) else _features_last(tensor, norm.features)
        if last is None:
            reader.gap(info.name, "input", "its features cannot be told from the shape of its input")
            return
        info, tensor = replace(info, unit_axis=-1), last
    x = reader.canonical(call.key, info, "input", tensor)
    if x is None or x.shape[2] % norm.groups:
        return
    is_group = norm.reduction == "group"
    clean = centered(x, norm.reduction, norm.groups)
    reader.file(
        *(info.name, "input", "sample_scales"), SampleScales.of(clean, norm.eps, over_positions=is_group)
    )
    if clean.shape[3] > 1:
        reader.file(info.name, "input", "feature_scales", FeatureScales.of(clean))


def _features_last(x: Tensor, features: int | None) -> Tensor | None:
    """The input with the features on its last axis: trailing axes as one, or the channels of an image."""
    if features is None or x.dim() < 2:
        return None
    size = 1
    for axis in range(x.dim() - 1, 0, -1):
        size *= x.shape[axis]
        if size == features:
            return x.flatten(axis)
    return x.movedim(1, -1) if x.shape[1] == features else None


def _read_population(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    """The moments that running statistics should have, at the present weights."""
    found = _input_of(reader, call)
    if found is None or found[0].reduction != "batch":
        return
    x = reader.canonical(call.key, info, "input", found[1])
    if x is not None:
        reader.file(info.name, "input", "moments", Moments.of(x))


def _read_batch_means(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    """What each training batch holds on average, where the network is given it."""
    tensor = first_tensor((call.args, call.kwargs))
    if tensor is None or not tensor.is_floating_point() or not reader.wiring.reads_input(info.name):
        return
    if reader.canonical(call.key, info, "input", tensor) is not None and tensor.dim() > 1:
        reader.file(info.name, "input", "batch_means", BatchMeans.of(tensor))


_NORM: frozenset[Role] = frozenset(("norm",))
_READERS_OF_INPUT: frozenset[Role] = frozenset(("weight", "norm", "recurrent"))

READERS = (
    Reader(Need.NORM_INPUTS, _NORM, "before", _read_drift, observers=frozenset(("stream",))),
    Reader(Need.NORM_INPUTS, _NORM, "before", _read_scales, observers=frozenset(("probe", "stream"))),
    Reader(Need.BATCH_STATISTICS, _NORM, "before", _read_population, variants=frozenset(("batch",))),
    Reader(
        *(Need.BATCH_MEANS, _READERS_OF_INPUT, "before", _read_batch_means),
        observers=frozenset(("stream",)),
    ),
)
