"""``python -m tests.harmless``: runs the tests that nndiag changes nothing in a run, and prints their figures."""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1]
FOLDERS = ("families", "harmless")


class Tally:
    """What the tests recorded, and how they went; a plugin of pytest."""

    def __init__(self) -> None:
        self.recorded: dict[str, list[Any]] = defaultdict(list)
        self.ran: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Once for each of the three phases of a test; the last one knows all that was recorded."""
        file = Path(report.nodeid.partition("::")[0]).stem
        self.failed[file] += report.failed
        if report.when == "teardown":
            self.ran[file] += 1
            for name, value in report.user_properties:
                self.recorded[name].append(value)

    def sums(self, name: str) -> list[int]:
        """Numbers recorded under one name, added up place by place."""
        return [sum(column) for column in zip(*self.recorded[name], strict=True)] or [0, 0, 0]


def rows(tally: Tally) -> Iterator[tuple[str, str, str]]:
    """What was tried, how often, and what came of it."""
    exact, mutants = tally.recorded["exact"], tally.recorded["mutant"]
    families, arms = ({row[place] for row in exact} for place in (0, 1))
    yield (
        "families",
        f"{len(families)} x {', '.join(sorted(arms))}",
        f"{sum(r[2] for r in exact)} values differ",
    )
    killed = {name for name, _ in mutants} - {name for name, is_noticed in mutants if not is_noticed}
    alarms = sum(is_noticed for _, is_noticed in tally.recorded["control"])
    controls = len(tally.recorded["control"])
    yield "mutants", f"{len({name for name, _ in mutants})} seeded", f"{len(killed)} killed"
    yield "controls", f"{controls} runs", f"{alarms} alarms"
    injected, crashed, changed = tally.sums("faults")
    yield "faults", f"{injected} injected", f"{crashed} crashes, {changed} values differ"
    injected, masked = tally.sums("user errors")[:2]
    yield "faults beside an error of the user's", f"{injected} injected", f"{masked} errors masked"
    ended, lost = tally.sums("signals")[:2]
    yield "signals", f"{ended} runs ended", f"{lost} with a flushed visit that cannot be read"
    yield "zoo", f"{len(set(tally.recorded['zoo']))} kinds", f"{tally.failed['test_tensor_zoo']} tests failed"
    numbers = tally.recorded["numerics"] or [0.0]
    yield "numerics", f"{len(numbers)} cases", f"worst relative error {max(numbers):.1e}"
    for steps, slope in tally.recorded["slope"]:
        yield "memory", f"{steps} steps", f"{slope:+.1f} bytes a step"
    for file in ("test_memory", "test_writers", "test_first_use"):
        yield file.removeprefix("test_"), f"{tally.ran[file]} tests", f"{tally.failed[file]} failed"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.harmless", description=__doc__)
    parser.add_argument("--all", action="store_true", help="the long runs too")
    parser.add_argument("--only", choices=FOLDERS, help="half of it: same training, or all the rest")
    options = parser.parse_args(arguments)
    tally = Tally()
    selection = "not gpu" if options.all else "not slow and not gpu"
    folders = [str(TESTS / folder) for folder in FOLDERS if options.only in (None, folder)]
    status = pytest.main(["-q", "--no-header", "-m", selection, *folders], plugins=[tally])
    table = Table("what", "tried", "outcome", title="Harmless everywhere")
    for row in rows(tally):
        if not row[1].startswith("0 "):  # the other half was not asked for
            table.add_row(*row)
    table.add_section()
    table.add_row("all of it", f"{tally.ran.total()} tests", f"{tally.failed.total()} failed")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
