"""The files of the page, read once: a closed set of names, so that no path leads anywhere else."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

TYPES = {".js": "text/javascript", ".css": "text/css"}
"""Said here, because the operating system's table of types can be wrong."""


@functools.cache
def load_assets() -> Mapping[str, tuple[bytes, str]]:
    """Content and type by name."""
    found: dict[str, tuple[bytes, str]] = {}
    for file in sorted((resources.files("nndiag.page") / "static").iterdir(), key=lambda f: f.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in TYPES:
            found[file.name] = (file.read_bytes(), TYPES[suffix])
    return found
