"""Local, regular files, read by position; nothing else is ever opened."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from nndiag.errors import CheckpointError

CHUNK = 1 << 20
"""Bytes that are streamed at a time."""

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


class Region(Protocol):
    """Bytes that lie somewhere in a file, perhaps compressed."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    def read(self, start: int, length: int) -> bytearray:
        """Some of the bytes."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path on this machine.

    Raises:
        CheckpointError: it is the address of something elsewhere, or no path at all.
    """
    text = os.fspath(path)
    if not isinstance(text, str) or "\0" in text or not text:
        raise CheckpointError("is not the path of a file")
    if _URL.match(text) and not Path(text).exists():
        raise CheckpointError("is an address, not a local file: download it first")
    return Path(text)


class PlainFile:
    """A regular file, open for reading.

    Args:
        path: Where it is. Links are followed: whoever named the path chose them.

    Raises:
        CheckpointError: there is none, it is of another kind, or it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _refuse_special(os.stat(path))
            # A pipe that took the file's place meanwhile must not block.
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            self._raw = io.FileIO(os.open(path, flags | getattr(os, "O_NOCTTY", 0)), closefd=True)
        except FileNotFoundError as error:
            raise CheckpointError("does not exist") from error
        except CheckpointError:
            raise
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        found = os.fstat(self._raw.fileno())
        _refuse_special(found)
        self.size = found.st_size

    def read(self, start: int, length: int) -> bytearray:
        """``length`` bytes from ``start`` on.

        Raises:
            CheckpointError: they lie beyond the end.
        """
        if start < 0 or length < 0 or start + length > self.size:
            raise CheckpointError("is cut off: it ends before what it says it holds")
        data = bytearray(length)
        view, done = memoryview(data), 0
        self._raw.seek(start)
        while done < length:
            count = self._raw.readinto(view[done : done + (1 << 30)])
            if not count:
                raise CheckpointError("became shorter while it was read: is something still writing it?")
            done += count
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._raw.close()


class Stretch:
    """Bytes of a file from a place on.

    Args:
        file: The file.
        start: Where they begin.
        size: How many they are.
    """

    def __init__(self, file: Region, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > file.size:
            raise CheckpointError("is cut off: it ends before what it says it holds")
        self._file, self._start, self.size = file, start, size

    def read(self, start: int, length: int) -> bytearray:
        """``length`` bytes from ``start`` on."""
        if start < 0 or length < 0 or start + length > self.size:
            raise CheckpointError("holds a tensor that reaches beyond its own bytes")
        return self._file.read(self._start + start, length)


def _refuse_special(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise CheckpointError("is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError("is a pipe, a socket or a device, not a regular file")
