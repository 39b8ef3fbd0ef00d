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
from nndiag.demo import Outcome, Patient, Plant, found_by
from nndiag.demo.patients import LEARNING_RATE, PATIENTS, SICK, TWIN
from nndiag.demo.stage import EPOCHS, Images, network, train
from nndiag.findings import Finding, Severity
from nndiag.measures import MEASURES, RULES
from nndiag.report import Report
from nndiag.sinks import read_run, rediagnose


class Shown(NamedTuple):
    """One run of the demo: what it returned, printed and wrote."""

    outcomes: dict[str, Outcome]
    text: str
    out: Path

    def report(self, patient: Patient) -> Report:
        """What was found in a patient."""
        return self.outcomes[patient.name].report

    def finding(self, rule: str) -> Finding:
        """What was found of a plant."""
        patient, planted = BY_RULE[rule]
        found = found_by(self.report(patient), planted)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo, once for all tests."""
    out, stream = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    outcomes = demo.run(out, Console(file=stream, width=80, force_terminal=False))
    return Shown({outcome.patient.name: outcome for outcome in outcomes}, stream.getvalue(), out)


BY_RULE = {planted.rule: (patient, planted) for patient in SICK for planted in patient.plants}


def name_of(patient: Patient) -> str:
    """Test ids."""
    return patient.name


# --- what is planted ------------------------------------------------------------------------------------------


def test_every_measure_has_its_plant() -> None:
    """Coverage speaks of nndiag, not of networks: nothing can be planted for it."""
    assert {RULES[rule].measure for rule in BY_RULE} == set(MEASURES) - {"coverage"}


def test_no_two_patients_have_the_same_fault() -> None:
    assert len(BY_RULE) == sum(len(patient.plants) for patient in SICK)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("raw", set()),
        ("stiff", {"stem.weight", "middle.bias", "neck.weight", "neck.bias", "head.weight"}),
        ("hasty", set()),
        ("faint", {f"{layer}.{part}" for layer in ("middle", "neck", "head") for part in ("weight", "bias")}),
    ],
)
def test_parameters_differ_from_the_twins_by_the_plants_alone(name: str, changed: set[str]) -> None:
    patient = next(patient for patient in SICK if patient.name == name)
    pairs = zip(network(patient).named_parameters(), network(TWIN).parameters(), strict=True)
    assert {name for (name, value), other in pairs if not torch.equal(value, other)} == changed


def test_the_twin_is_trained_as_usual() -> None:
    assert TWIN.is_standardized
    assert TWIN.learning_rate == LEARNING_RATE
    assert TWIN.left_out is None
    assert not TWIN.plants


def test_pixels_are_standardized_but_for_the_patient_without() -> None:
    images = Images.load()
    usual, raw = (images.split(is_standardized=word)[0].dataset[:][0] for word in (True, False))
    assert usual.mean().abs() < 0.05
    assert usual.std() == pytest.approx(1, abs=0.05)
    assert (raw.min(), raw.max()) == (0, 255)


# --- what is found --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", BY_RULE)
def test_plant_is_found_by_its_rule_and_leads(shown: Shown, rule: str) -> None:
    patient, planted = BY_RULE[rule]
    leading = [f for f in shown.report(patient).findings if f.is_active and f.rule == rule]
    assert [f.severity is Severity.INFO for f in leading] == [False]
    assert planted.layer is None or planted.layer in leading[0].layers


@pytest.mark.parametrize("rule", ["ND701", "ND501", "ND201", "ND202", "ND301", "ND606", "ND407"])
def test_no_other_layer_is_accused(shown: Shown, rule: str) -> None:
    assert shown.finding(rule).layers == (BY_RULE[rule][1].layer,)


@pytest.mark.parametrize("patient", SICK, ids=name_of)
def test_nothing_but_the_plants_leads_with_a_warning(shown: Shown, patient: Patient) -> None:
    findings = shown.report(patient).findings
    grave = {f.rule for f in findings if f.is_active and f.severity is not Severity.INFO}
    assert grave == {p.rule for p in patient.plants}


@pytest.mark.parametrize(("cause", "symptom"), [("ND701", "ND201"), ("ND301", "ND304"), ("ND407", "ND401")])
def test_what_follows_stands_under_its_cause(shown: Shown, cause: str, symptom: str) -> None:
    assert symptom in {f.rule for f in shown.finding(cause).related if f.is_active}


@pytest.mark.parametrize(
    ("rule", "step"),
    [
        *(("ND701", 0), ("ND501", 0), ("ND201", 0), ("ND311", 0), ("ND407", 0)),
        ("ND301", 2),  # after two updates
        ("ND202", 8),  # the ninth batch is the first visited with 512 samples seen
        ("ND605", 16),  # the first visit and the eight newest are this many at the eighth
        ("ND606", 16),
        (
            "ND101",
            51,
        ),  # the first pair of neighboring steps once running statistics have forgotten their start
    ],
)
def test_plant_is_found_as_early_as_its_rule_can(shown: Shown, rule: str, step: int) -> None:
    assert shown.finding(rule).first_step == step


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("ND202", {"dead": 56, "units": 64}),
        ("ND301", {"distinct": 16, "units": 32}),
        ("ND501", {"p": 0.9, "units": 32, "kept": pytest.approx(3.2)}),
        ("ND101", {"lr": 0.6}),
        ("ND606", {"in_optimizer": False}),
        ("ND407", {"momentum": 0.0, "fault": "momentum 0"}),
        ("ND701", {"fault": "large"}),
    ],
)
def test_what_was_planted_is_what_is_said(shown: Shown, rule: str, said: dict[str, object]) -> None:
    evidence = shown.finding(rule).evidence
    assert {name: evidence[name] for name in said} == said


def test_the_share_without_gradient_is_that_of_the_first_half(shown: Shown) -> None:
    stem = middle = 64 * 64 + 64
    norm, neck, head = 2 * 64, 64 * 32 + 32, 32 * 10 + 10
    share = (stem + norm + middle) / (stem + norm + middle + neck + head)
    evidence = shown.finding("ND605").evidence
    assert evidence["silent_share_of_network"] == pytest.approx(share, abs=1e-4)


def test_twin_gets_no_warning(shown: Shown) -> None:
    report = shown.report(TWIN)
    assert report.status == "ok"
    assert all(f.severity is Severity.INFO for top in report.findings for f in top.walk() if f.is_active)
    assert report.readings


def test_threads_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nndiag.demo.stage.EPOCHS", 1)
    before, during = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        train(TWIN, Images.load(), tmp_path, lambda: during.append(torch.get_num_threads()))
        assert (during, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_the_twin_learns_best(shown: Shown) -> None:
    twin = shown.outcomes["twin"].accuracy
    assert twin > 0.95
    assert all(shown.outcomes[patient.name].accuracy < twin - 0.02 for patient in SICK)


# --- what is written and said ---------------------------------------------------------------------------------


@pytest.mark.parametrize("patient", PATIENTS, ids=name_of)
def test_files_are_written(shown: Shown, patient: Patient) -> None:
    directory = shown.out / patient.name
    assert len(list(directory.glob("events.out.tfevents.*"))) == 1
    assert (directory / "nndiag.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("patient", PATIENTS, ids=name_of)
def test_record_says_the_same(shown: Shown, patient: Patient) -> None:
    again = rediagnose(read_run(shown.out / patient.name))
    assert [f.rule for f in again.findings] == [f.rule for f in shown.report(patient).findings]


@pytest.mark.parametrize("rule", BY_RULE)
def test_table_has_a_line_for_each_plant(shown: Shown, rule: str) -> None:
    patient, planted = BY_RULE[rule]
    place, step = planted.layer or "the run", shown.finding(rule).first_step
    words = (patient.name, place, planted.what, f"✓ {rule}, step {step}")
    line = re.compile(" +".join(map(re.escape, words)) + r"\b")
    assert any(line.search(each) for each in shown.text.splitlines())


def test_table_ends_with_the_twin(shown: Shown) -> None:
    assert re.search("^ twin +nothing +✓ no warning", shown.text, flags=re.MULTILINE)


def test_findings_are_named_in_a_line_each(shown: Shown) -> None:
    assert "■ critical  ND701  input-scale           net.stem, since step 0" in shown.text
    assert "  follows   ND201  saturated-activation  net.stem, since step 0" in shown.text


def test_it_says_what_was_observed_and_where_files_are(shown: Shown) -> None:
    counts = [entry.status for outcome in shown.outcomes.values() for entry in outcome.report.coverage]
    measured, blind = counts.count("measured"), counts.count("not observed")
    assert f"Coverage: {measured} of {measured + blind} pairs" in shown.text
    assert f"tensorboard --logdir {shown.out}\n" in shown.text
    assert f"{shown.out / 'raw' / 'nndiag.html'}\n" in shown.text
    assert f"nndiag report {shown.out / 'raw'}\n" in shown.text


def test_lines_fit_a_narrow_terminal(shown: Shown) -> None:
    paths = [line for line in shown.text.splitlines() if str(shown.out) in line]
    assert all(len(line.rstrip()) <= 80 for line in shown.text.splitlines() if line not in paths)


def test_nothing_is_broken_over_lines_on_a_narrow_terminal(shown: Shown) -> None:
    """A table cell or a heading that wraps leaves a line that begins with nothing or in mid-sentence."""
    heads = [line for line in shown.text.splitlines() if line and not line.startswith(" ")]
    assert len(heads) == len(["greeting", "table", "coverage", "look"]) + len(PATIENTS)


def test_a_plant_that_is_missed_is_said() -> None:
    stream = io.StringIO()
    blind = [Outcome(patient, 0.9, 1.0, Report.empty()) for patient in SICK]
    demo._compare(blind, Console(file=stream, width=80, force_terminal=False))
    assert stream.getvalue().count("✗ not by ND") == len(BY_RULE)


def test_a_warning_for_the_twin_is_said(shown: Shown) -> None:
    stream = io.StringIO()
    accused = Outcome(TWIN, 0.9, 1.0, shown.report(SICK[0]))
    demo._compare([accused], Console(file=stream, width=80, force_terminal=False))
    assert "✗ critical" in stream.getvalue()


def test_a_rule_that_speaks_elsewhere_has_not_found_the_plant(shown: Shown) -> None:
    elsewhere = Plant("net.head", "ND701", "")
    assert found_by(shown.report(SICK[0]), elsewhere) is None


def test_progress_counts_epochs_on_a_terminal() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, legacy_windows=False)
    with demo._progress("raw", console) as advance:
        for _ in range(EPOCHS):
            advance()
    assert "raw" in stream.getvalue()
    assert f"{EPOCHS}/{EPOCHS}" in stream.getvalue()


def test_progress_is_silent_elsewhere() -> None:
    stream = io.StringIO()
    with demo._progress("raw", Console(file=stream, force_terminal=False)) as advance:
        advance()
    assert stream.getvalue() == ""
