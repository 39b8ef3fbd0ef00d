"""What is declared is what is imported, and each is pinned where everything is checked."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import requires
from typing import Any

import pytest

from .building import PACKAGE, ROOT

NAMES = {"sklearn": "scikit-learn", "pytorch_lightning": "pytorch-lightning", "tensorboardX": "tensorboardx"}
"""Where a package is not imported by the name it is installed by."""

BROUGHT = {"markupsafe": "jinja2", "werkzeug": "tensorboard"}
"""Come with a package that is declared, whose interface they are part of."""

OPTIONAL = {"pytorch-lightning", "transformers", "tensorboardx"}
"""Used where a user has them already; nobody needs them for nndiag."""


@cache
def project() -> dict[str, Any]:
    """The project's own table."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def name_of(requirement: str) -> str:
    """``jsonargparse[signatures]>=4.35`` is ``jsonargparse``."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def extra(name: str) -> set[str]:
    """The packages of an extra."""
    return {name_of(each) for each in project()["optional-dependencies"][name]}


@cache
def imported() -> frozenset[str]:
    """Every package of others that some file of nndiag imports, anywhere in it."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    others = found - sys.stdlib_module_names - {"nndiag"}
    return frozenset(NAMES.get(name, name) for name in others)


def test_what_is_imported_is_declared() -> None:
    declared = {name_of(each) for each in project()["dependencies"]}
    assert imported() - declared - extra("demo") <= OPTIONAL | BROUGHT.keys()


@pytest.mark.parametrize("name", BROUGHT)
def test_what_is_brought_along_is_required_there(name: str) -> None:
    assert name in {name_of(each) for each in requires(BROUGHT[name]) or []}


def test_what_is_declared_is_imported() -> None:
    assert {name_of(each) for each in project()["dependencies"]} <= imported()
    assert extra("demo") <= imported()


def test_each_requirement_says_from_which_version_on() -> None:
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    assert [
        each for group in groups for each in group if ">=" not in each and name_of(each) != "nndiag"
    ] == []


@pytest.mark.parametrize("name", ["demo", "test", "docs", "dev"])
def test_what_the_checks_install_is_pinned(name: str) -> None:
    pins = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").lower()
    pinned = {name_of(line) for line in pins.splitlines()}
    wanted = extra(name) | {name_of(each) for each in project()["dependencies"]}
    assert wanted - {"nndiag"} <= pinned
