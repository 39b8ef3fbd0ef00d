"""Pages speak of rules, readings, measures and files that exist, and leave none out."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import nndiag
from nndiag.measures import MEASURES, RULES

from .links import broken
from .pages import MEASURE_PAGES, PAGES, README, name_of, prose


def page_of(measure: str) -> str:
    """The text of a measure's page."""
    return (MEASURE_PAGES / f"{measure}.md").read_text(encoding="utf-8")


class Everything(nn.Module):
    """A layer of each kind that some measure reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2))
        self.second = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.LayerNorm(16))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 6] -> [N, 3]."""
        x = self.second(self.first(x))
        pair = x.reshape(len(x), 2, 8)
        return self.last(x + self.attention(pair, pair, pair, need_weights=False)[0].flatten(1))


@cache
def readings_taken() -> frozenset[tuple[str, str]]:
    """Measure and name of all readings of a run."""
    torch.manual_seed(0)
    model, x, y = Everything(), torch.randn(128, 6), torch.randint(3, (128,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    options = {"console": False, "max_overhead": None, "every_n_train_steps": 20, "strict": True}
    with nndiag.Monitor(model, optimizer=optimizer, **options) as monitor:
        for step in range(122):
            rows = slice(step % 4 * 32, step % 4 * 32 + 32)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            monitor.step(loss, labels=y[rows])
    return frozenset((r.measure, r.name) for r in monitor.report.readings)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_rules_on_a_page_exist(page: Path) -> None:
    assert set(re.findall(r"\bND\d{3}\b", page.read_text(encoding="utf-8"))) <= set(RULES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    assert broken(prose(page), page) == []


@pytest.mark.parametrize("measure", MEASURES)
def test_measure_has_a_page_and_a_row(measure: str) -> None:
    assert page_of(measure).startswith(f"# {measure}\n")
    assert f"| [{measure}](docs/measures/{measure}.md) |" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("measure", MEASURES)
def test_page_has_the_sections_of_its_kind(measure: str) -> None:
    headings = re.findall(r"^## (.+)$", page_of(measure), re.MULTILINE)
    assert "Rules" in headings
    if measure != "coverage":  # it measures nndiag itself: there is nothing to fix in a network
        assert "How to fix it, and how to see that it worked" in headings
        assert "References" in headings


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_rule_is_on_its_measures_page(rule: nndiag.rules.Rule) -> None:
    assert f"{rule.id} {rule.name}" in page_of(rule.measure)


@pytest.mark.parametrize("measure", MEASURES)
def test_rules_of_a_measure_are_in_its_row(measure: str) -> None:
    row = re.search(rf"^\| \[{measure}\].*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    assert re.findall(r"ND\d{3}", row.group()) == sorted(rule.id for rule in MEASURES[measure].rules)


@pytest.mark.parametrize("measure", MEASURES)
def test_readings_are_on_their_measures_page(measure: str) -> None:
    taken = {name for owner, name in readings_taken() if owner == measure}
    judged = {rule.reads for rule in MEASURES[measure].rules}
    text = page_of(measure)
    assert taken
    assert [name for name in sorted(taken | judged) if f"`{name}`" not in text] == []


def test_run_takes_every_reading_that_a_rule_judges_or_a_chart_shows() -> None:
    """Else the test above would pass because nothing was read."""
    named = {(m.name, name) for m in MEASURES.values() for name in (*m.worst, *(r.reads for r in m.rules))}
    assert len(named & readings_taken()) > 0.6 * len(named)
