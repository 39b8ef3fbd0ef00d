"""A check-up for neural networks while they train.

Public names are loaded on first use (PEP 562), so that ``import nndiag`` pulls in neither Lightning nor
TensorBoard, and the TensorBoard plugin loader stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nndiag.diagnosis import diagnose as diagnose
    from nndiag.errors import CheckpointError as CheckpointError
    from nndiag.errors import ConfigurationError as ConfigurationError
    from nndiag.errors import IncompatibleStatisticsError as IncompatibleStatisticsError
    from nndiag.errors import MissingDependencyError as MissingDependencyError
    from nndiag.errors import NNDiagError as NNDiagError
    from nndiag.findings import Coverage as Coverage
    from nndiag.findings import Finding as Finding
    from nndiag.findings import Reading as Reading
    from nndiag.findings import Severity as Severity
    from nndiag.integrations.lightning import DiagnosticsMonitor as DiagnosticsMonitor
    from nndiag.layers import LayerInfo as LayerInfo
    from nndiag.monitor import Monitor as Monitor
    from nndiag.offline import check as check
    from nndiag.report import Report as Report
    from nndiag.snapshot import Snapshot as Snapshot

__version__ = "0.1.0"

_HOMES = {
    "CheckpointError": "errors",
    "ConfigurationError": "errors",
    "Coverage": "findings",
    "DiagnosticsMonitor": "integrations.lightning",
    "Finding": "findings",
    "IncompatibleStatisticsError": "errors",
    "LayerInfo": "layers",
    "MissingDependencyError": "errors",
    "Monitor": "monitor",
    "NNDiagError": "errors",
    "Reading": "findings",
    "Report": "report",
    "Severity": "findings",
    "Snapshot": "snapshot",
    "check": "offline",
    "diagnose": "diagnosis",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605


if not TYPE_CHECKING:  # to a type checker it would mean that any name exists

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'nndiag' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"nndiag.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
