"""Options of DiagnosticsMonitor: wrong ones name themselves, right ones do what they say."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn

import nndiag
from nndiag.measures import MEASURES, RULES

from .lightning_runs import BATCHES, Classifier, hooks_on, loader, quiet_monitor, quiet_trainer, trained

WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"measures": ["saturatoin"]}, "saturation"),
    ({"measures": "saturation"}, "sequence"),
    ({"select": ["ND20x"]}, "ND20"),
    ({"select": ["ND999:net.*"]}, "ND"),
    ({"ignore": ["nd202"]}, "ND202"),
    ({"thresholds": {"ND2O1": 0.8}}, "ND201"),
    ({"thresholds": {"ND201": "high"}}, "number"),
    ({"thresholds": {"ND201": float("nan")}}, "number"),
    ({"every_n_train_steps": 0}, "0"),
    ({"every_n_train_steps": -1}, "-1"),
    ({"every_n_train_steps": "x"}, "'x'"),
    ({"every_n_train_steps": True}, "True"),
    ({"every_n_train_steps": 2.5}, "2.5"),
    ({"probe_samples": 0}, "0"),
    ({"probe_samples": "many"}, "many"),
    ({"max_overhead": -1}, "-1"),
    ({"max_overhead": float("nan")}, "nan"),
    ({"max_overhead": "low"}, "low"),
    ({"stop_on": "bad"}, "warning"),
    ({"log_dir": 3}, "3"),
    ({"layers": "network"}, "sequence"),
    ({"layers": [""]}, "non-empty"),
)


@pytest.mark.parametrize(("options", "hint"), WRONG, ids=[f"{o}".replace(" ", "") for o, _ in WRONG])
def test_wrong_option_names_itself(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(nndiag.ConfigurationError) as caught:
        nndiag.DiagnosticsMonitor(**options)
    message = str(caught.value)
    assert next(iter(options)) in message
    assert hint in message
    assert "\n" not in message
    assert isinstance(caught.value, ValueError)


def test_unknown_layer_is_said_at_the_start_of_fit() -> None:
    monitor, module = quiet_monitor(layers=["netwrok.*"]), Classifier()
    with pytest.raises(nndiag.ConfigurationError, match=r"layers.*netwrok.*network") as caught:
        trained(monitor, module)
    assert module.losses == []
    assert "\n" not in str(caught.value)
    assert hooks_on(module) == 0


@pytest.mark.parametrize("patterns", [["network.2"], ["!network.0", "!network.4"], ["network.*"]])
def test_layers_narrow_what_is_read(patterns: list[str]) -> None:
    monitor = quiet_monitor(layers=patterns)
    trained(monitor)
    read = {reading.layer for reading in monitor.report.readings if reading.layer is not None}
    assert "network.2" in read
    if patterns != ["network.*"]:
        assert not read & {"network.0", "network.4"}


def test_every_option_is_keyword_only_and_typed() -> None:
    signature = inspect.signature(nndiag.DiagnosticsMonitor)
    assert list(signature.parameters) == [
        *("every_n_train_steps", "measures", "layers", "select", "ignore", "thresholds", "probe"),
        *("probe_samples", "max_overhead", "log_dir", "console", "html", "stop_on", "merge_ranks"),
        "strict",
    ]
    for parameter in signature.parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is not inspect.Parameter.empty
        assert parameter.annotation is not inspect.Parameter.empty


def test_command_line_parses_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    arguments = [
        "--trainer.callbacks=nndiag.DiagnosticsMonitor",
        "--trainer.callbacks.every_n_train_steps=5",
        "--trainer.callbacks.layers=[network.*]",
        "--trainer.callbacks.thresholds={ND201: 0.8}",
        "--trainer.callbacks.max_overhead=null",
    ]
    cli = LightningCLI(Classifier, run=False, args=arguments, save_config_callback=None)
    (monitor,) = (c for c in cli.trainer.callbacks if isinstance(c, nndiag.DiagnosticsMonitor))
    assert monitor.options.every_n == 5
    assert monitor.options.selection.layers == ("network.*",)
    assert monitor.options.selection.thresholds == {"ND201": 0.8}
    assert monitor.options.max_overhead is None


def test_command_line_trains_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse")
    from lightning.pytorch.cli import LightningCLI

    (tmp_path / "run.yaml").write_text(CONFIGURATION)
    cli = LightningCLI(
        Classifier,
        args=["fit", "--config", str(tmp_path / "run.yaml"), "--trainer.callbacks.init_args.ignore=[ND7]"],
        save_config_callback=None,
        datamodule_class=Data,
    )
    (monitor,) = (c for c in cli.trainer.callbacks if isinstance(c, nndiag.DiagnosticsMonitor))
    assert monitor.options.selection.ignore == ("ND7",)
    assert monitor.options.selection.thresholds == {"ND201": 0.8}
    assert monitor.report.run["last_step"] == BATCHES - 1
    assert (tmp_path / "here" / "nndiag.jsonl").exists()


CONFIGURATION = """
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: nndiag.DiagnosticsMonitor
      init_args:
        every_n_train_steps: 2
        thresholds: {ND201: 0.8}
        log_dir: here
        console: false
        strict: true
"""


class Data(LightningDataModule):
    """The loader as a data module, which the command line wants."""

    def train_dataloader(self) -> Any:
        return loader()


@pytest.mark.parametrize("value", ["0", "false", "off"])
def test_environment_switches_everything_off(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NNDIAG", value)
    monitor = quiet_monitor(log_dir=str(tmp_path / "run"), html=True, console=True, stop_on="info")
    _, module = trained(monitor)
    _, bare = trained(None)
    assert module.losses == bare.losses
    assert monitor.report.readings == ()
    assert monitor.report.status == "ok"
    assert list(tmp_path.iterdir()) == []


class Dead(Classifier):
    """Its ReLU can never be on."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        nn.init.constant_(self.network[0].bias, -100.0)


def fit_dead(**options: Any) -> tuple[Any, nndiag.DiagnosticsMonitor]:
    """Ten epochs of a network that cannot learn."""
    torch.manual_seed(0)
    monitor = quiet_monitor(**options)
    trainer = quiet_trainer(monitor, max_epochs=10)
    trainer.fit(Dead(), loader(shuffle=True))
    return trainer, monitor


def test_stop_on_ends_the_run() -> None:
    stopped, monitor = fit_dead(stop_on="warning")
    going, other = fit_dead()
    assert monitor.report.status != "ok"
    assert stopped.global_step < going.global_step == 10 * BATCHES
    assert other.report.status == monitor.report.status


def test_ignored_rules_do_not_stop() -> None:
    trainer, monitor = fit_dead(stop_on="info", ignore=["ND"])
    assert trainer.global_step == 10 * BATCHES
    assert monitor.report.findings == ()


def test_select_and_ignore_by_rule_and_layer() -> None:
    _, everything = fit_dead()
    rules = {finding.rule for top in everything.report.findings for finding in top.walk()}
    assert "ND202" in rules
    _, ignored = fit_dead(ignore=["ND202:network.*"])
    _, selected = fit_dead(select=["ND202"])
    assert "ND202" not in {f.rule for top in ignored.report.findings for f in top.walk()}
    assert {f.rule for top in selected.report.findings for f in top.walk()} == {"ND202"}


def test_measures_narrow_what_is_measured() -> None:
    monitor = quiet_monitor(measures=["saturation"])
    trained(monitor)
    assert {reading.measure for reading in monitor.report.readings} - {"run"} == {"saturation"}
    assert "saturation" in MEASURES
    assert all(rule.startswith("ND") for rule in RULES)
