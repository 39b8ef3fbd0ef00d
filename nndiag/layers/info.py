"""LayerInfo: what is known of one layer, in plain types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from nndiag.layers.domains import Domain

Role = Literal["weight", "recurrent", "attention", "embedding", "norm", "dropout", "activation", "softmax"]


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer: a module, or a functional call inside one (``blocks.0.mlp:relu``).

    Attributes:
        name: Qualified name as in ``named_modules()``, wrapper prefixes stripped.
        kind: Class name ("Linear") or canonical functional name ("relu").
        role: What the layer does.
        depth: Place in the order of execution; of registration until execution was seen.
        unit_axis: Axis of units in the layer's output (negative: from the end).
        units: Number of units, where the module says it.
        fan_in: Incoming connections of a unit.
        fan_out: Outgoing connections of an input.
        weight: Name of the weight matrix inside the module, where it is a plain parameter.
        domains: Sets of units that could be swapped without changing the network.
        trainable: Whether any own parameter asks for a gradient.
        activation: Canonical name of the elementwise function; for a weight layer, of the one that reads it.
        edges: Lower and upper edge of the activation's tails; None when it has none on that side.
        bounded: Whether the activation's output is bounded on both sides.
        odd: Whether f(-x) = -f(x), for a weight layer: of the activation that reads it.
        source: The module whose output an activation reads.
        before_norm: Whether a normalization reads this layer's output.
        is_output: Whether nothing of the model reads this layer's output.
        aliases: Other names of the same module or of a layer that shares its parameters.
        inferred: How kind and units were inferred, when there was no module to ask.
    """

    name: str
    kind: str
    role: Role
    depth: int
    unit_axis: int = -1
    units: int | None = None
    fan_in: int | None = None
    fan_out: int | None = None
    weight: str | None = None
    domains: tuple[Domain, ...] = ()
    trainable: bool = True
    activation: str | None = None
    edges: tuple[float | None, float | None] | None = None
    bounded: bool = False
    odd: bool = False
    source: str | None = None
    before_norm: bool = False
    is_output: bool = False
    aliases: tuple[str, ...] = ()
    inferred: str | None = None

    @property
    def place(self) -> str:
        """The module a person would change: the one an activation reads, else the module itself."""
        return self.source or self.name.partition(":")[0] or self.name

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LayerInfo:
        """The inverse of ``dataclasses.asdict`` after a trip through JSON."""
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in record.items() if key in known}
        values["domains"] = tuple(Domain.from_dict(row) for row in record.get("domains", ()))
        values["aliases"] = tuple(record.get("aliases", ()))
        if record.get("edges") is not None:
            values["edges"] = tuple(record["edges"])
        return cls(**values)
