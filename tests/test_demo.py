"""``nndiag demo`` finds what was planted, where it was planted, and accuses nothing else."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from rich.console import Console

from nndiag import demo
from nndiag.demo import EPOCHS, PLANTED, Digits, Outcome, Plant, found_by, plant
from nndiag.findings import Severity
from nndiag.report import Report
from nndiag.sinks import read_run, rediagnose


class Shown(NamedTuple):
    """One run of the demo: what it returned, printed and wrote."""

    sick: Outcome
    twin: Outcome
    text: str
    out: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo, once for all tests."""
    out, stream = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    sick, twin = demo.run(out, Console(file=stream, width=80, force_terminal=False))
    return Shown(sick, twin, stream.getvalue(), out)


def by_rule(planted: Plant) -> str:
    """Test ids."""
    return planted.rule


@pytest.mark.parametrize("planted", PLANTED, ids=by_rule)
def test_plant_is_found_at_its_layer_by_its_rule(shown: Shown, planted: Plant) -> None:
    finding = found_by(shown.sick.report, planted)
    assert finding is not None
    assert finding.is_active
    assert finding.severity.rank >= Severity.WARNING.rank
    assert finding.layers == (planted.layer,)


def test_nothing_but_the_plants_is_a_warning(shown: Shown) -> None:
    grave = {f.rule for f in shown.sick.report.findings if f.is_active and f.severity is not Severity.INFO}
    assert grave == {planted.rule for planted in PLANTED}


@pytest.mark.parametrize(("rule", "step"), [("ND201", 0), ("ND202", 8), ("ND301", 2)])
def test_plant_is_found_as_early_as_its_rule_can(shown: Shown, rule: str, step: int) -> None:
    """At the first visit; with the ninth batch, the first of 512 samples that is visited; after two updates."""
    finding = found_by(shown.sick.report, next(planted for planted in PLANTED if planted.rule == rule))
    assert finding is not None
    assert finding.first_step == step


def test_what_was_planted_is_what_is_said(shown: Shown) -> None:
    """56 of 64 units are off; 16 of 32 are distinct."""
    dead, locked = (found_by(shown.sick.report, planted) for planted in PLANTED[1:])
    assert dead is not None
    assert (dead.evidence["dead"], dead.evidence["units"]) == (56, 64)
    assert locked is not None
    assert (locked.evidence["distinct"], locked.evidence["units"]) == (16, 32)


def test_twin_gets_no_warning(shown: Shown) -> None:
    assert shown.twin.report.status == "ok"
    assert all(
        f.severity is Severity.INFO for top in shown.twin.report.findings for f in top.walk() if f.is_active
    )
    assert shown.twin.report.readings


def test_both_learn(shown: Shown) -> None:
    assert 0.85 < shown.sick.accuracy < shown.twin.accuracy


def test_the_twin_differs_by_the_plants_alone() -> None:
    torch.manual_seed(0)
    sick = Digits()
    torch.manual_seed(0)
    twin = Digits()
    plant(sick)
    changed = {
        name
        for (name, value), other in zip(sick.named_parameters(), twin.parameters(), strict=True)
        if not torch.equal(value, other)
    }
    assert changed == {"stem.weight", "middle.bias", "neck.weight", "neck.bias", "head.weight"}


@pytest.mark.parametrize("name", ["sick", "twin"])
def test_files_are_written(shown: Shown, name: str) -> None:
    directory = shown.out / name
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
    assert (directory / "nndiag.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_record_says_the_same(shown: Shown) -> None:
    again = rediagnose(read_run(shown.out / "sick"))
    assert [f.rule for f in again.findings] == [f.rule for f in shown.sick.report.findings]


def test_it_says_what_was_found_and_where_files_are(shown: Shown) -> None:
    for planted in PLANTED:
        finding = found_by(shown.sick.report, planted)
        assert finding is not None
        words = rf"{planted.layer} +{planted.what} +✓ {planted.rule}, step {finding.first_step}\b"
        assert any(re.search(words, line) for line in shown.text.splitlines())
    assert any(re.search("twin +nothing +✓ no warning", line) for line in shown.text.splitlines())
    assert f"tensorboard --logdir {shown.out}\n" in shown.text
    for name in ("sick", "twin"):
        assert f"{shown.out / name / 'nndiag.html'}\n" in shown.text
    assert f"nndiag report {shown.out / 'sick'}\n" in shown.text


def test_lines_fit_a_narrow_terminal(shown: Shown) -> None:
    paths = [line for line in shown.text.splitlines() if str(shown.out) in line]
    assert all(len(line) <= 80 for line in shown.text.splitlines() if line not in paths)


def test_a_plant_that_is_missed_is_said() -> None:
    stream = io.StringIO()
    blind = Outcome("sick", 0.9, 1.0, Report.empty())
    demo._compare(blind, blind, Console(file=stream, width=80, force_terminal=False))
    assert stream.getvalue().count("✗ not by ND") == len(PLANTED)


def test_progress_counts_epochs_on_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, legacy_windows=False)
    with demo._progress("sick", console) as advance:
        for _ in range(EPOCHS):
            advance()
    assert "sick" in stream.getvalue()
    assert f"{EPOCHS}/{EPOCHS}" in stream.getvalue()


def test_progress_is_silent_elsewhere() -> None:
    stream = io.StringIO()
    with demo._progress("sick", Console(file=stream, force_terminal=False)) as advance:
        advance()
    assert stream.getvalue() == ""
