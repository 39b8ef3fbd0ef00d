"""Three steps of each architecture with nndiag at every step leave the same numbers as without."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

import nndiag

from .models import ARCHITECTURES, Architecture
from .training import STEPS, compared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the libraries
    pytest.mark.filterwarnings(r"error::Warning:nndiag\..*"),
]
Result = tuple[dict[str, int], nndiag.Report, dict[str, int]]


@cache
def result(architecture: Architecture) -> Result:
    """What differs, the report, and nndiag's own faults; trained once for all tests."""
    differences, monitor = compared(architecture)
    return differences, monitor.report, dict(monitor.guard.faults)


@pytest.fixture
def seen(architecture: Architecture) -> Result:
    """The result of an architecture whose library is installed."""
    if architecture.missing:
        pytest.skip(f"{architecture.missing} is not installed: pip install transformers timm torchvision")
    return result(architecture)


def grave(report: nndiag.Report) -> list[str]:
    """Findings at warning or above, in a word each."""
    found = (f for f in report.findings if f.severity is not nndiag.Severity.INFO)
    return [f"{finding.rule} {finding.severity} {finding.layer}" for finding in found]


def by_name(architecture: Architecture) -> str:
    """Test ids."""
    return f"{architecture.library}-{architecture.name}"


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=by_name)
def test_training_with_nndiag_differs_in_no_value(
    architecture: Architecture, seen: Result, record_property: Callable[[str, object], None]
) -> None:
    differences, report, faults = seen
    refused = next((str(f.message) for f in report.findings if f.rule == "ND903"), "")
    layers = len({entry.layer for entry in report.coverage})
    probe, count = str(report.run["probe"]), sum(differences.values())
    row = (architecture.library, architecture.name, layers, count, probe, refused, grave(report))
    record_property("architecture", row)
    assert differences == {}
    assert faults == {}
    assert probe.endswith("samples"), refused
    assert report.run["visits"] == STEPS


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=by_name)
@pytest.mark.usefixtures("architecture")
def test_default_weights_are_not_accused(seen: Result) -> None:
    assert grave(seen[1]) == []
