"""Inputs of activations: tails in real batches too; slopes and histograms on the probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nndiag.functional import TailEdges
from nndiag.layers import LayerInfo, Role
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import Histogram, Slope, Tails

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _tailed(reader: TapReader, call: Call, info: LayerInfo) -> tuple[TailEdges, Tensor] | None:
    """An activation with tails, and X[N, S, C] of its input."""
    edges, tensor = reader.wiring.edges(info.name), first_tensor((call.args, call.kwargs))
    if edges is None or tensor is None or not edges.has_tails:
        return None
    x = reader.canonical(call.key, info, "input", tensor)
    return None if x is None else (edges, x)


def _read_tails(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    found = _tailed(reader, call, info)
    if found is None:
        return
    edges, x = found
    reader.file(info.name, "input", "tails", Tails.of(x, edges.low, edges.high))
    if reader.observer == "probe":
        reader.file(info.name, "input", "histogram", Histogram.of(x))


def _read_slope(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    found = _tailed(reader, call, info)
    if found is not None:
        edges, x = found
        reader.file(info.name, "input", "slope", Slope.of(x, edges))


_ROLES: frozenset[Role] = frozenset(("activation",))

READERS = (
    Reader(Need.INPUT_TAILS, _ROLES, "before", _read_tails, observers=frozenset(("probe", "stream"))),
    Reader(Need.INPUT_TAILS, _ROLES, "before", _read_slope, runs_model=True),
)
