"""One short fit of a sick network for each logger, and what landed, read back by the logger's own means."""

from __future__ import annotations

import csv
import json
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import loggers
from torch import nn

from .lightning_runs import Classifier, loader, quiet_monitor, quiet_trainer

SICK = "ND202"
"""The rule that finds what is planted in ``Sick``."""

Series = dict[str, list[tuple[int, float]]]
"""Steps and values by the name of a metric."""


class Sick(Classifier):
    """Its only activation can never be on."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
        nn.init.constant_(self.network[0].bias, -100.0)


@dataclass
class Landed:
    """What a logger holds after a fit.

    Attributes:
        metrics: Every scalar.
        findings: The text in which findings are shown, where the logger can.
        shown: How often it was written.
    """

    metrics: Series = field(default_factory=lambda: defaultdict(list))
    findings: str = ""
    shown: int = 0

    @property
    def own(self) -> Series:
        """Metrics of nndiag."""
        return {name: points for name, points in self.metrics.items() if name.startswith("nndiag")}

    @property
    def users(self) -> Series:
        """All other metrics."""
        return {name: points for name, points in self.metrics.items() if not name.startswith("nndiag")}


def fit(logger: Any, monitor: Any = "") -> Any:
    """Trains ``Sick`` for 60 steps, by default watched at the regular steps."""
    torch.manual_seed(0)
    callbacks = [quiet_monitor(every_n_train_steps=10) if monitor == "" else monitor]
    options = {"logger": logger, "max_epochs": 10, "log_every_n_steps": 2, "num_sanity_val_steps": 0}
    trainer = quiet_trainer(*filter(None, callbacks), **options)
    trainer.fit(Sick(), loader(shuffle=True), loader())
    return trainer


def csv_logger(directory: Path) -> loggers.CSVLogger:
    """Lightning's own table of numbers."""
    return loggers.CSVLogger(directory, name="csv")


def read_csv(logger: Any) -> Landed:
    """The rows of ``metrics.csv``."""
    landed = Landed()
    with (Path(logger.log_dir) / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    landed.metrics[name].append((int(row["step"]), float(value)))
    return landed


def tensorboard_logger(directory: Path) -> loggers.TensorBoardLogger:
    """Event files."""
    return loggers.TensorBoardLogger(directory, name="tensorboard")


def read_tensorboard(logger: Any) -> Landed:
    """The event file as TensorBoard loads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(logger.log_dir), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    landed = Landed()
    for name in events.Tags()["scalars"]:
        if name != "epoch":
            landed.metrics[name] = [(event.step, event.value) for event in events.Scalars(name)]
    texts = events.Tensors("nndiag/report/text_summary")
    landed.findings = make_ndarray(texts[-1].tensor_proto).item().decode()
    landed.shown = len(texts)
    return landed


def wandb_logger(directory: Path) -> Any:
    """Weights & Biases, offline."""
    return loggers.WandbLogger(save_dir=directory, project="nndiag", offline=True)


def read_wandb(logger: Any) -> Landed:
    """The ``.wandb`` file that ``wandb sync`` would send, and the newest table beside it."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    run = logger.experiment
    folder = Path(run.dir).parent
    run.finish()
    wandb.teardown()  # the process that writes holds the last part back until it ends
    landed = Landed()
    for content in _blocks((folder / f"run-{run.id}.wandb").read_bytes()):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") != "history":
            continue
        plain = [item for item in record.history.item if len(item.nested_key) < 2]  # a table is nested
        values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in plain}
        step = values.pop("trainer/global_step", None)
        for name, value in values.items():
            if isinstance(value, (int, float)) and not name.startswith("_") and name != "epoch":
                landed.metrics[name].append((step, float(value)))
    tables = sorted(folder.glob("files/media/table/nndiag/*.json"), key=lambda path: path.stat().st_mtime_ns)
    landed.findings, landed.shown = tables[-1].read_text(), len(tables)
    return landed


def _blocks(content: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format: blocks of 32 KiB, of parts with checksum, length and kind."""
    size, place, whole = 2**15, 7, b""
    while place < len(content):
        if size - place % size < 7:
            place += size - place % size
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield whole
            whole = b""


def mlflow_logger(directory: Path) -> loggers.MLFlowLogger:
    """MLflow with a store of files; it wants ``MLFLOW_ALLOW_FILE_STORE=true``."""
    return loggers.MLFlowLogger("nndiag", tracking_uri=f"file:{directory / 'mlruns'}")


def read_mlflow(logger: Any) -> Landed:
    """What ``MlflowClient`` gives back."""
    client, run = logger.experiment, logger.run_id
    landed = Landed()
    for name in client.get_run(run).data.metrics:
        if name != "epoch":
            points = client.get_metric_history(run, name)
            landed.metrics[name] = [(point.step, point.value) for point in points]
    landed.findings = Path(client.download_artifacts(run, "nndiag/report.md")).read_text()
    landed.shown = len(client.list_artifacts(run, "nndiag"))
    return landed


@dataclass(frozen=True)
class Kind:
    """A logger: the package it needs, how it is made, and how it is read.

    ``shows`` says whether it can show findings.
    """

    package: str
    make: Callable[[Path], Any]
    read: Callable[[Any], Landed]
    shows: bool = True

    @property
    def is_installed(self) -> bool:
        """Whether the package is there."""
        return find_spec(self.package) is not None


ENVIRONMENT = {"MLFLOW_ALLOW_FILE_STORE": "true", "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
"""No server and no network."""

KINDS = {
    "CSVLogger": Kind("lightning", csv_logger, read_csv, shows=False),
    "TensorBoardLogger": Kind("tensorboard", tensorboard_logger, read_tensorboard),
    "WandbLogger": Kind("wandb", wandb_logger, read_wandb),
    "MLFlowLogger": Kind("mlflow", mlflow_logger, read_mlflow),
}
