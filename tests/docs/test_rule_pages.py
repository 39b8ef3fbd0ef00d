"""Every rule has a page, made of the code and of the pages that people write."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from docutils import nodes

from nndiag.findings import Severity
from nndiag.measures import MEASURES, RULES
from nndiag.rules import Rule

from .generated import extension, rule_pages
from .links import broken
from .pages import RULE_PAGES

by_id = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
NETWORKS_RULES = [rule for rule in RULES.values() if rule.measure != "coverage"]


def test_there_is_a_page_a_rule_and_an_index() -> None:
    assert set(rule_pages()) == {"index.md", *(f"{rule}.md" for rule in RULES)}


@by_id
def test_page_begins_with_the_rule_and_says_what_it_is_about(rule: Rule) -> None:
    text = rule_pages()[f"{rule.id}.md"]
    assert text.startswith(f"# {rule.id} {rule.name}\n")
    assert f"](../measures/{rule.measure}.md)" in text
    assert f"`nndiag/{rule.measure}/{rule.reads}`" in text
    assert f"{rule.id} {rule.name}" in text.partition("## When it speaks")[2]
    assert "](../evidence.md)" in text


@by_id
def test_index_lists_the_rule(rule: Rule) -> None:
    index = rule_pages()["index.md"]
    assert f"| [{rule.id} {rule.name}]({rule.id}.md) |" in index
    assert f"\n{rule.id}\n" in index.partition("{toctree}")[2]


@pytest.mark.parametrize("measure", MEASURES)
def test_index_has_a_section_a_measure(measure: str) -> None:
    assert f"\n## {measure}\n" in rule_pages()["index.md"]


@pytest.mark.parametrize("name", ["index.md", *(f"{rule}.md" for rule in RULES)])
def test_links_of_generated_pages_resolve(name: str) -> None:
    assert broken(rule_pages()[name], RULE_PAGES / name) == []


@pytest.mark.parametrize("rule", NETWORKS_RULES, ids=lambda rule: rule.id)
def test_each_rule_about_a_network_says_how_to_see_that_advice_worked(rule: Rule) -> None:
    found = extension().checks(rule)
    assert found
    assert all(check.endswith(".") and check in rule_pages()[f"{rule.id}.md"] for check in found)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("ND301", [Severity.CRITICAL, Severity.WARNING]),  # "half of the units ..., else a warning"
        ("ND313", [Severity.INFO]),
        ("ND504", [Severity.WARNING]),
        ("ND604", [Severity.CRITICAL]),
        ("ND903", [Severity.INFO]),
    ],
)
def test_severities_are_those_that_the_code_can_say(rule: str, words: list[Severity]) -> None:
    assert extension().severities(RULES[rule]) == words


@by_id
def test_each_rule_has_a_severity(rule: Rule) -> None:
    assert extension().severities(rule)


@by_id
def test_explained_by_is_the_inverse_of_explains(rule: Rule) -> None:
    for cause in extension().explained_by(rule):
        assert rule.id in RULES[cause].explains
    assert all(rule.id in extension().explained_by(RULES[symptom]) for symptom in rule.explains)


def test_paragraph_of_two_rules_is_on_both_pages() -> None:
    told = "They become a warning when the run is more than 40 updates old"
    assert told in rule_pages()["ND311.md"]
    assert told in rule_pages()["ND312.md"]


def test_figures_are_those_of_the_page_of_evidence() -> None:
    page = "| rule | found |\n|---|---|\n| ND301 | 8 of 9 |\n| ND302 | none |\n\n| ND301 | elsewhere |\n"
    assert extension().rows(page, "rule", RULES["ND301"]) == [
        "| rule | found |",
        "|---|---|",
        "| ND301 | 8 of 9 |",
    ]
    assert extension().rows(page, "rule", RULES["ND303"]) == []
    assert extension().rows(page, "program", RULES["ND301"]) == []


def test_ids_in_running_text_become_links_and_nothing_else_does() -> None:
    doctree = nodes.paragraph("", "", nodes.Text("See ND301, not ND999: "), nodes.literal("", "ND302"))
    uri = SimpleNamespace(get_relative_uri=lambda source, target: f"{source}->{target}")
    extension()._link(SimpleNamespace(builder=uri), doctree, "start")
    links = list(doctree.findall(nodes.reference))
    assert doctree.astext() == "See ND301, not ND999: ND302"
    assert [(link.astext(), link["refuri"]) for link in links] == [("ND301", "start->rules/ND301")]
