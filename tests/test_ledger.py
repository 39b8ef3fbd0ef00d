"""The ledger: persistence over visits, one finding a cause, symptoms under causes, the worst first."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

import nndiag.ledger
from nndiag.findings import Finding, Reading, Severity
from nndiag.layers import LayerInfo
from nndiag.ledger import Ledger
from nndiag.measures import Measure
from nndiag.options import Selection
from nndiag.rules import Advice, Case, History, Rule, Verdict, View

GRADES = {1: Severity.INFO, 2: Severity.WARNING, 3: Severity.CRITICAL}


def grade(view: View) -> Verdict | None:
    """A reading of 1 is worth knowing, of 2 a warning, of 3 critical; below the threshold all is well."""
    value = view.value(view.history.reads[view.measure])
    if value < view.threshold:
        return None
    return Verdict(GRADES[min(3, max(1, int(value)))], value, {"seen": value, "step": view.step})


def say(case: Case) -> Advice:
    return Advice(f"{case.where} since {case.first_step}", f"look at {len(case.verdicts)}")


def rule(id_: str, **changes: Any) -> Rule:
    """A rule on the reading of its own name, in a measure of its own."""
    fields: dict[str, Any] = {
        "id": id_,
        "name": id_.lower(),
        "measure": id_,
        "summary": "",
        "reads": "x",
        "judge": grade,
        "advise": say,
        "threshold": 1.0,
    }
    return Rule(**(fields | changes))


class Run:
    """A ledger, and readings handed to it visit by visit."""

    def __init__(self, *rules: Rule, depths: Mapping[str, int] | None = None, **selection: Any) -> None:
        self.rules = {r.id: r for r in rules}
        self.measures = [Measure(r.measure, "", frozenset(), lambda visit: (), (r,)) for r in rules]
        self.history = History()
        self.history.reads = {r.measure: r.reads for r in rules}
        self.ledger = Ledger(Selection(**selection))
        self.layers = {n: LayerInfo(n, "Linear", "weight", d) for n, d in (depths or {}).items()}
        self.step = -1

    def visit(
        self,
        values: Mapping[tuple[str, str | None], float],
        step: int | None = None,
        source: Literal["live", "checkpoint"] = "live",
    ) -> tuple[Finding, ...]:
        """One visit: a value by rule and layer; what is left out was not read."""
        self.step = self.step + 1 if step is None else step
        readings = [
            Reading(self.rules[id_].measure, self.rules[id_].reads, layer, self.step, value)
            for (id_, layer), value in values.items()
        ]
        self.history.add(self.step, self.layers, readings)
        return self.ledger.judge(self.history, self.measures, source)

    def series(self, values: Sequence[float | None], **kwargs: Any) -> list[Finding | None]:
        """The finding of rule A on layer fc after each visit; None: not read there."""
        found = [self.visit({} if v is None else {("A", "fc"): v}, **kwargs) for v in values]
        return [findings[0] if findings else None for findings in found]


@pytest.fixture(autouse=True)
def synthetic_rules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Rule]:
    """What explains what is looked up among all rules."""
    rules: dict[str, Rule] = {}
    monkeypatch.setattr(nndiag.ledger, "RULES", rules)
    return rules


def run(synthetic: dict[str, Rule], *rules: Rule, **kwargs: Any) -> Run:
    synthetic |= {r.id: r for r in rules}
    return Run(*rules, **kwargs)


def words(found: Sequence[Finding | None]) -> str:
    """One letter a visit: nothing, active, resolved."""
    return "".join("." if f is None else f.status[0] for f in found)


# Persistence


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2], "."),
        ([2, 2], ".a"),
        ([0, 2, 0, 2], "...a"),
        ([2, 0, 0, 2], "...."),
        ([2, 0, 0, 2, 2], "....a"),
        ([0, 0, 0, 2], "...."),
        ([2, 2, 0], ".aa"),
        ([2, 2, 0, 0], ".aar"),
        ([2, 2, 0, 2, 0, 2], ".aaaaa"),
        ([2, 2, 0, 0, 2], ".aarr"),
        ([2, 2, 0, 0, 2, 2], ".aarra"),
    ],
)
def test_two_bad_visits_of_three_make_a_finding_two_clean_ones_resolve_it(synthetic_rules, values, expected):
    assert words(run(synthetic_rules, rule("A")).series(values)) == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 2], ".a"), ([2, 0], "aa"), ([2, 0, 0], "aar"), ([2, 0, 0, 2], "aara")]
)
def test_at_once_needs_one_visit(synthetic_rules, values, expected):
    assert words(run(synthetic_rules, rule("A", persistence="at once")).series(values)) == expected


def test_a_checkpoint_is_judged_at_once(synthetic_rules):
    assert words(run(synthetic_rules, rule("A")).series([0, 2], source="checkpoint")) == ".a"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2, None, 2], "..a"),
        ([2, 2, None, None, None], ".aaaa"),
        ([2, 2, 0, None, 0], ".aaar"),
        ([None, None], ".."),
    ],
)
def test_a_visit_without_a_reading_is_neither_clean_nor_bad(synthetic_rules, values, expected):
    assert words(run(synthetic_rules, rule("A")).series(values)) == expected


@pytest.mark.parametrize(
    ("values", "first", "clean", "last"),
    [
        ([0, 0, 2, 2], 2, 1, 3),
        ([2, 2], 0, None, 1),
        ([0, 2, 0, 2], 1, 0, 3),
        ([0, None, 2, 2], 2, 0, 3),
        ([0, 2, 2, 0, 0], 1, 0, 3),
        ([0, 2, 2, 0, 0, 0, 2, 2], 6, 5, 7),
        ([0, 2, 0, 0, 0, 2, 2], 5, 4, 6),
    ],
    ids=str,
)
def test_steps_of_a_finding(synthetic_rules, values, first, clean, last):
    finding = run(synthetic_rules, rule("A")).series(values)[-1]
    assert (finding.first_step, finding.last_clean_step, finding.last_step) == (first, clean, last)


def test_steps_are_those_of_the_run_not_counts_of_visits(synthetic_rules):
    watched = run(synthetic_rules, rule("A"))
    for step, value in {0: 0, 50: 2, 51: 2, 100: 2}.items():
        (finding, *_) = watched.visit({("A", "fc"): value}, step) or [None]
    assert (finding.first_step, finding.last_clean_step, finding.last_step) == (50, 0, 100)


def test_layers_are_filed_apart(synthetic_rules):
    watched = run(synthetic_rules, rule("A"))
    assert watched.visit({("A", "fc1"): 2, ("A", "fc2"): 0}) == ()
    assert watched.visit({("A", "fc1"): 0, ("A", "fc2"): 2}) == ()
    (finding,) = watched.visit({("A", "fc1"): 0, ("A", "fc2"): 2})
    assert finding.layers == ("fc2",)


# One finding a rule


def test_a_finding_speaks_for_all_its_layers(synthetic_rules):
    watched = run(synthetic_rules, rule("A", persistence="at once"), depths={"fc1": 0, "fc2": 1, "fc3": 2})
    watched.visit({("A", "fc1"): 1, ("A", "fc2"): 0, ("A", "fc3"): 0})
    (finding,) = watched.visit({("A", "fc1"): 1, ("A", "fc2"): 3, ("A", "fc3"): 2})
    assert finding.layers == ("fc2", "fc3", "fc1")
    assert finding.layer == "fc2"
    assert (finding.value, finding.evidence) == (3, {"seen": 3, "step": 1})
    assert finding.severity is Severity.CRITICAL
    assert (finding.first_step, finding.last_clean_step) == (0, None)
    assert finding.message == "fc2 and 2 more layers since 0"
    assert finding.recommendation == "look at 3"
    assert (finding.rule, finding.name, finding.measure, finding.threshold) == ("A", "a", "A", 1.0)


def test_resolved_layers_are_not_named_beside_active_ones(synthetic_rules):
    watched = run(synthetic_rules, rule("A", persistence="at once"))
    watched.visit({("A", "fc1"): 3, ("A", "fc2"): 2})
    watched.visit({("A", "fc1"): 0, ("A", "fc2"): 2})
    (finding,) = watched.visit({("A", "fc1"): 0, ("A", "fc2"): 2})
    assert (finding.layers, finding.severity, finding.status) == (("fc2",), Severity.WARNING, "active")


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, ("fc3", "fc2", "fc1")),
        ({"lead": "earliest"}, ("fc1", "fc2", "fc3")),
        ({"lower_is_worse": True}, ("fc1", "fc2", "fc3")),
        ({"lower_is_worse": True, "lead": "earliest"}, ("fc1", "fc2", "fc3")),
    ],
    ids=str,
)
def test_the_leading_layer(synthetic_rules, changes, layers):
    watched = run(
        synthetic_rules, rule("A", persistence="at once", **changes), depths={"fc3": 3, "fc1": 1, "fc2": 2}
    )
    (finding,) = watched.visit({("A", "fc3"): 2.9, ("A", "fc1"): 2.1, ("A", "fc2"): 2.5})
    assert finding.layers == layers


def test_severity_comes_before_depth(synthetic_rules):
    watched = run(
        synthetic_rules, rule("A", persistence="at once", lead="earliest"), depths={"fc1": 1, "fc2": 2}
    )
    (finding,) = watched.visit({("A", "fc1"): 2, ("A", "fc2"): 3})
    assert finding.layers == ("fc2", "fc1")


def test_a_verdict_may_name_other_places(synthetic_rules):
    def judge(view: View) -> Verdict:
        return Verdict(Severity.WARNING, 1.0, places=("norm", str(view.layer)))

    watched = run(synthetic_rules, rule("A", judge=judge, persistence="at once"))
    (finding,) = watched.visit({("A", "fc1"): 1, ("A", "fc2"): 1})
    assert finding.layers == ("norm", "fc1", "fc2")


def test_a_finding_of_the_run_has_no_layer(synthetic_rules):
    watched = run(synthetic_rules, rule("A", persistence="at once"))
    (finding,) = watched.visit({("A", None): 2})
    assert (finding.layers, finding.layer) == ((), None)
    assert finding.message == "the run since 0"


def test_severity_follows_the_newest_verdict(synthetic_rules):
    found = run(synthetic_rules, rule("A")).series([3, 3, 1, 2])
    assert [f and str(f.severity) for f in found] == [None, "critical", "info", "warning"]


# The user's choice


def test_thresholds_of_the_user_reach_the_rule_and_the_finding(synthetic_rules):
    watched = run(synthetic_rules, rule("A", persistence="at once"), thresholds={"A": 2.5})
    assert watched.visit({("A", "fc"): 2}) == ()
    (finding,) = watched.visit({("A", "fc"): 3})
    assert finding.threshold == 2.5


@pytest.mark.parametrize(
    ("selection", "layers"),
    [
        ({"ignore": ("A",)}, None),
        ({"ignore": ("A:fc1",)}, ("fc2",)),
        ({"select": ("A:fc1",)}, ("fc1",)),
        ({"select": ("B",)}, None),
    ],
    ids=str,
)
def test_rules_that_are_not_asked_for_do_not_speak(synthetic_rules, selection, layers):
    watched = run(synthetic_rules, rule("A", persistence="at once"), **selection)
    found = watched.visit({("A", "fc1"): 2, ("A", "fc2"): 2})
    assert [f.layers for f in found] == ([] if layers is None else [layers])


# Causes and symptoms


def pair(synthetic: dict[str, Rule], **changes: Any) -> Run:
    """A explains B; fc1 is before fc2."""
    rules = (rule("A", explains=("B",), persistence="at once", **changes), rule("B", persistence="at once"))
    return run(synthetic, *rules, depths={"fc1": 1, "fc2": 2})


def tree(findings: Sequence[Finding]) -> list[Any]:
    return [f.rule if not f.related else [f.rule, *tree(f.related)] for f in findings]


def test_a_symptom_goes_under_its_cause(synthetic_rules):
    assert tree(pair(synthetic_rules).visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == [["A", "B"]]


def test_a_symptom_in_the_same_layer_goes_under_its_cause(synthetic_rules):
    assert tree(pair(synthetic_rules).visit({("B", "fc1"): 2, ("A", "fc1"): 2})) == [["A", "B"]]


def test_what_lies_upstream_is_no_symptom(synthetic_rules):
    assert tree(pair(synthetic_rules).visit({("B", "fc1"): 2, ("A", "fc2"): 2})) == ["B", "A"]


def test_what_came_before_is_no_symptom(synthetic_rules):
    watched = pair(synthetic_rules)
    watched.visit({("B", "fc2"): 2, ("A", "fc1"): 0})
    assert tree(watched.visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == ["B", "A"]


def test_a_cause_that_was_never_seen_clean_was_there_before_it_was_first_judged(synthetic_rules):
    watched = pair(synthetic_rules)
    watched.visit({("B", "fc2"): 2})
    assert tree(watched.visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == [["A", "B"]]


@pytest.mark.parametrize(("step", "expected"), [(0, ["B", "A"]), (1, [["A", "B"]])])
def test_what_was_there_before_the_first_update_is_no_symptom_of_updates(synthetic_rules, step, expected):
    watched = pair(synthetic_rules, acts_by_updates=True)
    for _ in range(step):
        watched.visit({("B", "fc2"): 0})
    watched.visit({("B", "fc2"): 2})
    assert tree(watched.visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == expected


def test_a_cause_of_the_whole_run_may_show_downstream_of_its_symptoms(synthetic_rules):
    watched = pair(synthetic_rules, is_of_run=True)
    assert tree(watched.visit({("B", "fc1"): 2, ("A", "fc2"): 2})) == [["A", "B"]]


def test_what_comes_later_is_a_symptom(synthetic_rules):
    watched = pair(synthetic_rules)
    watched.visit({("B", "fc2"): 0, ("A", "fc1"): 2})
    assert tree(watched.visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == [["A", "B"]]


def test_a_cause_of_the_run_stands_before_every_layer(synthetic_rules):
    assert tree(pair(synthetic_rules).visit({("B", "fc1"): 2, ("A", None): 2})) == [["A", "B"]]


def test_rules_that_explain_nothing_stand_side_by_side(synthetic_rules):
    watched = run(synthetic_rules, rule("A", persistence="at once"), rule("B", persistence="at once"))
    assert tree(watched.visit({("A", "fc"): 2, ("B", "fc"): 2})) == ["A", "B"]


def test_an_active_symptom_outlives_its_cause(synthetic_rules):
    watched = pair(synthetic_rules)
    for value in (2, 0, 0):
        found = watched.visit({("B", "fc2"): 2, ("A", "fc1"): value})
    assert tree(found) == ["B", "A"]
    assert [f.status for f in found] == ["active", "resolved"]


def test_a_resolved_symptom_stays_under_its_cause(synthetic_rules):
    watched = pair(synthetic_rules)
    for value in (3, 0, 0):
        (found,) = watched.visit({("B", "fc2"): value, ("A", "fc1"): 2})
    assert tree([found]) == [["A", "B"]]
    assert found.related[0].status == "resolved"
    assert found.severity is Severity.WARNING, "what has healed weighs nothing"


@pytest.mark.parametrize(
    ("cause", "symptom", "adopted"),
    [(1, 3, "critical"), (2, 1, "warning"), (1, 2, "warning"), (3, 2, "critical")],
)
def test_a_cause_is_as_grave_as_what_it_brings_about(synthetic_rules, cause, symptom, adopted):
    (found,) = pair(synthetic_rules).visit({("B", "fc2"): symptom, ("A", "fc1"): cause})
    assert found.severity == adopted
    assert found.related[0].severity is GRADES[symptom]


def test_severity_is_adopted_through_a_chain(synthetic_rules):
    rules = [rule(a, explains=(b,), persistence="at once") for a, b in ("AB", "BC")] + [
        rule("C", persistence="at once")
    ]
    (found,) = run(synthetic_rules, *rules).visit({("A", "fc"): 1, ("B", "fc"): 1, ("C", "fc"): 3})
    assert tree([found]) == [["A", ["B", "C"]]]
    assert [str(f.severity) for f in found.walk()] == ["critical"] * 3


def test_a_harmless_note_explains_nothing(synthetic_rules):
    def note(view: View) -> Verdict:
        return Verdict(Severity.INFO, 1.0, is_harmless=True)

    assert tree(pair(synthetic_rules, judge=note).visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == ["B", "A"]


def test_nor_does_one_that_is_over(synthetic_rules):
    def note(view: View) -> Verdict | None:
        return None if view.value("x") < 1 else Verdict(Severity.INFO, 1.0, is_harmless=True)

    watched = pair(synthetic_rules, judge=note)
    for value in (2, 0, 0):
        found = watched.visit({("B", "fc2"): value, ("A", "fc1"): value})
    assert tree(found) == ["B", "A"]


@pytest.mark.parametrize(("value", "expected"), [(2, [["A", "B"]]), (3, ["A", "B"])])
def test_what_a_cause_of_this_kind_cannot_bring_about_stands_beside_it(synthetic_rules, value, expected):
    watched = pair(synthetic_rules, spares=lambda evidence: ("B",) if evidence["seen"] == 3 else ())
    assert tree(watched.visit({("A", "fc1"): value, ("B", "fc2"): 2})) == expected


@pytest.mark.parametrize("seed", range(20))
def test_no_finding_is_lost_and_none_is_said_twice(synthetic_rules, seed):
    """Whatever explains whatever, in whatever order things happen."""
    draw = random.Random(seed)
    ids = "ABCDEF"
    rules = [
        rule(a, explains=tuple(b for b in ids if draw.random() < 0.4), persistence="at once") for a in ids
    ]
    draw.shuffle(rules)
    watched = run(synthetic_rules, *rules, depths={f"fc{d}": d for d in range(4)})
    spoken: set[str] = set()
    for _ in range(6):
        values = {(id_, f"fc{draw.randrange(4)}"): draw.choice((0, 1, 2, 3)) for id_ in ids}
        spoken |= {id_ for (id_, _), value in values.items() if value}
        found = watched.visit(values)
        assert sorted(f.rule for top in found for f in top.walk()) == sorted(spoken)
        for cause in (f for top in found for f in top.walk() if f.is_active):
            assert all(s.severity.rank <= cause.severity.rank for s in cause.related if s.is_active)


def test_of_two_rules_that_explain_each_other_the_first_is_the_cause(synthetic_rules):
    rules = (
        rule("A", explains=("B",), persistence="at once"),
        rule("B", explains=("A",), persistence="at once"),
    )
    assert tree(run(synthetic_rules, *rules).visit({("A", "fc"): 2, ("B", "fc"): 2})) == [["A", "B"]]


def test_a_circle_of_rules_is_cut_open(synthetic_rules):
    rules = [rule(a, explains=(b,), persistence="at once") for a, b in ("AB", "BC", "CA")]
    found = run(synthetic_rules, *rules).visit({(id_, "fc"): 2 for id_ in "ABC"})
    assert tree(found) == [["A", ["B", "C"]]]


def test_a_rule_does_not_explain_itself(synthetic_rules):
    watched = run(synthetic_rules, rule("A", explains=("A",), persistence="at once"))
    assert tree(watched.visit({("A", "fc"): 2})) == ["A"]


# Order


def ordered(synthetic: dict[str, Rule], values: Sequence[tuple[str, str, float]], **kwargs: Any) -> list[str]:
    rules = [rule(id_, persistence="at once", **kwargs.get(id_, {})) for id_ in "DCBA"]
    watched = run(synthetic, *rules, depths={"fc1": 1, "fc2": 2})
    return [f.rule for f in watched.visit({(id_, layer): value for id_, layer, value in values})]


def test_the_worst_comes_first(synthetic_rules):
    assert ordered(synthetic_rules, [("A", "fc1", 1), ("B", "fc1", 3), ("C", "fc1", 2)]) == ["B", "C", "A"]


def test_then_what_explains_more(synthetic_rules):
    values = [("A", "fc1", 2), ("B", "fc2", 2), ("C", "fc2", 2)]
    assert ordered(synthetic_rules, values, B={"explains": ("C",)}) == ["B", "A"]


def test_then_what_lies_upstream_then_the_id(synthetic_rules):
    assert ordered(synthetic_rules, [("A", "fc2", 2), ("B", "fc1", 2), ("C", "fc2", 2)]) == ["B", "A", "C"]


def test_what_came_first_comes_before_what_lies_upstream(synthetic_rules):
    watched = run(
        synthetic_rules,
        *(rule("A", persistence="at once"), rule("B", persistence="at once")),
        depths={"fc1": 1, "fc2": 2},
    )
    watched.visit({("B", "fc2"): 2, ("A", "fc1"): 0})
    assert tree(watched.visit({("B", "fc2"): 2, ("A", "fc1"): 2})) == ["B", "A"]


def test_resolved_findings_come_last(synthetic_rules):
    watched = run(synthetic_rules, rule("A", persistence="at once"), rule("B", persistence="at once"))
    for value in (3, 0, 0):
        found = watched.visit({("A", "fc"): value, ("B", "fc"): 1})
    assert [(f.rule, f.status) for f in found] == [("B", "active"), ("A", "resolved")]


def test_one_visit_is_enough_for_what_is_conclusive(synthetic_rules: dict[str, Rule]) -> None:
    sure = rule("A", judge=lambda view: Verdict(Severity.WARNING, 1.0, is_conclusive=view.value("x") > 5))
    assert run(synthetic_rules, sure).series([1.0])[0] is None
    (found,) = run(synthetic_rules, sure).series([9.0])
    assert found is not None
    assert found.status == "active"


@pytest.mark.parametrize(("last", "severity"), [(0.9, "info"), (1.9, "warning")])
def test_what_is_over_is_a_note_where_the_network_has_learned(
    synthetic_rules: dict[str, Rule], last: float, severity: str
) -> None:
    """A loss of 2 at first: half of it is gone, or next to nothing."""
    watched = run(synthetic_rules, rule("A"))
    for step, value in enumerate([2.0, 2.0, 0.0, 0.0, 0.0]):
        watched.history.add(step, {}, [Reading("run", "loss", None, step, 2.0 if step == 0 else last)])
        findings = watched.visit({("A", "fc"): value}, step)
        assert [f.severity for f in findings if f.is_active] in ([], ["warning"])
    assert [(f.status, f.severity) for f in findings] == [("resolved", severity)]
