"""What ranks tell each other through the store that they met by, seen from one process that plays all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nndiag import compat, noticeboard
from nndiag.diagnosis import Update
from nndiag.findings import Coverage, Finding, Severity
from nndiag.noticeboard import Noticeboard, open_board
from nndiag.report import Report

from .runs import finding


def boards(ranks: int, store: Any = None, run: int = 0) -> list[Noticeboard]:
    """One of each rank."""
    shared = store or torch.distributed.HashStore()
    return [Noticeboard(shared, rank, ranks, run) for rank in range(ranks)]


def update(*findings: Finding, changed: bool = False) -> Update:
    return Update(5, {}, (), findings, Coverage(), changed)


def told(board: Noticeboard, *findings: Finding) -> dict[str, object]:
    """What rank 0 shows: the ranks by rule."""
    return {each.rule: each.evidence.get("ranks") for each in board.exchange(update(*findings)).findings}


def test_rank_0_shows_what_others_have_pinned_and_waits_for_nobody() -> None:
    first, second, third = boards(3)
    dead, shift = finding(rule="ND202"), finding(rule="ND101")
    assert told(first, dead) == {"ND202": None}  # nothing hangs there yet
    second.exchange(update(dead, shift))
    assert told(first, dead) == {"ND202": "0, 1", "ND101": "1"}
    third.exchange(update(shift))
    assert told(first, dead) == {"ND202": "0, 1", "ND101": "1, 2"}
    second.exchange(update())
    assert told(first, dead) == {"ND202": "0", "ND101": "2"}


def test_a_rank_above_0_keeps_its_own_findings() -> None:
    first, second = boards(2)
    first.exchange(update(finding()))
    mine = update(finding(rule="ND101"))
    assert second.exchange(mine) is mine
    report = Report(mine.findings)
    assert second.united(report) is report


def test_the_report_of_rank_0_holds_what_was_read_last() -> None:
    first, second = boards(2)
    second.exchange(update(finding(severity=Severity.CRITICAL)))
    first.exchange(update())
    report = first.united(Report())
    assert report.status == "critical"
    assert report.run["ranks"] == "0, 1"


def test_what_others_change_is_a_change() -> None:
    first, second = boards(2)
    assert not first.exchange(update()).changed
    second.exchange(update(finding()))
    assert first.exchange(update()).changed
    assert not first.exchange(update()).changed
    assert first.exchange(update(changed=True)).changed


def test_a_notice_is_pinned_once() -> None:
    _, second = boards(2)
    second.exchange(update(finding()))
    second._store.delete_key(second._key(1))
    second.exchange(update(finding()))
    assert not second._store.check([second._key(1)])


def test_runs_of_one_process_have_boards_of_their_own() -> None:
    store = torch.distributed.HashStore()
    boards(2, store)[1].exchange(update(finding()))
    assert boards(2, store, run=1)[0].exchange(update()).findings == ()


def test_without_a_store_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "process_store", lambda: None)
    monkeypatch.setattr(noticeboard, "own_rank", lambda: (0, 2))
    with pytest.raises(RuntimeError, match="merge_ranks needs a process group"):
        open_board()


def test_a_process_alone_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noticeboard, "own_rank", lambda: (0, 1))
    assert open_board() is None
