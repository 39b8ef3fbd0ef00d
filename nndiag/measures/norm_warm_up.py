"""Running statistics that still remember their start: evaluation, and so each replay, sees that too."""

from __future__ import annotations

from nndiag.functional import warm_up
from nndiag.layers import LayerInfo
from nndiag.snapshot import Snapshot
from nndiag.statistics import NormState


def is_warming_up(now: Snapshot, info: LayerInfo) -> bool:
    """Whether those at or before this layer do; it takes ``Need.NORM_STATE``."""
    upstream = {name for name, each in now.layers.items() if each.depth <= info.depth}
    states = [s for key, s in now.statistics.items() if isinstance(s, NormState) and key.layer in upstream]
    return any(
        0 <= int(state.tracked) < warm_up(float(state.momentum))
        for state in states
        if 0 < float(state.momentum) < 1
    )
