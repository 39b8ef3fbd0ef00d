"""Where the patients of the demo are trained: the digits, the loop, and silence around them."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nndiag.demo.patients import Digits, Patient
from nndiag.errors import MissingDependencyError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from torch.utils.data import DataLoader

    from nndiag.report import Report

EPOCHS = 8
BATCH = 64
TRAINED_ON = 1437


@dataclass(frozen=True)
class Outcome:
    """What the training of one patient came to."""

    patient: Patient
    accuracy: float
    seconds: float
    report: Report


class Images(NamedTuple):
    """Handwritten digits: [N, 64] pixels from 0 to 1, their classes, and the order they were shuffled to."""

    pixels: Tensor
    classes: Tensor
    order: Tensor

    @classmethod
    def load(cls) -> Images:
        """The digits that come with scikit-learn.

        Raises:
            MissingDependencyError: it is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingDependencyError("The demo needs scikit-learn: pip install 'nndiag[demo]'") from error
        data = load_digits()
        pixels = torch.tensor(data.data, dtype=torch.float32) / 16
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        return cls(pixels, torch.tensor(data.target), order)

    def split(self, *, is_standardized: bool) -> tuple[DataLoader[Any], tuple[Tensor, Tensor]]:
        """Training images in shuffled batches, and the rest to test on: standardized as a whole, or raw bytes."""
        from torch.utils.data import DataLoader, TensorDataset

        x = (self.pixels - self.pixels.mean()) / self.pixels.std() if is_standardized else self.pixels * 255
        train, test = self.order[:TRAINED_ON], self.order[TRAINED_ON:]
        loader = DataLoader(
            TensorDataset(x[train], self.classes[train]),
            batch_size=BATCH,
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
        )
        return loader, (x[test], self.classes[test])


def network(patient: Patient) -> Digits:
    """The network of a patient, from the same random numbers for all, with its faults."""
    torch.manual_seed(0)
    net = patient.build()
    patient.plant(net)
    return net


def train(patient: Patient, images: Images, out: Path, advance: Callable[[], None]) -> Outcome:
    """Trains one patient with nndiag watching.

    Args:
        patient: What to train.
        images: What to train it on.
        out: Where its directory of files goes.
        advance: Called after each epoch.
    """
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    from nndiag.integrations.lightning import DiagnosticsMonitor

    begin = time.perf_counter()
    loader, (x, y) = images.split(is_standardized=patient.is_standardized)
    net = network(patient)
    monitor = DiagnosticsMonitor(console=False, html=True)
    with _quiet(), _one_thread():
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=TensorBoardLogger(out, name="", version=patient.name),
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(_module(net, patient, advance), loader)
    net.eval()
    with torch.no_grad():
        accuracy = (net(x).argmax(1) == y).float().mean().item()
    return Outcome(patient, accuracy, time.perf_counter() - begin, monitor.report)


def _module(digits: Digits, patient: Patient, advance: Callable[[], None]) -> LightningModule:
    import lightning.pytorch as pl

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = digits

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.log("train_loss", loss)
            return loss

        def on_train_epoch_end(self) -> None:
            advance()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            layers = (layer for name, layer in self.net.named_children() if name != patient.left_out)
            given = [parameter for layer in layers for parameter in layer.parameters()]
            return torch.optim.SGD(given, lr=patient.learning_rate, momentum=0.9)

    return Classifier()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Lightning's start-up notices: they are about the Trainer, not about the network."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Layers as small as these gain nothing from more, and lose much where other programs run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
