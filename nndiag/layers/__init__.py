"""What a network is made of: layers, their units, and which units are interchangeable."""

from nndiag.layers.discover import discover, named_layers, strip_wrappers
from nndiag.layers.domains import Domain, Part, unit_rows
from nndiag.layers.info import LayerInfo, Role
from nndiag.layers.state_dict import discover_state_dict

__all__ = [
    "Domain",
    "LayerInfo",
    "Part",
    "Role",
    "discover",
    "discover_state_dict",
    "named_layers",
    "strip_wrappers",
    "unit_rows",
]
