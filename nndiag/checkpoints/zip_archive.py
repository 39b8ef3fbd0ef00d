"""The directory of a zip archive and its entries, read without trusting a number in it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from nndiag.checkpoints.files import CHUNK, PlainFile
from nndiag.errors import CheckpointError

_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_LONGEST_COMMENT = 65535
_LARGEST_DIRECTORY = 128 << 20
_MOST_ENTRIES = 500_000
_STORED, _DEFLATED = 0, 8
_BOMB = 1100
"""Deflate makes nothing more than 1,032 times smaller."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the directory.

    Attributes:
        name: As written.
        header: Where its local header lies.
        packed: Bytes in the file.
        size: Bytes when unpacked.
        crc: Checksum of the unpacked bytes.
        is_deflated: Whether it is compressed.
    """

    name: str
    header: int
    packed: int
    size: int
    crc: int
    is_deflated: bool


class Archive:
    """A zip archive.

    Args:
        file: The file it is in.

    Raises:
        CheckpointError: it is cut off, damaged, or made to mislead.
    """

    def __init__(self, file: PlainFile) -> None:
        self.file = file
        self.entries: dict[str, Entry] = {}
        for entry in _directory(file):
            if entry.name in self.entries:
                raise CheckpointError("is a zip archive with two entries of one name")
            self.entries[entry.name] = entry
        _refuse_overlaps(list(self.entries.values()), file.size)
        self._verified: set[str] = set()
        self._unpacked: tuple[str, bytearray] | None = None

    def region(self, name: str) -> ArchiveRegion:
        """The bytes of an entry."""
        return ArchiveRegion(self, self.entries[name])

    def read(self, entry: Entry, start: int, length: int) -> bytearray:
        """Bytes of an entry, whose checksum is verified before any of them are believed."""
        if start < 0 or length < 0 or start + length > entry.size:
            raise CheckpointError("holds a tensor that reaches beyond its own bytes")
        if entry.is_deflated:
            return self._inflated(entry)[start : start + length]
        data = self.file.read(self._begin(entry) + start, length)
        if entry.name not in self._verified:
            self._verify(entry, zlib.crc32(data) if length == entry.size else self._stream_crc(entry))
        return data

    def _stream_crc(self, entry: Entry) -> int:
        begin, crc = self._begin(entry), 0
        for at in range(0, entry.size, CHUNK):
            crc = zlib.crc32(self.file.read(begin + at, min(CHUNK, entry.size - at)), crc)
        return crc

    def _verify(self, entry: Entry, crc: int) -> None:
        if crc != entry.crc:
            raise CheckpointError(
                "is damaged, or was saved without checksums: an entry does not match its checksum"
            )
        self._verified.add(entry.name)

    def _inflated(self, entry: Entry) -> bytearray:
        """All of a compressed entry; the newest stays unpacked."""
        if self._unpacked is not None and self._unpacked[0] == entry.name:
            return self._unpacked[1]
        self._unpacked = None
        begin, data, done = self._begin(entry), bytearray(entry.size), 0
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for at in range(0, entry.packed, CHUNK):
                waiting: bytes = bytes(self.file.read(begin + at, min(CHUNK, entry.packed - at)))
                while waiting:
                    piece = machine.decompress(waiting, CHUNK)
                    if done + len(piece) > entry.size:
                        raise CheckpointError("is a zip archive that unpacks to more than it says")
                    data[done : done + len(piece)] = piece
                    done += len(piece)
                    waiting = machine.unconsumed_tail
        except zlib.error as error:
            raise CheckpointError("is damaged: an entry cannot be unpacked") from error
        if done != entry.size:
            raise CheckpointError("is damaged: an entry unpacks to less than it says")
        self._verify(entry, zlib.crc32(data))
        self._unpacked = (entry.name, data)
        return data

    def _begin(self, entry: Entry) -> int:
        """Where the bytes of an entry begin: behind its own header, whose lengths may differ from the directory's."""
        head = self.file.read(entry.header, 30)
        if head[:4] != _LOCAL:
            raise CheckpointError("is a damaged zip archive: an entry is not where its directory says")
        name, extra = struct.unpack("<HH", head[26:30])
        begin = entry.header + 30 + int(name) + int(extra)
        if begin + entry.packed > self.file.size:
            raise CheckpointError("is cut off: an entry of the zip archive reaches beyond its end")
        return begin


