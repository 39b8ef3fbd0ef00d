"""The marks of other tools, on statements written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..families import FAMILIES
from ..programs.healthy_traps import border_pixels
from ..programs.sick_weights import dead_bias
from . import wording
from .drivers import WATCHES, drive, of_a_batch, of_a_parameter, without_numbers
from .environments import VERSIONS, interpreter
from .marks import Row, Verdict, rows, table, verdicts
from .results import Results, runs_of
from .statement import Statement, once

TOOL = "torchmortem"
RIGHT = Statement("Dead units in fc2", "", layers=dead_bias.layers[:1])


def verdict(*said: Statement, twin: bool = False, tool: str = TOOL) -> Verdict:
    """What was said about a program with dead units."""
    return Verdict(dead_bias, twin, tool, said)


def test_words_that_could_mean_the_fault_are_accepted() -> None:
    assert verdict(RIGHT).accepted == (RIGHT,)
    assert verdict(RIGHT).is_localized


def test_words_about_another_family_are_an_alarm_only() -> None:
    other = Statement("Activation saturation in fc2", "", layers=dead_bias.layers[:1])
    assert verdict(other).alarms == (other,)
    assert not verdict(other).accepted
    assert not verdict(other).is_localized


def test_notes_are_no_alarms() -> None:
    assert not verdict(Statement(RIGHT.kind, "", "info", RIGHT.layers)).accepted


@pytest.mark.parametrize("suffix", [".weight", ":relu", ""])
def test_parameter_and_call_count_for_their_module(suffix: str) -> None:
    assert verdict(Statement(RIGHT.kind, "", layers=(dead_bias.layers[0] + suffix,))).is_localized


def test_wrong_layer_is_not_localized() -> None:
    assert not verdict(Statement(RIGHT.kind, "", layers=("head",))).is_localized


def test_what_is_said_at_every_step_counts_once_a_place() -> None:
    again = Statement(RIGHT.kind, "later", layers=RIGHT.layers)
    elsewhere = Statement(RIGHT.kind, "", layers=("head",))
    assert once([RIGHT, again, elsewhere]) == [RIGHT, elsewhere]


@pytest.mark.parametrize(
    ("words", "kind", "layers"),
    [
        ("fc1.weight gradient is very large (norm=inf)", "gradient is very large", ("fc1.weight",)),
        ("fc1.bias update/weight ratio is high (1.2e-01)", "update/weight ratio is high", ("fc1.bias",)),
        ("global update/weight ratio is tiny (1.0e-09)", "global update/weight ratio is tiny", ()),
    ],
)
def test_warning_about_a_parameter_is_taken_apart(words: str, kind: str, layers: tuple[str, ...]) -> None:
    said = without_numbers(of_a_parameter(words))
    assert (said.kind, said.text, said.layers) == (kind, words, layers)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("inputs abs max 1e+07 exceeds 1e+06", "inputs abs max exceeds"),
        ("dominant class covers 100.0% of the batch", "dominant class covers of the batch"),
        ("dormant>60%", "dormant"),
        ("rank-collapsed", "rank-collapsed"),
    ],
)
def test_values_are_no_part_of_the_kind(words: str, kind: str) -> None:
    assert without_numbers(of_a_batch(words)).kind == kind


def test_tool_is_shown_without_the_rule_it_is_spared() -> None:
    tool = "SageMaker Debugger rules"
    said = [Statement(kind, "").to_dict() for kind in ("LossNotDecreasing flat", "ExplodingTensor")]
    results = Results()
    results.add(tool, (border_pixels.name, False), {"said": said[:1], "seconds": 1.0})
    results.add(tool, (dead_bias.name, False), {"said": said, "seconds": 1.0})
    every, spared = rows(results, [border_pixels, dead_bias])
    assert (every.shares["healthy accused"].hits, spared.shares["healthy accused"].hits) == (1, 0)
    assert (every.shares["any alarm on sick"].hits, spared.shares["any alarm on sick"].hits) == (1, 1)


def test_twin_counts_as_healthy() -> None:
    row = Row.of(TOOL, [verdict(RIGHT), verdict(RIGHT, RIGHT, twin=True), verdict(twin=True)])
    assert row.shares["right family"].value == 1
    assert row.shares["healthy accused"].value == 0.5
    assert row.per_healthy_run == 1


@pytest.mark.parametrize(
    "families", [wording.SAGEMAKER, wording.TORCHMORTEM, wording.OBSERVATORY, wording.TORCH_AUDIT]
)
def test_families_are_those_of_the_clinic(families: dict[str, tuple[str, ...]]) -> None:
    assert {family for each in families.values() for family in each} <= set(FAMILIES)


@pytest.mark.parametrize(
    ("tool", "kind", "text", "family"),
    [
        ("nndiag", "ND202", "", "dead_units"),
        ("SageMaker Debugger rules", "WeightUpdateRatio large", "", "lr_too_high"),
        ("torchmortem", "Update ratio too high in 0", "", "lr_too_high"),
        ("neural-observatory", "dead_neurons", "60% of neurons are dead -- look", "dead_units"),
        ("torch-audit", "TA301", "", "input_scale"),
        ("traintools", "update/weight ratio is high", "", "lr_too_high"),
    ],
)
def test_words_of_every_tool_are_read(tool: str, kind: str, text: str, family: str) -> None:
    assert family in wording.FAMILIES_OF[tool](Statement(kind, text))


def test_every_tool_has_a_driver_and_words() -> None:
    assert list(WATCHES) == list(wording.FAMILIES_OF)
    assert set(VERSIONS) < set(WATCHES)


def test_tool_without_an_environment_has_no_interpreter(tmp_path: Path) -> None:
    assert interpreter(TOOL, tmp_path) is None
    assert interpreter(TOOL, None) is None
    assert interpreter("nndiag", None) is not None


def test_failure_of_a_tool_is_kept() -> None:
    def breaks(program: object) -> list[Statement]:
        raise RuntimeError("no hook here")

    assert drive(breaks, None) == {"error": "RuntimeError: no hook here"}


def test_results_are_read_back_and_failures_left_out_of_the_shares(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results = Results.load(file)
    results.add(TOOL, (dead_bias.name, False), {"said": [RIGHT.to_dict()], "seconds": 1.0})
    results.add(TOOL, (dead_bias.name, True), {"error": "broke"})
    results.add(TOOL, (border_pixels.name, False), {"said": [], "seconds": 1.0})
    judged, failed = verdicts(Results.load(file), TOOL, [dead_bias, border_pixels])
    assert [v.said for v in judged] == [(RIGHT,), ()]
    assert failed == 1
    assert not file.with_suffix(".part").exists()


def test_runs_are_cases_and_twins() -> None:
    assert runs_of([dead_bias, border_pixels]) == [
        (dead_bias.name, False),
        (dead_bias.name, True),
        (border_pixels.name, False),
    ]


def test_table_has_one_line_a_tool_with_results() -> None:
    results = Results()
    results.add(TOOL, (dead_bias.name, False), {"said": [RIGHT.to_dict()], "seconds": 1.0})
    results.add("nndiag", (dead_bias.name, False), {"said": [], "seconds": 1.0})
    assert [row.tool for row in rows(results, [dead_bias])] == ["nndiag", TOOL]
    section = table(results, [dead_bias, border_pixels])
    assert "| torchmortem | 1 of 1 (0.21 to 1.00) |" in section
    assert "The tuning half" in section
    assert "The check half" not in section
