"""Second visits of a burst: outputs of layers that are given their inputs of the step before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.statistics import Moments

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _read_unmoved(reader: TapReader, call: Call, info: LayerInfo, output: Any) -> None:
    tensor = reader.burst.take(call.key) if reader.burst is not None else None
    x = None if tensor is None else reader.canonical(call.key, info, "output", tensor)
    if x is not None:
        reader.file(info.name, "output", "moments/unmoved", Moments.of(x))


READERS = (Reader(Need.SHIFT_ORIGIN, frozenset(("weight", "norm")), "after", _read_unmoved),)
