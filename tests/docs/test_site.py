"""The site leaves nothing out: each page has its place, each public name its entry, each message its row."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import nndiag

from .pages import DOCS, PAGES, ROOT, blocks, name_of

TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
API = (DOCS / "api.md").read_text(encoding="utf-8")
DIRECTIVES = re.findall(r"^\.\. auto(?:class|exception|function):: (\S+)$", API, re.MULTILINE)
MODULES = sorted(file for file in ROOT.glob("nndiag/**/*.py"))


def entries(page: Path) -> list[str]:
    """The pages in the tables of contents of a page."""
    text = page.read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for tree in trees for line in tree.splitlines()]
    return [line for line in lines if line and not line.startswith(":")]


def test_index_has_each_page_once() -> None:
    listed = entries(DOCS / "index.md")
    pages = {page.stem for page in PAGES if page.parent == DOCS} - {"index"}
    folders = {"measures", "rules", "claims"}  # the last two are written by the build
    assert len(listed) == len(set(listed))
    assert pages | {f"{name}/index" for name in folders} == set(listed)


@pytest.mark.parametrize("name", nndiag.__all__)
def test_public_name_is_in_the_reference(name: str) -> None:
    assert f"nndiag.{name}" in DIRECTIVES


@pytest.mark.parametrize("directive", [each for each in DIRECTIVES if "huggingface" not in each])
def test_what_is_in_the_reference_exists_and_is_documented(directive: str) -> None:
    home, _, name = directive.rpartition(".")
    assert getattr(importlib.import_module(home), name).__doc__


def test_nothing_is_in_the_reference_twice() -> None:
    assert len(DIRECTIVES) == len(set(DIRECTIVES))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=name_of)
def test_session_on_a_page_goes_as_printed(page: Path) -> None:
    failed, tried = doctest.testfile(str(page), module_relative=False)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize(
    "file", [file for file in MODULES if ">>> " in file.read_text(encoding="utf-8")], ids=name_of
)
def test_example_in_a_docstring_goes_as_printed(file: Path) -> None:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0


@cache
def messages() -> str:
    """Every string of the code, what is filled in left open."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in MODULES]
    found = [_text(node) for tree in trees for node in ast.walk(tree)]
    return "\n".join(filter(None, found))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    return "".join(map(_text, node.values)) if isinstance(node, ast.JoinedStr) else ""


def told() -> list[str]:
    """The messages of the page; ``...`` stands for what differs."""
    table = re.compile(r"^\| (?:message|reason|note) \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)
    tables = table.findall(TROUBLESHOOTING)
    cells = [row.split(" | ")[0].removeprefix("| ") for table in tables for row in table.splitlines()]
    return [cell.strip("`").strip() for cell in cells]


@pytest.mark.parametrize("message", told())
def test_message_is_one_that_the_code_prints(message: str) -> None:
    parts = [part.strip() for part in message.split("...") if len(part.strip(" .:")) > 3]
    assert parts
    assert [part for part in parts if part not in messages()] == []


def test_there_are_messages_enough() -> None:
    assert len(told()) > 35


@pytest.mark.parametrize(
    "options", [{"measures": ["saturaton"]}, {"select": "ND2"}, {"max_overhead": 0}], ids=str
)
def test_example_of_a_wrong_option_is_what_it_raises(options: dict[str, Any]) -> None:
    with pytest.raises(nndiag.ConfigurationError) as raised:
        nndiag.DiagnosticsMonitor(**options)
    before, listing, _ = str(raised.value).partition("Expected one of: ")
    assert f"| `` {before}{listing}{'...' if listing else ''} `` |" in TROUBLESHOOTING
