"""Records of several processes: each in its own file, and one report out of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import nndiag
from nndiag.findings import Finding, Severity
from nndiag.report import Report
from nndiag.sinks import read_run, rediagnose
from nndiag.sinks.ranks import own_rank, record_name, unite

from .runs import finding, watched


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``ranked(1)``: what a launcher tells the second of two processes."""

    def tell(rank: int, size: int = 2) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(size))

    return tell


def united(*by_rank: tuple[Finding, ...]) -> Report:
    """The report on what each rank found."""
    return unite({rank: Report(found) for rank, found in enumerate(by_rank)}, {})


def test_a_process_alone_is_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert own_rank() == (0, 1)


@pytest.mark.parametrize(
    ("rank", "size", "expected"),
    [("1", "2", (1, 2)), ("3", "", (0, 1)), ("2", "2", (0, 1)), ("x", "2", (0, 1))],
)
def test_a_launcher_is_believed_where_it_makes_sense(
    rank: str, size: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert own_rank() == expected


def test_the_process_group_knows_better(ranked: Any) -> None:
    ranked(1)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert own_rank() == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


def test_names_of_records_differ() -> None:
    assert [record_name(rank) for rank in range(3)] == [
        "nndiag.jsonl",
        "nndiag.rank1.jsonl",
        "nndiag.rank2.jsonl",
    ]


def test_other_ranks_write_a_record_and_nothing_else(
    ranked: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked(1)
    watched(tmp_path, console=True, html=True)
    assert [path.name for path in tmp_path.iterdir()] == ["nndiag.rank1.jsonl"]
    assert capsys.readouterr().out == ""


def test_directory_is_read_with_all_its_records(ranked: Any, tmp_path: Path) -> None:
    alone = watched(None).report
    watched(tmp_path)
    ranked(1)
    watched(tmp_path)
    report = rediagnose(read_run(tmp_path))
    assert [f.rule for f in report.findings] == [f.rule for f in alone.findings]
    assert {f.evidence["ranks"] for top in report.findings for f in top.walk()} == {"0, 1"}
    assert report.run["ranks"] == "0, 1"
    assert len(report.readings) == len(alone.readings)
    assert [note for note in report.coverage.notes if "the readings shown are of rank 0" in note]


def test_one_file_is_read_alone(ranked: Any, tmp_path: Path) -> None:
    watched(tmp_path)
    ranked(1)
    watched(tmp_path)
    assert read_run(tmp_path / "nndiag.rank1.jsonl").others == {}
    assert "ranks" not in rediagnose(read_run(tmp_path / "nndiag.jsonl")).run


def test_a_damaged_record_of_another_rank_is_left_out_and_said_so(tmp_path: Path) -> None:
    watched(tmp_path)
    (tmp_path / "nndiag.rank1.jsonl").write_text("no record\n")
    report = rediagnose(read_run(tmp_path))
    assert report.findings
    assert [note for note in report.coverage.notes if note.startswith("the record of rank 1 is left out: ")]


def test_other_names_are_no_records(tmp_path: Path) -> None:
    watched(tmp_path)
    for name in ("nndiag.rank0.jsonl", "nndiag.rank01.jsonl", "nndiag.rankx.jsonl", "nndiag.rank1.jsonl.gz"):
        (tmp_path / name).write_text("")
    run = read_run(tmp_path)
    assert (run.others, run.unread) == ({}, {})


def test_one_rank_alone_stays_as_it_is() -> None:
    report = Report((finding(),))
    assert unite({0: report}, {}) is report


def test_layers_and_steps_are_those_of_all_ranks() -> None:
    report = united(
        (finding(("a",), first_step=5, last_step=9),), (finding(("b", "a"), first_step=2, last_step=7),)
    )
    (one,) = report.findings
    assert (one.layers, one.first_step, one.last_step) == (("a", "b"), 2, 9)
    assert one.evidence["ranks"] == "0, 1"


def test_the_gravest_word_is_shown() -> None:
    mild, grave = finding(value=0.1), finding(severity=Severity.CRITICAL, value=0.9)
    over = finding(severity=Severity.CRITICAL, status="resolved", value=0.5)
    (one,) = united((over,), (mild,), (grave,)).findings
    assert (one.severity, one.status, one.value) == (Severity.CRITICAL, "active", 0.9)
    (one,) = united((over,), (mild,)).findings
    assert (one.status, one.value) == ("active", 0.1)


def test_what_one_rank_found_alone_is_not_lost() -> None:
    report = united((), (finding(rule="ND604", severity=Severity.CRITICAL),))
    (one,) = report.findings
    assert one.evidence["ranks"] == "1"
    assert report.status == "critical"


def test_symptoms_stay_under_their_cause_and_are_stated_once() -> None:
    symptom, other = finding(rule="ND202"), finding(rule="ND601")
    cause = finding(rule="ND201", related=(symptom,))
    report = united((cause,), (finding(rule="ND201", related=(other,)), symptom))
    (top,) = report.findings
    assert [f.rule for f in top.walk()] == ["ND201", "ND202", "ND601"]
    assert [f.evidence["ranks"] for f in top.walk()] == ["0, 1", "0, 1", "1"]


def test_the_worst_comes_first() -> None:
    report = united((finding(rule="ND202"),), (finding(rule="ND604", severity=Severity.CRITICAL),))
    assert [f.rule for f in report.findings] == ["ND604", "ND202"]


def test_a_united_report_goes_through_json() -> None:
    report = united((finding(),), (finding(),))
    assert nndiag.Report.from_json(report.to_json()).findings == report.findings
