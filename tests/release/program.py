"""A user's program with every public name in it: checked as strictly as can be, and what is wrong in it is noticed.

A comment that expects an error and finds none is an error itself, so that this fails where a type got lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

import nndiag


class Network(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 4] -> [N, 3]."""
        scores: Tensor = self.layers(x)
        return scores


def watched(steps: int, folder: Path) -> nndiag.Report:
    """A loop with a monitor."""
    torch.manual_seed(0)
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"ND201": 0.8}
    with nndiag.Monitor(
        model, optimizer=optimizer, log_dir=folder, thresholds=options, console=False
    ) as monitor:
        assert_type(monitor, nndiag.Monitor)
        for _ in range(steps):
            x, y = torch.randn(16, 4), torch.randint(3, (16,))
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            monitor.step(loss, labels=y)
            assert_type(monitor.should_stop, bool)
    assert_type(monitor.report, nndiag.Report)
    return monitor.report


def read(report: nndiag.Report) -> str:
    """What a report has in it."""
    assert_type(report.coverage, nndiag.Coverage)
    assert_type(report.coverage.counts(), dict[str, int])
    for finding in every(report):
        assert_type(finding.severity, nndiag.Severity)
        assert_type(finding.severity.rank, int)
        assert_type(finding.layer, str | None)
        assert_type(finding.is_active, bool)
    for reading in report.readings:
        assert_type(reading, nndiag.Reading)
        assert_type(reading.value, float)
        assert_type(reading.tag, str)
    assert_type(nndiag.Report.from_json(report.to_json()), nndiag.Report)
    return report.to_markdown()


def every(report: nndiag.Report) -> Iterator[nndiag.Finding]:
    """Causes and what follows from them."""
    for cause in report.findings:
        yield from cause.walk()


def checked(*paths: Path) -> nndiag.Report | None:
    """Checkpoints, and the errors that may come."""
    try:
        return nndiag.check(paths, ignore=["ND304"])
    except nndiag.CheckpointError as error:
        assert_type(error, nndiag.CheckpointError)
    except (nndiag.ConfigurationError, nndiag.IncompatibleStatisticsError):
        return None
    except nndiag.MissingDependencyError as error:
        raise nndiag.NNDiagError(error.name) from error
    return None


def judged(path: Path) -> nndiag.Report:
    """A snapshot on disk."""
    snapshot = nndiag.Snapshot.load(path)
    assert_type(snapshot, nndiag.Snapshot)
    for layer in snapshot.layers.values():
        assert_type(layer, nndiag.LayerInfo)
        assert_type(layer.units, int | None)
    assert_type(nndiag.diagnose([snapshot]), nndiag.Report)
    return nndiag.diagnose([snapshot])


def under_lightning() -> Trainer:
    """A callback among others."""
    monitor = nndiag.DiagnosticsMonitor(every_n_train_steps=50, select=["ND2"], max_overhead=None)
    assert_type(monitor.report, nndiag.Report)
    return Trainer(max_epochs=1, callbacks=[monitor])


def wrong(model: nn.Module, report: nndiag.Report) -> None:
    """Each line has a mistake."""
    nndiag.Monitor(model, every_n_train_steps="often")  # type: ignore[arg-type]
    nndiag.Monitor(model, probes=False)  # type: ignore[call-arg]
    nndiag.Monitor(model, None)  # type: ignore[call-arg]
    nndiag.DiagnosticsMonitor(thresholds={201: 0.8})  # type: ignore[dict-item]
    nndiag.check(3)  # type: ignore[arg-type]
    nndiag.diagnose(report)  # type: ignore[arg-type]
    report.findings = ()  # type: ignore[misc]
    report.find("ND201")  # type: ignore[attr-defined]
