"""What two processes leave on disk, and one report out of it; statistics of ranks add up to those of one process."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from nndiag.sinks import read_run, rediagnose
from nndiag.snapshot import Snapshot
from nndiag.statistics import Moments, Tails

from .comparing import relative_error
from .processes import RANKS, Outcomes
from .worker import FITS, LOOPS, keep_snapshots

STEPS = (0, 1, 2, 3, 5)


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("case", [*LOOPS, *FITS])
def test_each_rank_has_a_record_of_its_own(place: Path, case: str) -> None:
    run = read_run(place / case)
    assert list(run.others) == [1]
    assert run.unread == {}
    mine, others = ([visit.step for visit in each.visits] for each in (run, run.others[1]))
    assert others == (mine if case != "uneven data" else mine[: len(others)])
    assert "rank 0 of 2" in run.visits[-1].coverage.notes[0]
    assert "rank 1 of 2" in run.others[1].visits[-1].coverage.notes[0]
    assert len(list((place / case).rglob("events.out.tfevents*"))) <= 2  # rank 0's: one a run, two runs


def test_records_differ_because_batches_do(pair: Outcomes, place: Path) -> None:
    run = read_run(place / "ddp")
    losses = [
        [r.value for visit in each.visits for r in visit.readings if r.name == "loss"]
        for each in (run, run.others[1])
    ]
    steps = [visit.step for visit in run.visits]
    for rank, outcome in enumerate(pair):
        assert losses[rank] == pytest.approx([outcome["ddp, all"]["losses"][step] for step in steps])


@pytest.mark.usefixtures("pair")
def test_report_of_the_directory_names_the_ranks(place: Path) -> None:
    report = rediagnose(read_run(place / "gathering"))
    (refused,) = [finding for finding in report.findings if finding.rule == "ND903"]
    assert refused.evidence["ranks"] == "0, 1"
    assert report.run["ranks"] == "0, 1"


@pytest.fixture(scope="module")
def alone(place: Path, pair: Outcomes) -> Path:
    """Snapshots of both ranks, and of one process that was given all batches put together."""
    keep_snapshots(place / "snapshots", 0, 1)
    return place / "snapshots"


@pytest.mark.parametrize("step", STEPS)
def test_statistics_of_ranks_add_up_to_those_of_one_process(alone: Path, step: int) -> None:
    errors = errors_of_merging(alone, step)
    assert max(errors.values()) <= 1e-6
    assert {
        ("output", "probe", "moments"),
        ("input", "probe", "tails"),
        ("input", "stream", "moments"),
        ("grad_output", "stream", "moments"),
    } <= errors.keys()
    assert step == 0 or ("input", "stream", "tails") in errors


def errors_of_merging(directory: Path, step: int) -> dict[tuple[str, str, str], float]:
    """The worst relative error by tap, observer and name of a statistic."""
    truth = Snapshot.load(directory / f"0 of 1-{step}.safetensors")
    ranks = [Snapshot.load(directory / f"{rank} of {RANKS}-{step}.safetensors") for rank in range(RANKS)]
    errors: dict[tuple[str, str, str], float] = {}
    for key, expected in truth.statistics.items():
        if isinstance(expected, (Moments, Tails)):
            merged = ranks[0].statistics[key].merge(ranks[1].statistics[key])
            # A rank's loss is a mean over its own batch: gradients are as many times larger as there are ranks.
            error = relative_error(merged, expected, RANKS if key.tap == "grad_output" else 1)
            errors[key[1:]] = max(error, errors.get(key[1:], 0.0))
    return errors


def test_counts_that_differ_are_an_infinite_error() -> None:
    moments = Moments.of(torch.ones(4, 1, 2))
    assert relative_error(moments, moments, 1) == 0
    assert relative_error(moments.merge(moments), moments, 1) == math.inf
