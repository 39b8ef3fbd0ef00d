"""The entry point that TensorBoard loads without a safety net."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from importlib.metadata import entry_points

import pytest
from tensorboard.plugins import base_plugin

from nndiag.dashboard.loader import SAMPLES, DashboardLoader

LIGHT = """
import sys
import tensorboard.plugins.base_plugin
before = set(sys.modules)
import nndiag.dashboard.loader
own = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(own - set(sys.stdlib_module_names)))
"""
LAZY = """
import sys
from tensorboard import default, program
import nndiag.dashboard.plugin
print(sorted({"torch", "lightning", "scipy", "safetensors", "rich", "jinja2"} & set(sys.modules)))
"""


def said(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_loader_loads_nothing_but_tensorboards_base() -> None:
    assert said(LIGHT) == "['nndiag']"


def test_the_plugin_does_without_torch() -> None:
    assert said(LAZY) == "[]"


def test_tensorboard_finds_it() -> None:
    found = [point for point in entry_points(group="tensorboard_plugins") if point.name == "nndiag"]
    if not found:
        pytest.skip("the installed nndiag has no entry point: install it again, pip install -e .")
    assert found[0].load() is DashboardLoader
    assert issubclass(DashboardLoader, base_plugin.TBLoader)


def test_room_for_the_data_unless_the_user_says_otherwise() -> None:
    for given, wanted in (({}, SAMPLES), ({"images": 5}, SAMPLES), ({"nndiag": 0}, 0), ({"nndiag": 7}, 7)):
        flags = Namespace(samples_per_plugin=dict(given))
        DashboardLoader().fix_flags(flags)
        assert flags.samples_per_plugin == {**given, "nndiag": wanted}


@pytest.mark.parametrize("flags", [Namespace(), Namespace(samples_per_plugin=None), None])
def test_flags_of_another_version_do_no_harm(flags: object) -> None:
    DashboardLoader().fix_flags(flags)
