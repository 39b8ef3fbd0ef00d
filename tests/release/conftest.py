"""The files of a release, built once."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from .building import ROOT, Environment, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Wheel and source distribution of this tree."""
    if find_spec("hatchling") is None:
        pytest.skip("needs hatchling: pip install hatchling")
    return build(ROOT, tmp_path_factory.mktemp("dist"), "wheel", "sdist")


@pytest.fixture(scope="session")
def wheel(built: dict[str, Path]) -> Path:
    """The wheel."""
    return built["wheel"]


@pytest.fixture(scope="session")
def sdist(built: dict[str, Path]) -> Path:
    """The source distribution."""
    return built["sdist"]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel in it, which finds everything else here."""
    environment = Environment.new(tmp_path_factory.mktemp("clean"))
    environment.install(wheel)
    environment.borrow()
    return environment
