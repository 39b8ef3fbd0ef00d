"""Two processes train with nndiag as without it: the same numbers, and not one collective more."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .processes import RANKS, Outcomes
from .programs import STEPS
from .worker import ENTRIES, FIT_ENTRIES, FITS, LOOPS

CASES = (*LOOPS, *FITS)
FAULTS = [f"ddp, {entry} fails on {rank}" for entry in ENTRIES for rank in range(RANKS)]
FAULTS += [f"Lightning ddp, {entry} fails on {rank}" for entry in FIT_ENTRIES for rank in range(RANKS)]

MERGED = [
    f"{way}, {name}"
    for way in ("merged", "merged by Lightning")
    for name in ("rank 1 has a fault", "exchange fails on 0", "exchange fails on 1")
]


def bare_of(case: str) -> str:
    """What a case is compared with."""
    return "Lightning ddp, off" if "Lightning" in case else "ddp, off"


def assert_same(watched: dict[str, Any], bare: dict[str, Any]) -> None:
    """Bit for bit, and collective for collective."""
    assert watched["losses"] == bare["losses"]
    assert watched["weights"].keys() == bare["weights"].keys()
    for name, tensor in bare["weights"].items():
        assert torch.equal(watched["weights"][name], tensor), name
    assert torch.equal(watched["random"], bare["random"])
    assert watched["collectives"] == bare["collectives"]


@pytest.mark.parametrize("on", ["rank 0", "all"])
@pytest.mark.parametrize("case", CASES)
def test_training_is_exact(pair: Outcomes, case: str, on: str) -> None:
    for rank in pair:
        assert_same(rank[f"{case}, {on}"], rank[f"{case}, off"])


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_on_one_rank_is_nobodys_concern(pair: Outcomes, fault: str) -> None:
    for rank in pair:
        assert_same(rank[fault], rank[bare_of(fault)])


@pytest.mark.parametrize("case", MERGED)
def test_passing_findings_on_takes_no_collective_and_changes_nothing(pair: Outcomes, case: str) -> None:
    for rank in pair:
        assert_same(rank[case], rank[bare_of(case)])


@pytest.mark.parametrize("way", ["merged", "merged by Lightning"])
def test_rank_0_tells_what_rank_1_found(pair: Outcomes, way: str) -> None:
    mine, other = (rank[f"{way}, rank 1 has a fault"] for rank in pair)
    assert mine["ranks"]["ND902"] == "1"
    assert mine["run"]["ranks"] == "0, 1"
    assert "findings are of ranks 0, 1" in " ".join(mine["notes"])
    assert other["ranks"]["ND902"] is None  # its own report is its own
    assert "ranks" not in other["run"]
    assert "ND902" not in pair[0]["Lightning ddp, all"]["findings"]


@pytest.mark.parametrize("way", ["merged", "merged by Lightning"])
def test_exchange_that_fails_leaves_each_rank_its_own_findings(pair: Outcomes, way: str) -> None:
    for failing in (0, 1):
        for number, rank in enumerate(pair):
            seen = rank[f"{way}, exchange fails on {failing}"]
            assert seen["ranks"].get("ND902", "absent") == (None if number == failing else "absent")


@pytest.mark.parametrize("case", CASES)
def test_collectives_are_counted(pair: Outcomes, case: str) -> None:
    counts = pair[0][f"{case}, off"]["collectives"]
    assert sum(counts.values()) >= STEPS  # one a step at least
    if case in ("sharded", "Lightning model parallel"):
        assert any("gather" in name for name in counts)
    assert case != "gathering" or counts["all_reduce"] == counts["ProcessGroup.allreduce"] == STEPS


@pytest.mark.parametrize("case", CASES)
def test_something_was_looked_at_on_the_ranks_that_were_watched(pair: Outcomes, case: str) -> None:
    for number, rank in enumerate(pair):
        assert "run" not in rank[f"{case}, off"]
        assert ("run" in rank[f"{case}, rank 0"]) == (number == 0)
        assert rank[f"{case}, all"]["run"]["visits"] >= 4


@pytest.mark.parametrize(
    "case",
    ["gathering", "sharded", "tensor parallel", "Lightning model parallel", "ddp watched from outside"],
)
def test_model_that_talks_in_its_forward_pass_is_not_replayed(pair: Outcomes, case: str) -> None:
    for rank in pair:
        seen = rank[f"{case}, all"]
        assert seen["run"]["probe"] == "refused: collective-in-forward"
        assert "ND903" in seen["findings"]


@pytest.mark.parametrize("case", ["ddp", "uneven data", "find unused", "static graph", "Lightning ddp"])
def test_other_models_are_replayed_on_each_rank(pair: Outcomes, case: str) -> None:
    for rank in pair:
        assert rank[f"{case}, all"]["run"]["probe"].endswith("samples")


@pytest.mark.parametrize("case", ["sharded", "tensor parallel", "Lightning model parallel"])
def test_what_is_spread_over_processes_is_not_observed_and_said_so(pair: Outcomes, case: str) -> None:
    for rank in pair:
        seen = rank[f"{case}, all"]
        assert "tensor subclass DTensor" in seen["gaps"]
        assert not [tag for tag in seen["readings"] if tag.startswith("nndiag/neuron_symmetry")]


def test_stopping_is_left_alone_where_ranks_would_have_to_agree(pair: Outcomes) -> None:
    for number, rank in enumerate(pair):
        stopped = rank["stop on one rank"]
        assert stopped["losses"] == rank["Lightning model parallel, off"]["losses"]
        assert number or "ND903" in stopped["findings"]  # what a single process would stop on


def test_a_report_says_whose_readings_these_are(pair: Outcomes) -> None:
    for number, rank in enumerate(pair):
        note = f"readings are of rank {number} of 2: its own batches, nothing is added up"
        assert note in rank["ddp, all"]["notes"]
