"""The workflows, the templates and the citation file are well formed, careful, and of this version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import nndiag

from .building import ROOT
from .test_requirements import project

WORKFLOWS = {path.stem: path for path in sorted(ROOT.glob(".github/workflows/*.yml"))}
FORMS = [path for path in sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")) if path.stem != "config"]


def read(name: str) -> dict[Any, Any]:
    """A workflow; its ``on`` is a yes to YAML."""
    content: dict[Any, Any] = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return content


def steps(name: str) -> Iterator[dict[str, Any]]:
    """Of all jobs of a workflow."""
    for job in read(name)["jobs"].values():
        yield from job["steps"]


def commands() -> str:
    """What all workflows run."""
    return "\n".join(step.get("run", "") for name in WORKFLOWS for step in steps(name))


def test_there_is_one_for_each_purpose() -> None:
    assert list(WORKFLOWS) == ["docs", "lint", "release", "tests"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_may_only_read_and_ends(name: str) -> None:
    assert read(name)["permissions"] == {"contents": "read"}
    assert [job for job, table in read(name)["jobs"].items() if table.get("timeout-minutes", 999) > 240] == []


def test_only_a_tag_may_write() -> None:
    writing = [
        (name, job)
        for name in WORKFLOWS
        for job, table in read(name)["jobs"].items()
        if "write" in table.get("permissions", {}).values()
    ]
    assert writing == [("release", "publish")]
    assert read("release")["jobs"]["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_their_hash(name: str) -> None:
    used = [step["uses"] for step in steps(name) if "uses" in step]
    assert used
    assert [each for each in used if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", each)] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_others_wrote_is_not_put_into_a_script(name: str) -> None:
    """Names of branches and tags come through the environment; what the matrix says is ours."""
    inside = re.findall(r"\$\{\{\s*([\w.]+)", "\n".join(step.get("run", "") for step in steps(name)))
    assert [each for each in inside if not each.startswith("matrix.")] == []


def test_extras_that_are_installed_exist() -> None:
    asked = {
        extra
        for group in re.findall(r'"(?:\.|nndiag)\[([a-z,]+)\]', commands())
        for extra in group.split(",")
    }
    assert asked
    assert asked <= set(project()["optional-dependencies"])


def test_oldest_and_newest_are_tested() -> None:
    rows = read("tests")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    oldest, newest = (row for row in rows if row["name"] in ("oldest", "newest"))
    versions = [each for each in project()["classifiers"] if re.search(r"Python :: 3\.\d+$", each)]
    assert project()["requires-python"] == f">={oldest['python']}"
    assert oldest["resolution"] == "lowest-direct"
    assert versions[-1].endswith(f":: {newest['python']}")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_form_asks_for_what_is_needed(path: Any) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nndiag.__version__ == project()["version"]
    assert citation["license"] == project()["license"]


def test_changelog_begins_with_this_version() -> None:
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[0] in (nndiag.__version__, "Unreleased")
