"""Symmetry domains: which numbers belong to one unit, and which units could be swapped.

Two units of a domain that have equal incoming weights and receive equal gradients stay equal for ever. A
domain lists the parameters that make up a unit and how to cut each into one row a unit. Sources: Goodfellow,
Bengio, Courville 2016, "Deep Learning", 6.2 and 8.2 (weight-space symmetry).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """One parameter's share of a domain.

    ``view`` names the cut (a key of ``VIEWS``); ``start`` and ``stop`` bound the slice of axis 0 that the
    domain uses, None meaning all; ``blocks`` is the number of gates or heads the cut needs.
    """

    parameter: str
    view: str
    start: int | None = None
    stop: int | None = None
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Domain:
    """A set of interchangeable units: ``name`` is empty for a layer's only domain."""

    name: str
    parts: tuple[Part, ...]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Domain:
        """The inverse of ``dataclasses.asdict``."""
        return cls(record["name"], tuple(Part(**part) for part in record["parts"]))


def _rows(tensor: Tensor, blocks: int) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1)


def _columns(tensor: Tensor, blocks: int) -> Tensor:
    return tensor.transpose(0, 1).reshape(tensor.shape[1], -1)


def _gates(tensor: Tensor, blocks: int) -> Tensor:
    """[gates * H, d] -> [H, gates * d]: a unit is the same row of every gate."""
    return tensor.reshape(blocks, tensor.shape[0] // blocks, -1).transpose(0, 1).flatten(1)


def _gates_recurrent(tensor: Tensor, blocks: int) -> Tensor:
    """[gates * H, H] -> [H, 2 * gates]: self-weight and row sum of each gate.

    Both survive a swap of hidden units, which permutes rows and columns together; full rows would not.
    """
    per_gate = tensor.reshape(blocks, tensor.shape[0] // blocks, -1)
    diagonal = torch.diagonal(per_gate, dim1=1, dim2=2)
    return torch.cat([diagonal, per_gate.sum(2)]).transpose(0, 1)


def _heads(tensor: Tensor, blocks: int) -> Tensor:
    """[heads * size, ...] -> [heads, size * ...]."""
    return tensor.reshape(blocks, -1)


def _head_columns(tensor: Tensor, blocks: int) -> Tensor:
    """[D, heads * size] -> [heads, size * D]."""
    return tensor.transpose(0, 1).reshape(blocks, -1)


VIEWS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "rows": _rows,
    "columns": _columns,
    "gates": _gates,
    "gates_recurrent": _gates_recurrent,
    "heads": _heads,
    "head_columns": _head_columns,
}


def unit_rows(domain: Domain, lookup: Callable[[str], Tensor | None]) -> Tensor | None:
    """The unit matrix [units, d] of a domain.

    Args:
        domain: Which parameters, cut how.
        lookup: Gives a parameter (or its gradient) by its name inside the layer; None where it has none.

    Returns:
        One row a unit, or None when ``lookup`` has nothing for some part.
    """
    rows = []
    for part in domain.parts:
        tensor = lookup(part.parameter)
        if tensor is None:
            return None
        cut = tensor if part.start is None and part.stop is None else tensor[part.start : part.stop]
        rows.append(VIEWS[part.view](cut, part.blocks))
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
