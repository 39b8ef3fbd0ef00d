"""``max_overhead`` holds, also with a measure that is far too slow, and it is said what was left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nndiag.measures import MEASURES
from nndiag.observe.schedule import START_UP, THINNED
from nndiag.options import MonitorOptions
from nndiag.session import Session
from nndiag.sinks import RecordSink

STEP_S, SLOW_S, LIMIT = 1.0, 5.0, 0.05


@pytest.mark.parametrize("is_slow", [False, True])
def test_the_limit_holds(is_slow: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [0.0]

    def read(visit: object) -> list[object]:
        now[0] += SLOW_S * is_slow
        return []

    monkeypatch.setitem(MEASURES, "data", replace(MEASURES["data"], read=read, needs=frozenset()))
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = MonitorOptions.checked(
        every_n_train_steps=10, measures=["data"], max_overhead=LIMIT, probe=False, strict=True
    )
    session = Session(model, options, sinks=[RecordSink(tmp_path)], clock=lambda: now[0])
    visits = []
    for step in range(4000):
        session.begin_batch(step)
        now[0] += STEP_S
        session.before_update(optimizer=optimizer)
        if session.end_batch(1.0) is not None and step > max(START_UP):
            visits.append(step)
    report = session.close()
    assert session.budget.share <= LIMIT
    assert (len(visits) < 100) is is_slow, "thinned only where it takes too long"
    assert (THINNED in report.coverage.notes) is is_slow
    lines = [json.loads(line) for line in (tmp_path / "nndiag.jsonl").read_text().splitlines()]
    recorded = [note for line in lines for note in line.get("coverage", {}).get("notes", [])]
    assert (THINNED in recorded) is is_slow
    assert (int(lines[-1]["run"]["cadence"]) > 10) is is_slow
