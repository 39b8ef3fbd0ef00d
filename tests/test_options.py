"""Options: every wrong value is refused early, in one line that names the argument and what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nndiag
from nndiag.errors import ConfigurationError
from nndiag.findings import Severity
from nndiag.measures import MEASURES, RULES
from nndiag.options import MonitorOptions, Selection

NAMES = ("measures", "layers", "select", "ignore")

WRONG: dict[str, list[tuple[Any, str]]] = {
    **{name: [("saturation", "a sequence of strings"), (b"ND2", "a sequence of strings")] for name in NAMES},
    "every_n_train_steps": [(v, "a whole number above 0") for v in (0, -1, 2.0, True, "5", [5], math.inf)],
    "probe_samples": [(v, "a whole number above 0") for v in (0, -128, 1.5, False, "all", None)],
    "max_overhead": [
        (v, "a number above 0, or None") for v in (0, -0.1, True, "3%", math.nan, math.inf, [0.1])
    ],
    "thresholds": [
        *(
            (v, "a mapping from rule ids to numbers")
            for v in (0.8, "ND201", [("ND201", 0.8)], {"ND201"}, [], "")
        ),
        *(
            ({"ND201": v}, "a finite number")
            for v in ("high", None, True, math.nan, math.inf, [0.8], 10**400)
        ),
    ],
    "log_dir": [(v, "a path, or None") for v in (3, True, b"runs", ["runs"], "")],
    "html": [(v, "True, False, or a path") for v in (3, None, b"x", ["x"], "", 1)],
    **{
        name: [(v, "True or False") for v in (1, 0, None, "no", "true", [])]
        for name in ("probe", "console", "merge_ranks", "strict")
    },
}
for name in NAMES:
    WRONG[name] += [(v, "a sequence of strings") for v in (3, True, 0.5, {"ND2": 1})]
    WRONG[name] += [
        (v, "a sequence of non-empty strings") for v in ([""], [3], [None], ["!"], [b"x"], [["x"]])
    ]
WRONG["measures"].append(([], "at least one string, or None for all"))
WRONG["layers"].append(((), "at least one string, or None for all"))
WRONG["select"].append((["ND202:"], "ND202:layer"))
WRONG["ignore"].append((["ND202:"], "ND202:layer"))

CASES = [(name, value, expected) for name, rows in WRONG.items() for value, expected in rows]


@pytest.mark.parametrize(("name", "value", "expected"), CASES, ids=[f"{n}={v!r:.30}" for n, v, _ in CASES])
def test_a_wrong_type_or_range_is_said(name, value, expected):
    with pytest.raises(ConfigurationError) as caught:
        MonitorOptions.checked(**{name: value})
    message = str(caught.value)
    assert f"`{name}" in message
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("name", WRONG)
def test_a_monitor_refuses_it_before_it_touches_the_model(name):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigurationError, match=f"`{name}"):
        nndiag.Monitor(model, **{name: WRONG[name][0][0]})
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


UNKNOWN = [
    ({"measures": ["saturatoin"]}, "saturation"),
    ({"measures": ["saturation", "neuron symmetry"]}, "neuron_symmetry"),
    ({"measures": ["Saturation"]}, "saturation"),
    ({"select": ["ND2O2"]}, "ND202"),
    ({"select": ["nd202"]}, "ND202"),
    ({"ignore": ["ND2020:fc"]}, "ND202"),
    ({"ignore": ["dead-units"]}, None),
    ({"thresholds": {"ND2O1": 0.8}}, "ND201"),
    ({"thresholds": {"ND2": 0.8}}, None),
    ({"thresholds": {201: 0.8}}, None),
    ({"stop_on": "criticl"}, "critical"),
    ({"stop_on": "Warning"}, "warning"),
    ({"stop_on": "error"}, None),
    ({"stop_on": 2}, None),
    ({"stop_on": True}, None),
]


@pytest.mark.parametrize(("options", "nearest"), UNKNOWN, ids=[str(options) for options, _ in UNKNOWN])
def test_an_unknown_name_is_said_with_the_nearest_one(options, nearest):
    (name, _), *_ = options.items()
    with pytest.raises(ConfigurationError) as caught:
        MonitorOptions.checked(**options)
    message = str(caught.value)
    assert message.startswith(f"`{name}`: ")
    assert "is not known" in message
    assert "Expected one of: " in message
    if nearest is not None:
        assert f"Did you mean {nearest!r}?" in message


LAYERS = ("backbone.0", "backbone.1", "head", "head:relu")


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [("haed", "head"), ("!backbone.7", "backbone"), ("bakcbone.*", "backbone"), ("Head", "head")],
)
def test_a_layer_pattern_that_fits_nothing_is_said(pattern, nearest):
    with pytest.raises(ConfigurationError, match=r"^`layers`: ") as caught:
        Selection.checked(layers=["head", pattern]).check_layers(LAYERS)
    assert repr(pattern) in str(caught.value)
    assert f"Did you mean '{nearest}" in str(caught.value)


def test_layer_patterns_that_fit_are_taken():
    Selection.checked(layers=["backbone.*", "!backbone.1", "head:relu"]).check_layers(LAYERS)
    Selection.checked().check_layers(())


def kept(*patterns: str) -> list[str]:
    selection = Selection.checked(layers=patterns or None)
    return [name for name in LAYERS if selection.keeps_layer(name)]


def test_layers():
    assert kept() == list(LAYERS)
    assert kept("head") == ["head", "head:relu"], "a functional call follows its module"
    assert kept("head:relu") == ["head:relu"]
    assert kept("!head") == ["backbone.0", "backbone.1"]
    assert kept("backbone.*", "!*.1") == ["backbone.0"]
    assert Selection.checked(layers=["head"]).keeps_layer(None), "the run as a whole is always observed"


@pytest.mark.parametrize(
    ("options", "rule", "layer", "judges"),
    [
        ({}, "ND202", "fc", True),
        ({"select": ["ND2"]}, "ND202", "fc", True),
        ({"select": ["ND2"]}, "ND301", "fc", False),
        ({"select": ["ND202:backbone.*"]}, "ND202", "backbone.0", True),
        ({"select": ["ND202:backbone.*"]}, "ND202", "head", False),
        ({"select": ["ND202:backbone.*"]}, "ND202", None, False),
        ({"select": ["ND202:head"]}, "ND202", "head:relu", True),
        ({"ignore": ["ND2"]}, "ND202", "fc", False),
        ({"ignore": ["ND202:head"]}, "ND202", "head", False),
        ({"ignore": ["ND202:head"]}, "ND202", "fc", True),
        ({"select": ["ND2"], "ignore": ["ND202"]}, "ND202", "fc", False),
        ({"select": ["ND2"], "ignore": ["ND202"]}, "ND201", "fc", True),
        ({"select": []}, "ND202", "fc", False),
        ({"ignore": []}, "ND202", "fc", True),
    ],
)
def test_rules(options, rule, layer, judges):
    assert Selection.checked(**options).judges(rule, layer) is judges


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_and_each_of_its_prefixes_can_be_chosen(rule):
    for length in range(1, len(rule) + 1):
        assert Selection.checked(select=[rule[:length]]).judges(rule, "fc")


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_can_be_chosen(measure):
    assert Selection.checked(measures=(measure,)).measures == (measure,)


def names() -> Iterator[str]:
    yield from ("saturation", "coverage")


@pytest.mark.parametrize("values", [names(), ["saturation", "coverage"], ("saturation", "coverage")])
def test_any_sequence_of_names_is_read_once(values):
    assert Selection.checked(measures=values).measures == ("saturation", "coverage")


def test_defaults():
    options = MonitorOptions.checked()
    assert options.selection == Selection()
    assert (options.every_n, options.probe, options.probe_samples) == (None, True, 128)
    assert (options.max_overhead, options.log_dir, options.console) == (0.03, None, True)
    assert (options.html, options.stop_on) == (False, None)
    assert (options.merge_ranks, options.strict) == (False, False)


def test_right_values_are_taken(tmp_path: Path):
    options = MonitorOptions.checked(
        every_n_train_steps=7,
        max_overhead=None,
        log_dir=tmp_path,
        html=tmp_path / "report.html",
        stop_on="critical",
        thresholds={"ND201": 1},
    )
    assert (options.every_n, options.max_overhead, options.stop_on) == (7, None, Severity.CRITICAL)
    assert options.log_dir == str(tmp_path)
    assert options.html == str(tmp_path / "report.html")
    assert options.selection.thresholds == {"ND201": 1.0}
    assert options.with_cadence(3).every_n == 3
    assert options.every_n == 7


@pytest.mark.parametrize("severity", Severity)
def test_stop_on_takes_the_word_and_the_severity(severity):
    assert MonitorOptions.checked(stop_on=str(severity)).stop_on is severity
    assert MonitorOptions.checked(stop_on=severity).stop_on is severity


def test_the_callers_mapping_is_not_kept():
    thresholds = {"ND201": 0.5}
    options = MonitorOptions.checked(thresholds=thresholds)
    thresholds["ND201"] = 0.9
    assert options.selection.thresholds == {"ND201": 0.5}
