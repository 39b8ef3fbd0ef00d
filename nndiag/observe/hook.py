"""A hook that no copy of a model inherits."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_INERT = functools.partial(sys.audit, "nndiag.inert_hook")
"""Takes anything, does nothing, returns None; a model saved with it loads where nndiag is not installed."""


class Hook:
    """A module hook; a model that is copied or pickled while it is on gets one that does nothing.

    Args:
        function: What to call.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> None:
        """Calls the function."""
        self._function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _INERT

    def __reduce__(self) -> tuple[Any, ...]:
        return _INERT.__class__, (sys.audit, *_INERT.args)
