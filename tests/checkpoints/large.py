"""Large synthetic checkpoints, and what reading them takes beside reading their bytes once."""

from __future__ import annotations

import json
import os
import struct
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.table import Table

from nndiag import checkpoints
from nndiag.checkpoints.processes import ReadingProcess

from .forging import pickled, tensor

ROWS, COLUMNS = 4096, 16_384
"""Of one tensor: 256 MiB of float32."""

BLOCK = 1 << 24


def numbers(seed: int) -> Iterator[bytes]:
    """A tensor's bytes, a row at a time."""
    generator = np.random.default_rng(seed)
    for _ in range(ROWS):
        yield generator.standard_normal(COLUMNS, dtype=np.float32).tobytes()


def safetensors_file(path: Path, count: int) -> None:
    """As safetensors writes it."""
    size = 4 * ROWS * COLUMNS
    entries = {
        f"layers.{n}.weight": {
            "dtype": "F32",
            "shape": [ROWS, COLUMNS],
            "data_offsets": [n * size, (n + 1) * size],
        }
        for n in range(count)
    }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for n in range(count):
            file.writelines(numbers(n))


def torch_file(path: Path, count: int) -> None:
    """As ``torch.save`` writes it, with checksums."""
    shape, strides = (ROWS, COLUMNS), (COLUMNS, 1)
    state = {
        f"layers.{n}.weight": tensor(shape, strides, numel=ROWS * COLUMNS, key=str(n)) for n in range(count)
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled(state))
        file.writestr("archive/byteorder", b"little")
        for n in range(count):
            with file.open(f"archive/data/{n}", "w", force_zip64=True) as entry:
                for part in numbers(n):
                    entry.write(part)


KINDS = {"safetensors": safetensors_file, "torch.save": torch_file}


def seconds_of_bytes(path: Path) -> tuple[float, float]:
    """How long it takes to read the bytes of a file once, and processor time of it."""
    begin, own, buffer = time.perf_counter(), time.process_time(), bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - begin, time.process_time() - own


@contextmanager
def peak_below(process: ReadingProcess) -> Iterator[list[int]]:
    """The most memory of what a process forks, in bytes, as the system counts it."""
    peaks, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            if process.number is not None:
                peaks[0] = max([peaks[0], *map(_peak, _children(process.number))])

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def _seconds(process: ReadingProcess) -> float:
    """Processor time of all that a process forked and that has ended."""
    fields = Path(f"/proc/{process.number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def figures(gigabytes: float, home: Path | None) -> Table:
    """Time and memory of reading files of a size, each made, read and removed."""
    tensor_size = 4 * ROWS * COLUMNS
    count = max(1, round(gigabytes * 1e9 / tensor_size))
    columns = (
        "file",
        "size",
        "its bytes once",
        "nndiag",
        "ratio",
        "processor",
        "memory",
        "above the start",
        "allowed",
    )
    table = Table(*columns, title=f"Files of {count} tensors of {tensor_size >> 20} MB")
    with tempfile.TemporaryDirectory(dir=home) as scratch, ReadingProcess() as process:
        for kind, write in KINDS.items():
            path = Path(scratch) / ("big.safetensors" if kind == "safetensors" else "big.pt")
            write(path, count)
            once, own = seconds_of_bytes(path)
            small = Path(scratch) / "small.safetensors"
            if not small.exists():
                small.write_bytes(_small())
            with peak_below(process) as peaks:
                checkpoints.read(small, process=process)
            start, spent, begin = peaks[0], _seconds(process), time.perf_counter()
            with peak_below(process) as peaks:
                checkpoints.read(path, process=process)
            taken, spent = time.perf_counter() - begin, _seconds(process) - spent
            table.add_row(
                *(kind, f"{path.stat().st_size / 1e9:.2f} GB", f"{once:.1f} s", f"{taken:.1f} s"),
                *(f"{taken / once:.1f}", f"{spent:.1f} s, not {own:.1f} s", f"{peaks[0] >> 20} MB"),
                *(f"{(peaks[0] - start) >> 20} MB", f"{(2 * tensor_size + (200 << 20)) >> 20} MB"),
            )
            path.unlink()
    return table


def _small() -> bytes:
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<6f", *range(6))
