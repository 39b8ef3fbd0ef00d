"""``NNDIAG=0`` in the environment makes every entry a no-op."""

from __future__ import annotations

import os


def is_enabled() -> bool:
    """Whether nndiag is switched on."""
    return os.environ.get("NNDIAG", "1").strip().lower() not in ("0", "false", "off")
