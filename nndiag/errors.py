"""Every exception nndiag raises on purpose.

NNDiagError
├── ConfigurationError            an option is wrong (also a ValueError)
├── IncompatibleStatisticsError   two statistics or files cannot be combined (also a ValueError)
├── CheckpointError               a file cannot be read (also a ValueError)
└── MissingDependencyError        an optional package is not installed (also an ImportError)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_LISTED = 40
"""Known names that a message lists: a network may have thousands of layers."""


class NNDiagError(Exception):
    """Base of every exception nndiag raises on purpose."""


class ConfigurationError(NNDiagError, ValueError):
    """An option has a value that cannot be used."""

    @classmethod
    def unknown(cls, argument: str, value: object, known: Iterable[str]) -> ConfigurationError:
        """Names the argument, the known values, and the nearest one."""
        names = sorted(str(name) for name in known if str(name))
        near = _nearest(str(value), names)
        hint = f" Did you mean {near!r}?" if near is not None else ""
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        listed = f" Expected one of: {', '.join(names[:_LISTED])}{more}." if names else ""
        return cls(f"`{argument}`: {value!r} is not known.{hint}{listed}")

    @classmethod
    def expected(cls, argument: str, expected: str, value: object) -> ConfigurationError:
        """Names the argument, what was expected, and what came."""
        return cls(f"`{argument}` must be {expected}, got {value!r}.")


class IncompatibleStatisticsError(NNDiagError, ValueError):
    """Two statistics, snapshots or files cannot be combined."""


class CheckpointError(NNDiagError, ValueError):
    """A checkpoint or recorded run cannot be read."""


class MissingDependencyError(NNDiagError, ImportError):
    """An optional package is needed and not installed; the message holds the pip line."""


def _nearest(value: str, names: Sequence[str]) -> str | None:
    """The name most like a value, of equals the first; None where none is like it."""
    matcher = difflib.SequenceMatcher(b=value)
    best, found = 0.4, None
    for name in names:
        matcher.set_seq1(name)
        bounds = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)
        if all(bound() > best for bound in bounds):
            best, found = matcher.ratio(), name
    return found
