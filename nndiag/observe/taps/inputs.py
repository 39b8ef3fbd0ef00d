"""The network's own input: what its first layers are given, untouched by any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import Moments

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _read_input(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    tensor = first_tensor((call.args, call.kwargs))
    if tensor is None or not tensor.is_floating_point() or not reader.wiring.reads_input(info.name):
        return
    x = reader.canonical(call.key, info, "input", tensor)
    if x is not None:
        reader.file(info.name, "input", "moments", Moments.of(x))


READERS = (
    Reader(
        Need.NETWORK_INPUT,
        frozenset(("weight", "norm", "recurrent")),
        "before",
        _read_input,
        observers=frozenset(("probe", "stream")),
    ),
)
