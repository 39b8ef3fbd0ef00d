"""From a wheel to a diagnosis: an environment with nothing of this tree in it, and another directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nndiag

from .building import ROOT, Environment, run

pytestmark = pytest.mark.slow


def test_import_is_of_what_was_installed(installed: Environment, tmp_path: Path) -> None:
    code = "import nndiag; from nndiag import Monitor, DiagnosticsMonitor; print(nndiag.__file__)"
    home = Path(run(installed.python, "-c", code, cwd=tmp_path).stdout.strip())
    assert home == installed.packages / "nndiag" / "__init__.py"
    assert ROOT not in home.parents


def test_version_is_that_of_the_distribution(installed: Environment, tmp_path: Path) -> None:
    code = "from importlib.metadata import version; print(version('nndiag'))"
    assert run(installed.python, "-c", code, cwd=tmp_path).stdout.strip() == nndiag.__version__
    for command in ((installed.scripts / "nndiag",), (installed.python, "-m", "nndiag")):
        assert run(*command, "--version", cwd=tmp_path).stdout == f"nndiag {nndiag.__version__}\n"


def test_command_says_what_it_can_do(installed: Environment, tmp_path: Path) -> None:
    said = run(installed.scripts / "nndiag", "--help", cwd=tmp_path).stdout
    assert {"demo", "check", "compare", "report", "rules", "explain"} <= set(re.findall(r"\w+", said))


def test_tensorboard_finds_the_tab(installed: Environment, tmp_path: Path) -> None:
    code = """
from tensorboard.default import get_dynamic_plugins
print(*(plugin.__module__ for plugin in get_dynamic_plugins()))
"""
    assert "nndiag.dashboard.loader" in run(installed.python, "-c", code, cwd=tmp_path).stdout.split()


def test_demo_finds_what_it_planted_and_its_record_can_be_read(
    installed: Environment, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install scikit-learn")
    command = installed.scripts / "nndiag"
    said = run(command, "demo", "--out", "found", cwd=tmp_path).stdout
    assert said.count("✓") == 11
    assert "✗" not in said
    page = (tmp_path / "found" / "stiff" / "nndiag.html").read_text(encoding="utf-8")
    assert "<script" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    again = run(command, "report", "found/stiff", "--fail-on", "never", cwd=tmp_path).stdout
    assert "units-locked" in again
