"""``python -m tests.distributed``: what nndiag changes in two processes, and what 64 records take to be read."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn

import nndiag
from nndiag.diagnosis import Update
from nndiag.findings import Coverage
from nndiag.noticeboard import Noticeboard
from nndiag.sinks import read_run, rediagnose
from nndiag.sinks.ranks import record_name

from ..sinks.runs import finding
from .comparing import differing
from .processes import Outcomes, train_together
from .programs import FEATURES, batches, loop
from .test_exact import CASES, FAULTS, MERGED, bare_of
from .test_records import STEPS, errors_of_merging
from .worker import keep_snapshots

RECORDS, LENGTH, DEPTH = 64, 200, 24


def trainings(pair: Outcomes) -> Table:
    """Each case bare and watched on all ranks; those with a fault on one of them together."""
    table = Table(
        "case", "collectives", "values differ", "probe", title="Two processes, without / with nndiag"
    )
    for case in CASES:
        bare, watched = pair[0][f"{case}, off"], pair[0][f"{case}, all"]
        counts = (sum(run["collectives"].values()) for run in (bare, watched))
        values = sum(differing(rank[f"{case}, all"], rank[f"{case}, off"]) for rank in pair)
        table.add_row(case, " / ".join(map(str, counts)), str(values), watched["run"]["probe"])
    table.add_section()
    groups = {f"{len(FAULTS)} faults on one rank": FAULTS, f"{len(MERGED)} with findings passed on": MERGED}
    for name, cases in groups.items():
        runs = [(rank[case], rank[bare_of(case)]) for case in cases for rank in pair]
        more = sum(seen["collectives"] != bare["collectives"] for seen, bare in runs)
        table.add_row(name, f"{more} runs differ", str(sum(differing(seen, bare) for seen, bare in runs)), "")
    return table


def recorded(directory: Path) -> None:
    """The record of a run of 24 layers, under the names of 64 ranks; it has something to find."""
    torch.manual_seed(0)
    parts = [part for _ in range(DEPTH - 2) for part in (nn.Linear(16, 16), nn.ReLU())]
    model = nn.Sequential(nn.Linear(FEATURES, 16), *parts, nn.Linear(16, 3))
    nn.init.ones_(model[1].weight)

    def monitor(optimizer: torch.optim.Optimizer) -> nndiag.Monitor:
        options = {"every_n_train_steps": 10, "max_overhead": None, "console": False}
        return nndiag.Monitor(model, optimizer=optimizer, log_dir=directory, **options)

    loop(model, batches(0, 2, LENGTH), monitor)
    for rank in range(1, RECORDS):
        shutil.copyfile(directory / record_name(0), directory / record_name(rank))


def merging(directory: Path) -> str:
    """Seconds until 64 records are one report."""
    recorded(directory)
    begin = time.perf_counter()
    run = read_run(directory)
    read = time.perf_counter()
    report = rediagnose(run)
    seconds = (read - begin, time.perf_counter() - read)
    size = sum(path.stat().st_size for path in directory.glob("*.jsonl")) / 2**20
    found = len(report.findings)
    return (
        f"{1 + len(run.others)} records of {len(run.visits)} visits to {DEPTH} layers ({size:.0f} MiB): read in "
        f"{seconds[0]:.2f} s, judged and put together in {seconds[1]:.2f} s, {found} findings"
    )


def exchanging() -> str:
    """What an exchange takes on rank 0, with a notice of three findings from each of 64 ranks."""
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    boards = [Noticeboard(store, rank, RECORDS) for rank in range(RECORDS)]
    found = Update(0, {}, (), (finding(rule="ND101"), finding(), finding(rule="ND302")), Coverage(), False)
    for board in boards:
        board.exchange(found)
    begin = time.perf_counter()
    shown = boards[0].exchange(found)
    seconds = time.perf_counter() - begin
    return (
        f"{len(shown.findings)} findings of {RECORDS} ranks, exchanged on rank 0 in {1000 * seconds:.1f} ms"
    )


def main() -> None:
    """The command."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        console.print(trainings(train_together("exactness,faults,merged", place, 600)))
        keep_snapshots(place / "snapshots", 0, 1)
        errors = [errors_of_merging(place / "snapshots", step).values() for step in STEPS]
        count = sum(map(len, errors))
        console.print(
            f"statistics of two ranks, merged, against one process: {count} kinds and steps, worst error "
            f"{max(map(max, errors)):.1e} of the largest entry"
        )
        console.print(merging(place / "records"))
        console.print(exchanging())


if __name__ == "__main__":
    main()
