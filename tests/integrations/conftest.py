"""Quiet surroundings for the frameworks."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore = [] if find_spec("transformers") and find_spec("accelerate") else ["huggingface_runs.py"]
"""Searched for examples in docstrings like every module, which would import what is not there."""


@pytest.fixture(autouse=True)
def quiet_framework() -> Iterator[None]:
    """No notices about devices and stop conditions."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty at the start of each test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Lightning ignores SIGINT for good once it has seen a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Frameworks give advice and use what is deprecated; only nndiag's own warnings stay errors."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker(pytest.mark.filterwarnings(r"error::Warning:nndiag\..*"))
