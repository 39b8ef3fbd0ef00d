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
        assert_same(rank[fault], rank[f"{fault.partition(',')[0]}, off"])


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
