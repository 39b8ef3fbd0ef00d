"""Dropout: whether masks are drawn, and the spectrum of what they are laid on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.attention import bound_arguments
from nndiag.observe.taps.table import Observer, Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import DropoutUse, Spectrum

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader

_BOTH: frozenset[Observer] = frozenset(("probe", "stream"))

_UNBATCHED = {"dropout1d": 2, "dropout2d": -1, "dropout3d": 4, "featurealphadropout": -1}
"""Dropouts of whole channels, and the number of axes from which their input is a single sample."""


def _read_dropout(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    setting = _setting(call)
    if setting is None:
        return
    p, active = setting
    reader.file(info.name, "input", "dropout_use", DropoutUse.of(p, active=active))
    tensor = first_tensor((call.args, call.kwargs))
    if reader.observer == "probe" and p > 0 and tensor is not None:
        placed = replace(info, unit_axis=_unit_axis(reader, info, tensor))
        x = reader.canonical(call.key, placed, "input", tensor)
        if x is not None:
            reader.file(info.name, "input", "spectrum", Spectrum.of(x))


def _unit_axis(reader: TapReader, info: LayerInfo, tensor: Tensor) -> int:
    """Where the units are: the channels that are dropped as a whole, else where the newest layer put its own.

    Behind a pooling, for one, the layer that a dropout reads is not known by its tensor.
    """
    kind = info.kind.lower().replace("_", "")
    if kind in _UNBATCHED:
        return 0 if tensor.dim() == _UNBATCHED[kind] else 1
    if info.source is not None:
        return info.unit_axis
    ahead = [
        each
        for each in reader.wiring.layers.values()
        if each.depth < info.depth and each.role in ("weight", "norm")
    ]
    axis = max(ahead, key=lambda each: each.depth).unit_axis if ahead else -1
    return axis if -tensor.dim() <= axis < tensor.dim() and tensor.dim() > 2 else -1


def _setting(call: Call) -> tuple[float, bool] | None:
    """Probability of being dropped, and whether a mask is drawn in this call."""
    if call.module is not None:
        own = call.module.__dict__
        p = own.get("p")
        return (float(p), bool(own.get("training"))) if isinstance(p, (int, float)) else None
    p = call.args[1] if len(call.args) > 1 else call.kwargs.get("p", 0.5)
    flag = call.args[2] if len(call.args) > 2 else call.kwargs.get("training", call.kwargs.get("train", True))
    return (float(p), bool(flag)) if isinstance(p, (int, float)) else None


def _read_fused(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    """Recurrent layers and attention draw inside their kernels."""
    p, active = 0.0, False
    if isinstance(call.module, nn.RNNBase):
        own = call.module.__dict__
        p = float(own["dropout"]) if own["num_layers"] > 1 else 0.0
        active = bool(own["training"])
    elif call.module is None:
        given = bound_arguments(call)
        p = float(given.get("dropout_p") or 0.0)
        active = bool(given.get("training", True))
    if p > 0:
        use = DropoutUse.of(p, active=active, fused=True)
        reader.file(info.name, "input", "dropout_use", use)


READERS = (
    Reader(Need.DROPOUT_INPUTS, frozenset(("dropout",)), "before", _read_dropout, observers=_BOTH),
    Reader(
        Need.DROPOUT_INPUTS, frozenset(("recurrent", "attention")), "before", _read_fused, observers=_BOTH
    ),
)
