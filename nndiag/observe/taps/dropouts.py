"""Dropout: whether masks are drawn, and the spectrum of what they are laid on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

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


def _read_dropout(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    setting = _setting(call)
    if setting is None:
        return
    p, active = setting
    reader.file(info.name, "input", "dropout_use", DropoutUse.of(p, active=active))
    tensor = first_tensor((call.args, call.kwargs))
    if reader.observer == "probe" and p > 0 and tensor is not None:
        x = reader.canonical(call.key, info, "input", tensor)
        if x is not None:
            reader.file(info.name, "input", "spectrum", Spectrum.of(x))


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
