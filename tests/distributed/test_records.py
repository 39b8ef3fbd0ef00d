"""What two processes leave on disk, and one report out of it; statistics of ranks add up to those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nndiag.sinks import read_run, rediagnose
from nndiag.snapshot import Snapshot
from nndiag.statistics import Moments, Statistic, Tails

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
    truth = Snapshot.load(alone / f"0 of 1-{step}.safetensors")
    ranks = [Snapshot.load(alone / f"{rank} of {RANKS}-{step}.safetensors") for rank in range(RANKS)]
    compared = set()
    for key, expected in truth.statistics.items():
        if not isinstance(expected, (Moments, Tails)):
            continue
        compared.add(key[1:])
        merged = ranks[0].statistics[key].merge(ranks[1].statistics[key])
        # Each rank's loss is a mean over its own batch: its gradients are as many times larger as there are ranks.
        scale = RANKS if key.tap == "grad_output" else 1
        assert_equal(merged, expected, scale)
    assert {
        ("output", "probe", "moments"),
        ("input", "probe", "tails"),
        ("input", "stream", "moments"),
    } <= compared
    assert ("grad_output", "stream", "moments") in compared
    assert step == 0 or ("input", "stream", "tails") in compared


def assert_equal(merged: Statistic, expected: Statistic, scale: float) -> None:
    """Counts exactly, the rest to a millionth of the largest entry."""
    for name, tensor in merged.to_tensors().items():
        power = {"mean": 1, "cluster_mean": 1, "m2": 2, "cluster_m2": 2}.get(name, 0)
        truth = expected.to_tensors()[name]
        if not truth.is_floating_point():
            assert torch.equal(tensor, truth), name
            continue
        tolerance = 1e-6 * float(truth.abs().max())
        torch.testing.assert_close(tensor / scale**power, truth, rtol=0, atol=tolerance)
