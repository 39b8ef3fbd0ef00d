"""``python -m tests.release``: builds both files, installs the wheel, and goes from nothing to a diagnosis."""

from __future__ import annotations

import re
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .building import ROOT, Environment, build, run

REPEATS = 5


def main() -> None:
    """The command."""
    table = Table("what", "figure", title="A release")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        built = build(ROOT, here / "dist", "wheel", "sdist")
        for name, figure in (*contents(built), *installation(built["wheel"], here)):
            table.add_row(name, figure)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def contents(built: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """Sizes, and what kinds of files the wheel has."""
    for path in built.values():
        yield path.name, f"{path.stat().st_size / 1000:.0f} kB"
    with zipfile.ZipFile(built["wheel"]) as archive:
        files = archive.infolist()
    kinds = Counter(Path(file.filename).suffix or Path(file.filename).name for file in files)
    yield (
        "files in the wheel",
        f"{len(files)}, {sum(file.file_size for file in files) / 1000:.0f} kB unpacked",
    )
    yield "of which", ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    outside = {file.filename.partition("/")[0] for file in files}
    yield "folders in the wheel", ", ".join(sorted(outside))


def installation(wheel: Path, here: Path) -> Iterator[tuple[str, str]]:
    """What happens in an environment with the wheel and what it requires, in another directory."""
    environment = Environment.new(here / "environment")
    environment.install(wheel)
    environment.borrow()
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    command = environment.scripts / "nndiag"
    yield "nndiag --version", run(command, "--version", cwd=elsewhere).stdout.strip()
    yield f"nndiag --help, least of {REPEATS}", f"{least(command, elsewhere):.2f} s"
    over = [imported(environment, elsewhere) for _ in range(REPEATS)]
    yield f"import nndiag over import torch, least of {REPEATS}", f"{min(over):.1f} ms"
    begin = time.perf_counter()
    said = run(command, "demo", "--out", "found", cwd=elsewhere, timeout=600).stdout
    took = time.perf_counter() - begin
    yield "nndiag demo", f"{said.count('✓')} right, {said.count('✗')} wrong, {took:.0f} s"


def least(command: Path, elsewhere: Path) -> float:
    """Seconds until help is there."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run(command, "--help", cwd=elsewhere)
        times.append(time.perf_counter() - begin)
    return min(times)


def imported(environment: Environment, elsewhere: Path) -> float:
    """Milliseconds that ``import nndiag`` adds, by Python's own clock."""
    words = ("-X", "importtime", "-c", "import torch, nndiag")
    lines = run(environment.python, *words, cwd=elsewhere).stderr
    found = re.search(r"\|\s+(\d+) \| nndiag$", lines, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1000


if __name__ == "__main__":
    main()
