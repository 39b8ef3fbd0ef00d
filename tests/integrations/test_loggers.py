"""What lands in each of Lightning's loggers: about ten numbers, the findings, and the user's metrics as ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nndiag.findings import Severity
from nndiag.report import Report
from nndiag.sinks.loggers import HEADLINE

from .lightning_runs import quiet_monitor, trained
from .logger_runs import ENVIRONMENT, KINDS, SICK, Landed, Sick, csv_logger, fit, read_csv

NUMBERS = {f"nndiag/findings_{severity}" for severity in Severity} | {f"nndiag/{name}" for name in HEADLINE}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For what the loggers write; they ask no server and leave the home directory alone."""
    path = tmp_path_factory.mktemp("loggers")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(path / "own"))
        yield path


@pytest.fixture(scope="module")
def run(directory: Path) -> tuple[Report, dict[str, Landed]]:
    """One fit with every logger whose package is there, all at once: the report, and what landed in each."""
    loggers = {name: kind.make(directory) for name, kind in KINDS.items() if kind.is_installed}
    monitor = fit(list(loggers.values())).callbacks[0]
    return monitor.report, {name: KINDS[name].read(logger) for name, logger in loggers.items()}


def landed_in(name: str, run: Any) -> Landed:
    """What one logger holds."""
    if name not in run[1]:
        pytest.skip(f"{name} needs {KINDS[name].package}, which is not installed")
    return run[1][name]


@pytest.mark.parametrize("name", [name for name in KINDS if name != "TensorBoardLogger"])
def test_about_ten_numbers_land(name: str, run: Any) -> None:
    landed, facts = landed_in(name, run), run[0].run
    assert 6 <= len(landed.own) <= 12
    assert landed.own.keys() <= NUMBERS
    steps = [step for step, _ in landed.own["nndiag/findings_critical"]]
    assert len(steps) == len(set(steps)) == facts["visits"]
    assert steps[-1] == facts["last_step"]
    assert landed.own["nndiag/saturation/dead_share"][-1] == (steps[-1], 1.0)
    assert max(len(points) for points in landed.own.values()) == len(steps)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.shows])
def test_findings_are_shown(name: str, run: Any) -> None:
    landed = landed_in(name, run)
    found = next(finding for top in run[0].findings for finding in top.walk() if finding.rule == SICK)
    assert SICK in landed.findings
    assert found.layers[0] in landed.findings
    assert 1 <= landed.shown <= 8


def test_the_users_metrics_are_the_same(run: Any, tmp_path: Path) -> None:
    bare = csv_logger(tmp_path)
    fit(bare, monitor=None)
    expected = read_csv(bare).users
    assert expected.keys() == {"train_loss", "val_loss"}
    for landed in run[1].values():
        assert landed.users.keys() == expected.keys()
        for name, points in landed.users.items():
            assert [step for step, _ in points] == [step for step, _ in expected[name]]
            values = [value for _, value in expected[name]]
            assert [value for _, value in points] == pytest.approx(values, rel=1e-6)


def test_several_loggers_share_one_record(run: Any, directory: Path) -> None:
    assert len(list(directory.rglob("nndiag.jsonl"))) == 1
    assert len(list(directory.rglob("events.out.tfevents.*"))) == 1


def test_a_logger_that_fails_costs_itself_alone(tmp_path: Path) -> None:
    class WandbLogger(type(csv_logger(tmp_path))):  # type: ignore[misc]
        """Knows no table."""

    used = [WandbLogger(tmp_path, name="failing"), csv_logger(tmp_path)]
    monitor = quiet_monitor(every_n_train_steps=10, strict=False)
    fit(used, monitor)
    assert list(monitor.guard.causes) == ["WandbSink"]
    assert len(read_csv(used[1]).own["nndiag/findings_critical"]) == monitor.report.run["visits"]


def test_numbers_of_a_run_that_ends_in_an_exception(tmp_path: Path) -> None:
    used, module = csv_logger(tmp_path), Sick()
    module.error = ValueError("the user's own")
    with pytest.raises(ValueError, match="the user's own"):
        trained(quiet_monitor(), module, logger=used)
    assert [step for step, _ in read_csv(used).own["nndiag/findings_critical"]] == [0, 1, 2]
