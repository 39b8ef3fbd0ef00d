"""Faults planted in a real Lightning run are found in its checkpoints, with the ids of a live run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nndiag
from nndiag.checkpoints import reading
from nndiag.checkpoints.child import read_here
from nndiag.errors import ConfigurationError
from nndiag.findings import Finding
from nndiag.offline import importing, lightning_of
from nndiag.report import Report

pytestmark = pytest.mark.filterwarnings("ignore:.*(many workers|LeafSpec).*")

EVERY, STEPS = 20, 60


class Planted(LightningModule):
    """Momentum 0, a layer that was widened by copies, and a layer the optimizer does not know."""

    def __init__(self, is_sick: bool) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.stem, self.bn = nn.Linear(12, 24), nn.BatchNorm1d(24, momentum=0.0 if is_sick else 0.1)
        self.wide, self.reader = nn.Linear(24, 24), nn.Linear(24, 24)
        self.left_out, self.head = nn.Linear(24, 24), nn.Linear(24, 3)
        self.is_sick = is_sick
        if is_sick:
            with torch.no_grad():
                self.wide.weight[12:], self.wide.bias[12:] = self.wide.weight[:12], self.wide.bias[:12]
                self.reader.weight[:, 12:] = self.reader.weight[:, :12]

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = self.reader(self.wide(x).relu()).relu()
        return self.head(self.left_out(x).relu())

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        named = self.named_parameters()
        known = [p for name, p in named if not (self.is_sick and name.startswith("left_out"))]
        return torch.optim.Adam(known, lr=1e-2)


@pytest.fixture(scope="module", params=[True, False], ids=["sick", "healthy"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, Path]:
    """The folder of a run's checkpoints, one every 20 steps, as ``ModelCheckpoint`` wrote them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    x = torch.randn(640, 12)
    data: Any = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=32, shuffle=True)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=EVERY, save_top_k=-1)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", max_steps=STEPS, callbacks=[saver], **quiet)
    trainer.fit(Planted(request.param), data)
    return request.param, folder


def findings(report: Report) -> dict[str, Finding]:
    return {finding.rule: finding for top in report.findings for finding in top.walk()}


def test_planted_faults_are_found_offline(run: tuple[bool, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read", lambda path, **_: read_here(path))  # a process would take its time
    is_sick, folder = run
    report = nndiag.check(folder)
    assert report.run["steps"] == "20, 40, 60"
    assert report.run["step_from"] == "the checkpoint"
    found = findings(report)
    if not is_sick:
        assert not {"ND304", "ND407", "ND606"} & found.keys()
        assert report.status == "ok"
        return
    assert {rule: found[rule].layers for rule in ("ND304", "ND407", "ND606")} == {
        "ND304": ("wide",),
        "ND407": ("bn",),
        "ND606": ("left_out",),
    }
    assert (found["ND304"].evidence["distinct"], found["ND304"].evidence["units"]) == (12, 24)
    assert report.status == "warning"


def test_a_module_is_made_of_the_plain_hyperparameters_of_the_file(
    run: tuple[bool, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "read", read_here)
    is_sick, folder = run
    made = lightning_of(f"{__name__}.Planted", [folder])
    assert isinstance(made, Planted)
    assert made.is_sick == is_sick
    monkeypatch.setattr(reading, "read", lambda path, **_: read_here(path))
    report = nndiag.check(folder, made, [torch.randn(64, 12) for _ in range(4)])
    assert {r.measure for r in report.readings} >= {"activation_shift", "saturation"}


class Greedy(LightningModule):
    """Takes whatever it is given."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        self.given = given


class Demanding(LightningModule):
    """Needs what no file says in plain numbers."""

    def __init__(self, net: nn.Module, width: int = 3) -> None:
        super().__init__()


HYPERPARAMETERS = {
    "width": 8,
    "rate": 0.1,
    "name": "a",
    "is_deep": True,
    "sizes": [1, 2],
    "shape": (3, 4),
    "_instantiator": "os.system",
    "_class_path": "os.system",
    "net": nn.ReLU(),
    "nested": {"a": 1},
    "deep": [[1]],
    "huge": 1 << 80,
    "long": "x" * 5000,
    "not a name": 1,
    7: 8,
    "nothing": None,
}


def test_nothing_else_of_a_file_becomes_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "read", read_here)
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"fc.weight": torch.rand(3, 2)}, "hyper_parameters": HYPERPARAMETERS}, path)
    made = lightning_of(f"{__name__}:Greedy", [path])
    plain = {"width": 8, "rate": 0.1, "name": "a", "is_deep": True, "sizes": [1, 2], "shape": [3, 4]}
    assert made.given == plain
    with pytest.raises(ConfigurationError, match=r"cannot be made with .* \(width\): TypeError") as caught:
        lightning_of(f"{__name__}:Demanding", [path])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="a class of LightningModule"):
        lightning_of(f"{__name__}:HYPERPARAMETERS", [path])
