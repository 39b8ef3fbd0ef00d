"""Inputs of activations: tails in real batches too; slopes and histograms on the probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import Histogram, Slope, Tails

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _read_tails(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    edges, tensor = reader.wiring.edges(info.name), first_tensor((call.args, call.kwargs))
    if edges is None or tensor is None or not edges.has_tails:
        return
    x = reader.canonical(call.key, info, "input", tensor)
    if x is None:
        return
    reader.file(info.name, "input", "tails", Tails.of(x, edges.low, edges.high))
    if reader.observer == "probe":
        reader.file(info.name, "input", "slope", Slope.of(x, edges))
        reader.file(info.name, "input", "histogram", Histogram.of(x))


READERS = (
    Reader(
        Need.INPUT_TAILS,
        frozenset(("activation",)),
        "before",
        _read_tails,
        observers=frozenset(("probe", "stream")),
    ),
)
