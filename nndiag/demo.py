"""``nndiag demo``: a sick network and its repaired twin, trained on handwritten digits."""

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
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.errors import MissingDependencyError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule
    from rich.console import Console
    from torch.utils.data import DataLoader

    from nndiag.findings import Finding
    from nndiag.report import Report

EPOCHS = 12
BATCH = 64


class Plant(NamedTuple):
    """A fault planted on purpose, and the rule that must find it."""

    layer: str
    rule: str
    what: str


PLANTED = (
    Plant("net.stem", "ND201", "weights 15 times too large: its tanh saturates"),
    Plant("net.middle", "ND202", "bias -9 on 56 of 64 units: their ReLU is never on"),
    Plant("net.neck", "ND301", "units 16-31 copy 0-15, outgoing weights too"),
)


@dataclass(frozen=True)
class Outcome:
    """What one of the two runs came to."""

    name: str
    accuracy: float
    seconds: float
    report: Report


class Digits(nn.Module):
    """Four linear layers; ``middle`` and ``neck`` use functional activations, as much real code does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 64)
        self.act = nn.Tanh()
        self.middle = nn.Linear(64, 64)
        self.neck = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 64] pixels -> [N, 10] logits."""
        x = self.act(self.stem(x))
        x = F.relu(self.middle(x))
        logits: Tensor = self.head(F.relu(self.neck(x)))
        return logits


@torch.no_grad()
def plant(net: Digits) -> None:
    """Plants the faults of ``PLANTED``."""
    net.stem.weight.mul_(15)
    net.middle.bias[8:] = -9.0
    for parameter in (net.neck.weight, net.neck.bias):
        parameter[16:] = parameter[:16]
    net.head.weight[:, 16:] = net.head.weight[:, :16]


def run(out: Path, console: Console) -> list[Outcome]:
    """Trains the sick network, then its twin, and prints what was found.

    Args:
        out: Where event files, records and HTML reports go.
        console: Where progress and findings are printed.

    Raises:
        MissingDependencyError: scikit-learn, which brings the digits, is not installed.
    """
    from nndiag.report.text import render_brief

    train, test = _digits()
    console.print(
        "Two networks learn 1,437 handwritten digits: one with three planted faults, and its twin without."
    )
    outcomes = []
    for name in ("sick", "twin"):
        with _progress(name, console) as advance:
            outcomes.append(_train(name, train, test, out, advance))
        outcome = outcomes[-1]
        console.print(
            f"\n[bold]{name}[/bold]: test accuracy {outcome.accuracy:.1%} after {EPOCHS} epochs"
            f" ({outcome.seconds:.1f} s)"
        )
        console.print(render_brief(outcome.report))
    sick, twin = outcomes
    _compare(sick, twin, console)
    _point_to(out, console)
    return outcomes


def found_by(report: Report, planted: Plant) -> Finding | None:
    """The finding of a plant's own rule at its own layer."""
    every = (finding for top in report.findings for finding in top.walk())
    return next((f for f in every if f.rule == planted.rule and planted.layer in f.layers), None)


def _compare(sick: Outcome, twin: Outcome, console: Console) -> None:
    """One line a planted fault: found by which rule, since when; one for the twin."""
    from rich.table import Table

    table = Table(
        title="\nWhat was planted, and what was found", title_justify="left", title_style="bold", box=None
    )
    for column in ("at", "planted", "found"):
        table.add_column(column, header_style="dim", no_wrap=column != "planted")
    for planted in PLANTED:
        found = found_by(sick.report, planted)
        word = f"[green]✓ {found.rule}, step {found.first_step}" if found else f"[red]✗ not by {planted.rule}"
        table.add_row(planted.layer, planted.what, word)
    clean = "[green]✓ no warning" if twin.report.status == "ok" else f"[red]✗ {twin.report.status}"
    table.add_row("twin", "nothing", clean)
    console.print(table)


def _point_to(out: Path, console: Console) -> None:
    """Where everything lies; a path is never cut or taken for markup."""
    from rich.text import Text

    console.print("\n[bold]Have a look[/bold]")
    for words, what in (
        ("event files", f"tensorboard --logdir {out}"),
        ("reports", f"{out / 'sick' / 'nndiag.html'}"),
        ("", f"{out / 'twin' / 'nndiag.html'}"),
        ("the record", f"nndiag report {out / 'sick'}"),
    ):
        console.print(Text(f"  {words:13}{what}"), soft_wrap=True)


@contextlib.contextmanager
def _progress(name: str, console: Console) -> Iterator[Callable[[], None]]:
    """A bar on a terminal while a network trains; yields what moves it on by one epoch."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("training the {task.description} network"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("epochs"), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(name, total=EPOCHS)
        yield lambda: progress.advance(task)


def _train(
    name: str, train: DataLoader[Any], test: tuple[Tensor, Tensor], out: Path, advance: Callable[[], None]
) -> Outcome:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import TensorBoardLogger

    from nndiag.integrations.lightning import DiagnosticsMonitor

    begin = time.perf_counter()
    torch.manual_seed(0)
    net = Digits()
    if name == "sick":
        plant(net)
    module = _module(net, advance)
    monitor = DiagnosticsMonitor(console=False, html=True)
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=TensorBoardLogger(out, name="", version=name),
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, train)
    with torch.no_grad():
        accuracy = (net(test[0]).argmax(1) == test[1]).float().mean().item()
    return Outcome(name, accuracy, time.perf_counter() - begin, monitor.report)


def _module(digits: Digits, advance: Callable[[], None]) -> LightningModule:
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
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Classifier()


def _digits() -> tuple[DataLoader[Any], tuple[Tensor, Tensor]]:
    """1,437 training images in shuffled batches, and 360 to test on; pixels standardized as a whole."""
    from torch.utils.data import DataLoader, TensorDataset

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("The demo needs scikit-learn: pip install 'nndiag[demo]'") from error
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    loader = DataLoader(
        TensorDataset(x[train], y[train]),
        batch_size=BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    return loader, (x[test], y[test])


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
