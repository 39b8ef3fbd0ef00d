"""Each page of the gallery is a program that ends in assertions; the build of the site runs them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .pages import DOCS, name_of

GALLERY = DOCS / "gallery"
SHARED = "bench.py"
CLAIMS = sorted(file for file in GALLERY.glob("*.py") if file.name != SHARED)
LAST = GALLERY / "corrections.py"


def tree(page: Path) -> ast.Module:
    """A page as a syntax tree."""
    return ast.parse(page.read_text(encoding="utf-8"))


def test_pages_are_numbered_one_after_another() -> None:
    titles = [(ast.get_docstring(tree(page)) or "").splitlines()[0] for page in CLAIMS]
    assert sorted(int(title.partition(".")[0]) for title in titles) == list(range(1, len(CLAIMS) + 1))


@pytest.mark.parametrize("page", CLAIMS, ids=name_of)
def test_page_asserts_what_it_says(page: Path) -> None:
    checks = [node for node in ast.walk(tree(page)) if isinstance(node, ast.Assert)]
    assert len(checks) > 3


@pytest.mark.parametrize("page", CLAIMS, ids=name_of)
def test_page_draws_one_figure(page: Path) -> None:
    calls = [node for node in ast.walk(tree(page)) if isinstance(node, ast.Call)]
    assert sum(isinstance(call.func, ast.Name) and call.func.id == "figure" for call in calls) == 1


def test_last_page_leads_to_every_other() -> None:
    linked = set(re.findall(r":doc:`(\w+)`", LAST.read_text(encoding="utf-8")))
    assert linked == {page.stem for page in CLAIMS} - {LAST.stem}
