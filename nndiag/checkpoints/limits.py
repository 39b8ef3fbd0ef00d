"""How much of the machine reading one checkpoint may take."""

from __future__ import annotations

import contextlib
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import resource

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one child process.

    Attributes:
        memory: Bytes of address space beyond what the process has when it begins to read.
        seconds: Processor time.
        patience: Wall time.
        output: Bytes of what it writes.
    """

    memory: int
    seconds: int
    patience: int
    output: int = _GIB

    @classmethod
    def for_size(cls, size: int) -> Limits:
        """Enough for any checkpoint whose largest file has so many bytes, too little for what only pretends."""
        seconds = 30 + size // (20 << 20)
        return cls(memory=_GIB + 3 * size, seconds=seconds, patience=30 + 4 * seconds)

    def impose(self) -> tuple[str, ...]:
        """Puts this process under the limits; says which the platform does not have."""
        if sys.platform == "win32":
            return ("this platform limits neither memory nor processor time: only the wall time was limited",)
        held = _address_space()
        is_limited = held is not None and _set(resource.RLIMIT_AS, held + self.memory)
        _set(resource.RLIMIT_CPU, self.seconds)
        _set(resource.RLIMIT_FSIZE, self.output)
        _set(resource.RLIMIT_CORE, 0)
        signal.alarm(max(1, self.patience))
        return () if is_limited else ("this platform does not limit memory: only time was limited",)


if sys.platform != "win32":

    def _address_space() -> int | None:
        """Bytes of address space in use; None where the system does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
            return int(pages) * resource.getpagesize()
        return None

    def _set(kind: int, value: int) -> bool:
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(kind)
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (limit, limit))
            return True
        return False
