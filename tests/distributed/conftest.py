"""One pair of processes for all tests: starting them costs more than what they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from .processes import Outcomes, train_together


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pair leaves what it writes."""
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="session")
def pair(place: Path) -> Outcomes:
    """What both ranks saw, by case."""
    return train_together("exactness,faults,merged", place)
