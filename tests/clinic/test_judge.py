"""The marks, on findings written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nndiag.findings import Finding, Severity
from nndiag.report import Report

from .case import Case, Proof, Run
from .families import families_of
from .judge import Judgement, Share, Totals
from .programs.sick_weights import dead_bias

WARNING, INFO = Severity.WARNING, Severity.INFO


def finding(
    rule: str, *layers: str, severity: Severity = WARNING, status: str = "active", related: tuple = ()
) -> Finding:
    """A finding of which only rule, layers and severity matter."""
    return Finding(
        *(rule, "name", "measure", severity, layers, 0, None, 1, status, None, None, "", ""), related=related
    )


def judged(*findings: Finding, case: Case | None = None, twin: bool = False) -> Judgement:
    """A judgement on a run that stated these: the truth is dead units at ``fc2``, vanishing accepted."""
    return Judgement(case or dead_bias, Run(Report(findings), 0.1, (1.0,), 1.0), twin)


def test_leading_finding_of_the_root_family_is_root_and_detection() -> None:
    judgement = judged(finding("ND202", "fc2", "head"), finding("ND101", "fc1"))
    assert judgement.is_detected
    assert judgement.is_root
    assert judgement.is_localized
    assert judgement.is_led_right
    assert judgement.named == ("fc2", "head", "fc1")


def test_accepted_family_is_detection_but_not_root() -> None:
    judgement = judged(finding("ND601", "fc1"))
    assert judgement.is_detected
    assert not judgement.is_root
    assert not judgement.is_localized


def test_symptom_under_another_cause_is_detection_but_does_not_lead() -> None:
    judgement = judged(finding("ND603", "fc1", related=(finding("ND202", "fc2"),)))
    assert judgement.is_detected
    assert judgement.is_localized
    assert not judgement.is_root


def test_wrong_layer_first_does_not_lead_right() -> None:
    judgement = judged(finding("ND202", "head", "fc2"))
    assert judgement.is_root
    assert judgement.is_localized
    assert not judgement.is_led_right


def test_info_is_neither_detection_nor_alarm() -> None:
    judgement = judged(finding("ND202", "fc2", severity=INFO))
    assert not judgement.is_detected
    assert judgement.leading is None
    assert judgement.alarms == ()


def test_functional_call_counts_for_its_module() -> None:
    assert judged().is_right("fc2:relu")
    assert judged().is_right("fc2:relu#1")
    assert not judged().is_right("fc1:relu")
    assert not judged().is_right("fc2.relu")


def test_fault_of_the_run_is_in_place_wherever_it_is_named() -> None:
    case = replace(dead_bias, layers=())
    assert judged(finding("ND202"), case=case).is_led_right
    assert judged(finding("ND202", "head"), case=case).is_localized
    assert judged(finding("ND202", "head"), case=case).named == ()


def test_resolved_warning_on_a_healthy_program_is_a_false_alarm() -> None:
    healthy = Case("fine", "healthy", lambda _: None, Proof(0.9))
    totals = Totals.of(
        [
            judged(finding("ND202", status="resolved"), case=healthy),
            judged(finding("ND313", severity=INFO), case=healthy),
            judged(twin=True),
        ]
    )
    assert totals.shares["healthy accused"] == Share(1, 3)
    assert totals.alarms_per_healthy_run == pytest.approx(1 / 3)
    assert totals.notes_per_healthy_run == pytest.approx(1 / 3)
    assert totals.shares["right family"].of == 0


def test_totals_count_sick_programs_and_layers() -> None:
    right = judged(finding("ND202", "fc2", "head"))
    nothing, wrong = judged(), judged(finding("ND401", "fc1"))
    totals = Totals.of([right, nothing, wrong])
    shares = totals.shares
    assert shares["any alarm on sick"] == Share(2, 3)
    assert shares["right family"] == shares["root cause"] == shares["right layer"] == Share(1, 3)
    assert shares["right layer first"] == Share(1, 3)
    assert shares["layers named that are right"] == Share(1, 3)
    assert totals.alarms_per_sick_run == 1


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.27753), (5, 10, 0.23659, 0.76341), (10, 10, 0.72247, 1.0)]
)
def test_wilson_interval(hits: int, of: int, low: float, high: float) -> None:
    assert Share(hits, of).wilson() == pytest.approx((low, high), abs=1e-4)


def test_share_of_nothing_is_unknown() -> None:
    assert math.isnan(Share(0, 0).value)
    assert Share(0, 0).wilson() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("rule", "families"),
    [
        ("ND311", {"init_scale", "vanishing_gradient"}),
        ("ND101", {"activation_shift", "lr_too_high"}),
        ("ND901", set()),
    ],
)
def test_a_rule_speaks_for_every_family_that_lists_it(rule: str, families: set[str]) -> None:
    assert families_of(rule) == families
