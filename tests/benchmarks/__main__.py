"""``python -m tests.benchmarks``: what watching costs.

Measures and writes a file: ``--out results.json [--workloads mlp gpt] [--arms bare "bare again" nndiag]
[--envs DIR]``, ``--scaling`` and ``--imports`` too. Prints tables of a file: ``--from results.json``; with
``--page docs/performance.md`` they are put into the page, and its plots beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .arms import OPTIONS, PEERS
from .duel import Process, Setting, duel
from .results import Row, chart, groups, table
from .worker import REGULAR
from .workloads import WORKLOADS, make

ARMS = ("bare", "bare again", *OPTIONS)
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "layers": ("toy:layers={}", (10, 100, 1000, 4000)),
    "width": ("mlp:layers=3,width={}", (64, 256, 1024, 4096, 16384)),
    "batch": ("mlp:batch={}", (16, 128, 1024)),
    "length": ("gpt:length={},batch=4", (32, 128, 512)),
}
"""What grows, and the workload it grows in."""

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def measure_scaling(axes: Sequence[str], threads: int) -> Iterator[Row]:
    """Processor time of a visit with everything on, and of a bare step, while one thing grows."""
    for axis in axes:
        spec, sizes = AXES[axis]
        for size in sizes:
            setting = Setting(spec.format(size), "plain", (), 1, 1, 0.0, threads)
            process = Process("nndiag every step", setting, prepare=6)
            process.turn(to=REGULAR, steps=2)
            turn = process.turn(steps=2)
            process.end()
            yield {"axis": axis, "size": size, **turn}


def measure_measures(threads: int) -> Iterator[Row]:
    """A visit with the first one, two, ... measures on."""
    from nndiag.measures import MEASURES

    for name in MEASURES:
        setting = Setting("mlp", "plain", (), 1, 1, 0.0, threads)
        process = Process(f"nndiag: {name}", setting, prepare=6)
        process.turn(to=REGULAR, steps=2)
        turn = process.turn(steps=4)
        process.end()
        yield {"axis": "measure", "size": name, **turn}


def measure_imports() -> dict[str, float]:
    """Seconds of a Python that imports, the least of five."""
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import torch, nndiag": [sys.executable, "-c", "import torch, nndiag"],
        "nndiag --help": [sys.executable, "-m", "nndiag", "--help"],
    }
    found = dict.fromkeys(commands, float("inf"))
    for _ in range(5):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found[name] = min(found[name], time.perf_counter() - begin)
    return found


def machine(threads: int) -> dict[str, Any]:
    """Where figures come from."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": model, "cores": os.cpu_count(), "load": load, "threads": threads, **versions}


def text(results: dict[str, Any]) -> str:
    """All tables."""
    about = "; ".join(f"{name}: {value}" for name, value in results["machine"].items())
    parts = [about, ""]
    for (workload, loop), arms in groups(results["duels"]).items():
        if "bare" in arms and all("error" not in row for row in arms["bare"]):
            layers = sum(1 for module in make(workload).model.modules() if not list(module.children()))
            parts.append(table(workload, loop, arms, layers))
    if results["scaling"]:
        parts += [
            "### What grows with what",
            "",
            "| axis | size | a visit | a bare step |",
            "|---|---|---|---|",
        ]
        parts += [_grown(row) for row in results["scaling"]] + [""]
    if results["imports"]:
        parts += ["### Imports", ""]
        parts += [f"- {name}: {seconds:.3f} s" for name, seconds in results["imports"].items()]
    return "\n".join(parts).rstrip() + "\n"


def _grown(row: Row) -> str:
    if "error" in row:
        return f"| {row['axis']} | {row['size']} | not run: {row['error']} | |"
    visit, step = (1e3 * seconds / row["steps"] for seconds in (row["inside_cpu"], _rest(row)))
    return f"| {row['axis']} | {row['size']} | {visit:.1f} ms | {step:.1f} ms |"


def _rest(row: Row) -> float:
    return float(row["cpu"] - row["inside_cpu"])


def write_page(results: dict[str, Any], page: Path) -> None:
    """Puts the tables between the marks of a page, and the plots beside it."""
    images = page.parent / "images"
    links = []
    for axis in AXES:
        rows = [row for row in results["scaling"] if row["axis"] == axis and "error" not in row]
        if len(rows) > 1:
            points = [(row["size"], 1e3 * row["inside_cpu"] / row["steps"]) for row in rows]
            drawing = chart(f"A visit, by {axis}", points, axis, lambda value: f"{value:.3g} ms")
            (images / f"performance-{axis}.svg").write_text(drawing, encoding="utf-8")
            links.append(f"![A visit, by {axis}](images/performance-{axis}.svg)")
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    body = "\n".join([BEGIN, "", text(results), *links, "", END])
    page.write_text(before + body + after, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), help="mlp, or toy:layers=100")
    parser.add_argument("--loops", nargs="*", default=["plain"], choices=["plain", "lightning"])
    parser.add_argument("--arms", nargs="*", default=[*ARMS, *PEERS])
    parser.add_argument("--envs", type=Path, help="a directory with an environment a peer")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scaling", nargs="*", choices=[*AXES, "measures"], default=[])
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="added to, if it is there")
    parser.add_argument("--from", dest="source", type=Path, help="print the tables of a file")
    parser.add_argument("--page", type=Path, help="and put them into a page")
    options = parser.parse_args(arguments)
    if options.source is None:
        _measure(options)
    results = json.loads((options.source or options.out).read_text(encoding="utf-8"))
    sys.stdout.write(text(results))
    if options.page is not None:
        write_page(results, options.page)


def _measure(options: argparse.Namespace) -> None:
    results: dict[str, Any] = {"duels": [], "scaling": [], "imports": {}}
    if options.out.exists():
        results = json.loads(options.out.read_text(encoding="utf-8"))
    results["machine"] = machine(options.threads)

    def keep() -> None:
        options.out.write_text(json.dumps(results), encoding="utf-8")

    pythons = {
        peer: str(options.envs / peer / "bin" / "python")
        for peer in PEERS
        if options.envs and (options.envs / peer).is_dir()
    }
    for workload in options.workloads:
        for loop in options.loops:
            setting = Setting(
                *(workload, loop, options.arms, options.processes),
                *(options.rounds, options.seconds, options.threads),
            )
            old = [r for r in results["duels"] if (r["workload"], r["loop"]) != (workload, loop)]
            results["duels"] = old + duel(setting, pythons, REGULAR)
            keep()
    for axis in options.scaling:
        rows = (
            measure_measures(options.threads)
            if axis == "measures"
            else measure_scaling([axis], options.threads)
        )
        name = "measure" if axis == "measures" else axis
        results["scaling"] = [row for row in results["scaling"] if row["axis"] != name]
        for row in rows:
            results["scaling"].append(row)
            keep()
    if options.imports:
        results["imports"] = measure_imports()
    keep()


if __name__ == "__main__":
    main()