class ArchiveRegion:
    """The bytes of one entry."""

    def __init__(self, archive: Archive, entry: Entry) -> None:
        self._archive, self._entry, self.size = archive, entry, entry.size

    def read(self, start: int, length: int) -> bytearray:
        """``length`` bytes from ``start`` on."""
        return self._archive.read(self._entry, start, length)


def _directory(file: PlainFile) -> list[Entry]:
    count, size, offset = _find_directory(file)
    if size > _LARGEST_DIRECTORY or count > _MOST_ENTRIES:
        raise CheckpointError("is a zip archive with an absurdly large directory")
    data = file.read(offset, size)
    entries, at = [], 0
    for _ in range(count):
        if data[at : at + 4] != _CENTRAL or at + 46 > size:
            raise CheckpointError("is a damaged zip archive: its directory is cut off")
        entry, at = _entry(data, at)
        entries.append(entry)
    return entries


def _find_directory(file: PlainFile) -> tuple[int, int, int]:
    """Number of entries, size and place of the directory."""
    reach = min(file.size, 22 + _LONGEST_COMMENT)
    tail = file.read(file.size - reach, reach)
    at = tail.rfind(_END)
    if at < 0 or at + 22 > reach:
        raise CheckpointError("is a zip archive that is cut off: its directory is missing")
    count, size, offset = struct.unpack("<HII", tail[at + 10 : at + 20])
    end = file.size - reach + at
    if end >= 20:
        locator = file.read(end - 20, 20)
        if locator[:4] == _LOCATOR:
            (place,) = struct.unpack("<Q", locator[8:16])
            record = file.read(place, 56)
            if record[:4] != _END64:
                raise CheckpointError("is a damaged zip archive: its directory is not where it says")
            count, size, offset = struct.unpack("<QQQ", record[32:56])
            end = place
    if offset + size > end:
        raise CheckpointError("is a damaged zip archive: its directory is not where it says")
    return count, size, offset


def _entry(data: bytearray, at: int) -> tuple[Entry, int]:
    """The entry of the directory at a place, and where the next one begins."""
    flags, method = struct.unpack("<HH", data[at + 8 : at + 12])
    crc, packed, size = struct.unpack("<III", data[at + 16 : at + 28])
    name_size, extra_size, comment_size = struct.unpack("<HHH", data[at + 28 : at + 34])
    (header,) = struct.unpack("<I", data[at + 42 : at + 46])
    after = at + 46 + name_size + extra_size + comment_size
    if after > len(data):
        raise CheckpointError("is a damaged zip archive: its directory is cut off")
    name = bytes(data[at + 46 : at + 46 + name_size]).decode("utf-8", "backslashreplace")
    extra = bytes(data[at + 46 + name_size : at + 46 + name_size + extra_size])
    size, packed, header = _wide(extra, size, packed, header)
    if flags & 1:
        raise CheckpointError("is an encrypted zip archive")
    if method not in (_STORED, _DEFLATED):
        raise CheckpointError(f"is a zip archive with an unknown kind of compression ({method})")
    if method == _STORED and packed != size:
        raise CheckpointError("is a damaged zip archive: the sizes of an entry disagree")
    if size > _BOMB * packed + CHUNK:
        raise CheckpointError("is a zip archive with an entry of an impossible size")
    return Entry(name, header, packed, size, crc, method == _DEFLATED), after


def _wide(extra: bytes, *fields: int) -> list[int]:
    """Sizes and place with those of the zip64 field put in where 32 bits did not do."""
    wanted, at = list(fields), 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if kind == 1:
            body, place = extra[at + 4 : at + 4 + length], 0
            for index, value in enumerate(wanted):
                if value == 0xFFFFFFFF and place + 8 <= len(body):
                    (wanted[index],) = struct.unpack("<Q", body[place : place + 8])
                    place += 8
            return wanted
        at += 4 + length
    return wanted


def _refuse_overlaps(entries: list[Entry], size: int) -> None:
    """Entries that share bytes unpack to far more than the file holds."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        if entry.header < end:
            raise CheckpointError("is a zip archive whose entries overlap")
        end = entry.header + 30 + entry.packed
    if end > size:
        raise CheckpointError("is cut off: an entry of the zip archive reaches beyond its end")
