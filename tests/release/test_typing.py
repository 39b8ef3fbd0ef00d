"""A user's program against what is installed, with mypy as strict as it can be."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

import nndiag

from .building import Environment, run
from .program import read, watched

PROGRAM = Path(__file__).with_name("program.py")
STRICT = """
[mypy]
strict = True
untyped_calls_exclude = torch
"""
"""That of a user who forgives PyTorch its own gaps."""

APART = """
[mypy-torch.*,lightning.*,numpy.*,scipy.*,tensorboard.*,safetensors.*,rich.*,typer.*,jinja2.*]
follow_imports = skip
ignore_missing_imports = True

[mypy-users]
disallow_subclassing_any = False
"""
"""Leaves out what takes most of the time. What comes from these packages is then of any type."""


def errors(program: Path, environment: Environment, folder: Path, *sections: str) -> list[str]:
    """What mypy says of a program, one line an error."""
    settings = folder / "mypy.ini"
    settings.write_text(STRICT + "".join(sections), encoding="utf-8")
    words = ("--config-file", settings, "--cache-dir", environment.folder / "cache", "--output", "json")
    copy = shutil.copy(program, folder / "users.py")  # outside of this tree
    command = (sys.executable, "-c", MYPY, *words, "--python-executable", environment.python, copy)
    lines = run(*command, cwd=folder).stdout.split("\n")
    return [f"{found['line']}: {found['message']}" for found in map(json.loads, filter(None, lines))]


MYPY = "import sys; from mypy import api; sys.stdout.write(api.run(sys.argv[1:])[0])"
"""As the command, but for its exit status."""


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel's modules and nothing else."""
    pytest.importorskip("mypy", reason="needs mypy: pip install mypy")
    environment = Environment.new(tmp_path_factory.mktemp("bare"))
    environment.unpack(wheel)
    return environment


@pytest.mark.parametrize("name", nndiag.__all__)
def test_program_has_every_public_name_in_it(name: str) -> None:
    assert re.search(rf"\bnndiag\.{name}\b", PROGRAM.read_text(encoding="utf-8"))


def test_program_runs(tmp_path: Path) -> None:
    assert read(watched(4, tmp_path)).startswith("#")


def test_types_of_an_installed_nndiag_are_seen(bare: Environment, tmp_path: Path) -> None:
    assert errors(PROGRAM, bare, tmp_path, APART) == []


def test_name_that_does_not_exist_is_an_error(bare: Environment, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import nndiag\n\nnndiag.Moniter\n", encoding="utf-8")
    assert errors(program, bare, tmp_path, APART) == ['3: Module has no attribute "Moniter"']


@pytest.mark.slow
def test_types_are_right_together_with_those_of_torch_and_lightning(
    installed: Environment, tmp_path: Path
) -> None:
    pytest.importorskip("mypy", reason="needs mypy: pip install mypy")
    assert errors(PROGRAM, installed, tmp_path, "warn_unreachable = True\n") == []
