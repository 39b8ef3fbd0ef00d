"""The files of the page, read once: a closed set of names, so that no path leads anywhere else."""

from __future__ import annotations

from importlib import resources

TYPES = {".js": "text/javascript", ".css": "text/css"}
"""Said here, because the operating system's table of types can be wrong."""


def load_assets() -> dict[str, tuple[bytes, str]]:
    """Content and type by route."""
    found: dict[str, tuple[bytes, str]] = {}
    for file in sorted((resources.files("nndiag.dashboard") / "static").iterdir(), key=lambda f: f.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in TYPES:
            found[f"/static/{file.name}"] = (file.read_bytes(), TYPES[suffix])
    return found
