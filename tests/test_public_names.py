"""The public face: every name is there, sorted, and comes without what it does not need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import nndiag

CONTRACT = (
    *("CheckpointError", "ConfigurationError", "Coverage", "DiagnosticsMonitor", "Finding"),
    *("IncompatibleStatisticsError", "MissingDependencyError", "Monitor", "NNDiagError", "Reading"),
    *("Report", "Severity"),
)


def loaded_after(code: str) -> set[str]:
    """Every module that a fresh interpreter has loaded after ``code``."""
    program = f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("name", nndiag.__all__)
def test_every_public_name_is_there(name):
    value = getattr(nndiag, name)
    assert value.__name__ == name
    assert value.__module__.startswith("nndiag")
    assert value.__doc__


def test_public_names_are_sorted_and_unique():
    assert list(nndiag.__all__) == sorted(set(nndiag.__all__))


def test_the_contract_is_kept():
    assert set(CONTRACT) <= set(nndiag.__all__)


def test_dir_lists_public_names():
    assert set(nndiag.__all__) <= set(dir(nndiag))


def test_star_import():
    names: dict[str, object] = {}
    exec("from nndiag import *", names)  # noqa: S102
    assert set(nndiag.__all__) <= names.keys()


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'Moniter'"):
        nndiag.Moniter


def test_importing_loads_nothing_heavy():
    loaded = loaded_after("import nndiag")
    assert "nndiag" in loaded
    heavy = (
        "torch",
        "lightning",
        "pytorch_lightning",
        "tensorboard",
        "scipy",
        "rich",
        "numpy",
        "typer",
        "jinja2",
    )
    assert not [name for name in loaded if name.partition(".")[0] in heavy]


@pytest.mark.parametrize("name", ["Monitor", "Report"])
def test_a_plain_loop_needs_no_lightning(name):
    loaded = loaded_after(f"import nndiag; nndiag.{name}")
    assert "torch" in loaded or name == "Report"
    heavy = ("lightning", "pytorch_lightning", "tensorboard", "typer")
    assert not [module for module in loaded if module.partition(".")[0] in heavy]
    assert "scipy.stats" not in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"]])
def test_help_loads_no_torch(arguments):
    code = f"""
import sys
sys.argv = ["nndiag", *{arguments!r}]
from nndiag.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded = loaded_after(code)
    assert "nndiag.cli" in loaded
    heavy = ("torch", "lightning", "tensorboard", "scipy", "numpy")
    assert not [name for name in loaded if name.partition(".")[0] in heavy]


def test_the_typed_marker_is_shipped():
    from importlib.resources import files

    assert (files("nndiag") / "py.typed").is_file()
