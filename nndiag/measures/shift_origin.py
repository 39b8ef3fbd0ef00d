"""Shift origin: how much of a layer's movement in one step came in with its inputs. Taken only when named.

With parameters f, f' and inputs a, a' of a layer before and after a step, on the same samples: own = S(f'(a), f(a))
is what the layer's update does to the inputs it had, upstream = S(f'(a'), f'(a)) what the new inputs do to the
updated layer. S is the mean squared Hellinger distance over units, as in ``activation_shift``. Neither f nor its
output need be kept: the moments of f(a) are those of the visit before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.functional import hellinger2
from nndiag.layers import LayerInfo
from nndiag.measures.activation_shift import is_constant
from nndiag.measures.base import Measure, Need, Visit
from nndiag.snapshot import Gap, Snapshot
from nndiag.statistics import Moments

_NAME = "shift_origin"


def read(visit: Visit) -> Iterator[Reading | CoverageEntry]:
    """The upstream share of every layer with weights and every normalization, at second visits of a burst."""
    for info in visit.now.layers.values():
        if info.role not in ("weight", "norm"):
            reason = "neither a layer with weights nor a normalization"
            yield CoverageEntry(info.name, _NAME, "not applicable", reason)
            continue
        item = _read_layer(visit, info)
        yield CoverageEntry(info.name, _NAME, "not observed", item) if isinstance(item, str) else item


def _read_layer(visit: Visit, info: LayerInfo) -> Reading | str:
    """The reading of a layer, or why there is none."""
    now, before = visit.now, visit.previous
    if not now.facts.get("probe_samples") or before is None or now.step - before.step != 1:
        gap = now.gaps.get(Gap(info.name, "output", "probe"))
        return gap or "a shift is divided between two visits of the probe one step apart"
    there, middle, here = (
        _moments(before, info, "moments"),
        _moments(now, info, "moments/unmoved"),
        _moments(now, info, "moments"),
    )
    if there is None or middle is None or here is None or len({int(m.k) for m in (there, middle, here)}) > 1:
        return "only PyTorch's own layers, called once in a pass on one tensor, are run on earlier inputs"
    moments = [(m.mean.numpy(), m.variance.numpy()) for m in (there, middle, here)]
    distances = [hellinger2(*moments[i], *moments[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    known = np.isfinite(distances).all(0) & ~np.all([is_constant(*each) for each in moments], 0)
    own, upstream, total = (float(d[known].mean()) if known.any() else 0.0 for d in distances)
    if own + upstream == 0:
        return "nothing moved"
    detail: dict[str, Scalar] = {"own": own, "upstream": upstream, "total": total}
    share = upstream / (upstream + own)
    return Reading(_NAME, "upstream_share", info.name, now.step, share, None, int(here.k), None, detail)


def _moments(snapshot: Snapshot, info: LayerInfo, statistic: str) -> Moments | None:
    found = snapshot.get(info.name, "output", "probe", statistic)
    return found if isinstance(found, Moments) else None


MEASURE = Measure(
    name=_NAME,
    summary="How much of a layer's shift in one step came in with its inputs, and how much is its own update.",
    needs=frozenset({Need.OUTPUT_MOMENTS, Need.SHIFT_ORIGIN}),
    read=read,
    rules=(),
)
