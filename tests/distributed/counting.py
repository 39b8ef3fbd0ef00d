"""Counts every collective that a process takes part in."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist
from torch.distributed import ProcessGroup, distributed_c10d

FUNCTIONS = (
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "all_to_all"),
    *("all_to_all_single", "barrier", "broadcast", "broadcast_object_list", "gather", "gather_object"),
    *("irecv", "isend", "monitored_barrier", "new_group", "recv", "reduce", "reduce_scatter"),
    *("reduce_scatter_tensor", "scatter", "scatter_object_list", "send"),
    *("all_gather_single", "reduce_scatter_single"),  # what fully_shard calls, in newer versions
)
METHODS = (
    *("allgather", "allreduce", "alltoall", "alltoall_base", "barrier", "broadcast", "gather", "recv"),
    *("reduce", "reduce_scatter", "scatter", "send", "_allgather_base", "_reduce_scatter_base"),
    *("all_gather_single", "reduce_scatter_single"),
)


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """By name of function and method, and what C++ started on its own as "sequence"."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    homes: list[tuple[Any, str, str]] = [(distributed_c10d, name, name) for name in FUNCTIONS]
    homes += [(dist, name, "") for name in FUNCTIONS]
    homes += [(ProcessGroup, name, f"ProcessGroup.{name}") for name in METHODS]
    homes = [(home, name, label) for home, name, label in homes if name in vars(home)]
    originals = [(home, name, vars(home)[name]) for home, name, _ in homes]  # as they are stored, not bound
    before = _sequences()
    for home, name, label in homes:
        setattr(home, name, _counting(getattr(home, name), label or name, counts, inside))
    try:
        yield counts
    finally:
        for home, name, original in originals:
            setattr(home, name, original)
        counts["sequence"] = _sequences() - before


def _counting(
    function: Callable[..., Any], name: str, counts: Counter[str], inside: set[str]
) -> Callable[..., Any]:
    """A call that torch hands back to the same function (under a mode, for one) is one call."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in inside:
            return function(*args, **kwargs)
        counts[name] += 1
        inside.add(name)
        try:
            return function(*args, **kwargs)
        finally:
            inside.discard(name)

    return call


def _sequences() -> int:
    """Collectives of all groups so far, those that DDP's reducer starts included."""
    groups = list(distributed_c10d._world.pg_map)
    return sum(group._get_sequence_number_for_group() for group in groups)
