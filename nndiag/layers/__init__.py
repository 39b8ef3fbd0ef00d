"""What a network is made of: layers, their units, and which units are interchangeable."""

from nndiag.layers.discover import discover, discover_state_dict, strip_wrappers
from nndiag.layers.domains import Domain, Part, unit_rows
from nndiag.layers.info import LayerInfo, Role

__all__ = [
    "Domain",
    "LayerInfo",
    "Part",
    "Role",
    "discover",
    "discover_state_dict",
    "strip_wrappers",
    "unit_rows",
]
