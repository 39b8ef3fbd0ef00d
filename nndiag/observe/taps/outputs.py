"""Outputs of layers that compute something new: their moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nndiag.layers import LayerInfo, Role
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import Moments

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _read_moments(reader: TapReader, call: Call, info: LayerInfo, output: Any) -> None:
    """In training steps only where no probe looks: real batches differ, and cost more to compare."""
    tensor = first_tensor(output)
    if tensor is None or (reader.observer == "stream" and not reader.stands_in):
        return
    x = reader.canonical(call.key, info, "output", tensor)
    if x is not None:
        reader.file(info.name, "output", "moments", Moments.of(x))


def _read_output_of_batch(reader: TapReader, call: Call, info: LayerInfo, output: Any) -> None:
    if info.is_output:
        _read_moments(reader, call, info, output)


_ROLES: frozenset[Role] = frozenset(("weight", "norm", "recurrent"))

READERS = (
    Reader(Need.OUTPUT_MOMENTS, _ROLES, "after", _read_moments, observers=frozenset(("probe", "stream"))),
    Reader(Need.BATCH_STATISTICS, _ROLES, "after", _read_output_of_batch, variants=frozenset(("batch",))),
)
