"""The directory of a zip and its entries, against the standard library's."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from nndiag.checkpoints.files import CHUNK, PlainFile
from nndiag.checkpoints.zip_archive import Archive
from nndiag.errors import CheckpointError

CONTENTS = {
    "a/data.pkl": b"x" * 100,
    "a/empty": b"",
    "a/große": bytes(range(256)) * 10,
    "a/long": b"ab" * CHUNK,
}


def written(path: Path, method: int, *, force_zip64: bool = False, comment: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.comment = comment
        for name, data in CONTENTS.items():
            with file.open(name, "w", force_zip64=force_zip64) as entry:
                entry.write(data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("force_zip64", [False, True])
@pytest.mark.parametrize("comment", [b"", b"PK\x05", b"c" * 65535])
def test_entries_are_those_that_were_written(
    method: int, force_zip64: bool, comment: bytes, tmp_path: Path
) -> None:
    with PlainFile(written(tmp_path / "x", method, force_zip64=force_zip64, comment=comment)) as file:
        archive = Archive(file)
        assert archive.entries.keys() == CONTENTS.keys()
        for name, data in CONTENTS.items():
            region = archive.region(name)
            assert bytes(region.read(0, region.size)) == data


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_parts_of_an_entry(method: int, tmp_path: Path) -> None:
    with PlainFile(written(tmp_path / "x", method)) as file:
        region = Archive(file).region("a/große")
        assert bytes(region.read(250, 20)) == CONTENTS["a/große"][250:270]


def test_more_entries_than_16_bits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # from here on it writes the larger directory
    written(tmp_path / "x", zipfile.ZIP_STORED)
    assert b"PK\x06\x06" in (tmp_path / "x").read_bytes()
    with PlainFile(tmp_path / "x") as file:
        assert Archive(file).entries.keys() == CONTENTS.keys()


@pytest.mark.parametrize(("start", "length"), [(0, 1 << 40), (-1, 2), (0, -1), (1 << 60, 1)])
def test_nothing_is_read_beyond_an_entry(start: int, length: int, tmp_path: Path) -> None:
    with PlainFile(written(tmp_path / "x", zipfile.ZIP_STORED)) as file:
        with pytest.raises(CheckpointError):
            Archive(file).region("a/data.pkl").read(start, length)


@pytest.mark.parametrize("part", [(0, 5), (0, 2 * CHUNK)], ids=["part", "whole"])
def test_checksum_is_verified_before_a_byte_is_believed(part: tuple[int, int], tmp_path: Path) -> None:
    path = written(tmp_path / "x", zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.rfind(b"ab" * 100) - 5] ^= 1
    path.write_bytes(data)
    with PlainFile(path) as file:
        with pytest.raises(CheckpointError, match="does not match its checksum"):
            Archive(file).region("a/long").read(*part)


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", b"x" * 50)
    whole = buffer.getvalue()
    for end in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:end])
        with PlainFile(tmp_path / "x") as file:
            with pytest.raises(CheckpointError):
                Archive(file)
