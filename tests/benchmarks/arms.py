"""What watches a training: nothing, nndiag in several settings, and its peers as their documentation shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from .meter import Meter
from .workloads import Batch, Workload

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "nndiag": {},
    "nndiag every step": {"every_n_train_steps": 1, "max_overhead": None},
    "nndiag stream": {"every_n_train_steps": 1, "max_overhead": None},
    "nndiag probe": {"every_n_train_steps": 1, "max_overhead": None},
}
"""Settings of nndiag by arm; an arm "nndiag: NAME" has one measure, at every step."""

PEERS: Mapping[str, str] = {
    "histograms": "add_histogram, mean and std of every leaf output, every step, to TensorBoard",
    "fastai": "the recipe of fastai's ActivationStats: mean, std, share near zero of modules with parameters",
    "wandb": "wandb.watch(log='all', log_freq=1): histograms of gradients and parameters, offline",
    "torchmortem": "Autopsy(model, optimizer), default sampling",
    "neural-observatory": "Observatory(model), default configuration",
    "torch-audit": "autopatch, every 10 steps",
}
"""What each peer is, as it is attached here."""

BURST = 50
"""Steps from one burst of the probe to the next, in the arm whose stream runs at every step."""


class Watcher(NamedTuple):
    """What an arm does in the training.

    Attributes:
        after: Called when a step has ended.
        close: Called at the end.
        callback: A callback of Lightning that does both itself.
        session: nndiag's, where it is the arm.
    """

    after: Callable[[Batch, Tensor], Any]
    close: Callable[[], Any]
    callback: Any = None
    session: Any = None


def attach(name: str, work: Workload, directory: Path, meter: Meter, *, lightning: bool) -> Watcher:
    """Begins to watch.

    Args:
        name: Of the arm.
        work: The training.
        directory: Where it may write.
        meter: Takes the time of all that it does.
        lightning: Whether Lightning drives the training.
    """
    if name.startswith("bare"):
        return Watcher(lambda batch, loss: None, lambda: None)
    meter.time_hooks()
    if name.startswith("nndiag"):
        return _nndiag(name, work, directory, meter, lightning=lightning)
    watcher = _PEERS[name](work, directory)
    return watcher._replace(after=meter.timed(watcher.after))


def _nndiag(name: str, work: Workload, directory: Path, meter: Meter, *, lightning: bool) -> Watcher:
    import nndiag
    from nndiag.guard import FunctionHooks
    from nndiag.observe.observers import Observers
    from nndiag.session import Session

    measure = name.partition(": ")[2]
    options = dict(OPTIONS.get(name, OPTIONS["nndiag every step"])) | {"console": False}
    if measure:
        options["measures"] = [measure]
    _restrict(name, Observers)
    meter.time(Session, "begin_batch", "open_window", "close_window", "before_update", "end_batch", "close")
    begin = FunctionHooks.__init__

    def begin_timed(self: Any, before: Any, after: Any, on_fault: Any) -> None:
        begin(self, meter.timed(before), meter.timed(after), on_fault)

    FunctionHooks.__init__ = begin_timed  # type: ignore[method-assign]
    if lightning:
        callback = nndiag.DiagnosticsMonitor(**options)
        return Watcher(lambda batch, loss: None, lambda: None, callback)
    monitor = nndiag.Monitor(work.model, optimizer=work.optimizer, log_dir=directory, **options)
    monitor.__enter__()

    def after(batch: Batch, loss: Tensor) -> None:
        monitor.step(loss, labels=batch[1] if batch[1].dim() == 1 else None)

    return Watcher(after, lambda: monitor.__exit__(None, None, None), session=monitor)


def _restrict(name: str, observers: Any) -> None:
    """Leaves the probe or the stream out; the product has no options for it."""
    from nndiag.observe.schedule import Schedule

    if name == "nndiag probe":
        for method in ("attach_stream", "read_weights", "read_updates"):
            setattr(observers, method, lambda self, **others: None)
    if name == "nndiag stream":
        replay, is_experiment = observers.replay, Schedule.is_experiment

        def seldom(self: Any, step: int, *, goes_on: bool) -> None:
            if step % BURST in (0, 1):
                replay(self, step, goes_on=goes_on)

        observers.replay = seldom
        own = Schedule(BURST)
        Schedule.is_experiment = lambda self, step: is_experiment(own, step)  # type: ignore[method-assign]


def _leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, m) for name, m in model.named_modules() if name and not list(m.children())]


def _histograms(work: Workload, directory: Path) -> Watcher:
    from torch.utils.tensorboard import SummaryWriter

    writer, steps = SummaryWriter(str(directory)), [0]

    def hook(name: str) -> Callable[..., None]:
        def read(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                writer.add_histogram(name, output.detach(), steps[0])
                writer.add_scalar(f"{name}/mean", output.detach().mean().item(), steps[0])
                writer.add_scalar(f"{name}/std", output.detach().std().item(), steps[0])

        return read

    for name, module in _leaves(work.model):
        module.register_forward_hook(hook(name))

    def after(batch: Batch, loss: Tensor) -> None:
        steps[0] += 1

    return Watcher(after, writer.close)


def _fastai(work: Workload, directory: Path) -> Watcher:
    stored: list[dict[str, float]] = []

    def read(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            x = output.detach()
            row = {"mean": x.mean().item(), "std": x.std().item()}
            row["near_zero"] = (x <= 0.05).long().sum().item() / x.numel()
            stored.append(row)

    for _, module in _leaves(work.model):
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(read)
    return Watcher(lambda batch, loss: None, lambda: None)


def _wandb(work: Workload, directory: Path) -> Watcher:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(directory), "WANDB_SILENT": "true"}
    import wandb  # type: ignore[import-not-found, unused-ignore]

    run = wandb.init(project="benchmark", mode="offline", dir=str(directory))
    run.watch(work.model, log="all", log_freq=1)
    return Watcher(lambda batch, loss: run.log({"loss": loss.item()}), run.finish)


def _torchmortem(work: Workload, directory: Path) -> Watcher:
    from torchmortem import Autopsy  # type: ignore[import-not-found, unused-ignore]

    autopsy = Autopsy(work.model, optimizer=work.optimizer)
    autopsy.__enter__()
    return Watcher(lambda batch, loss: autopsy.step(loss=loss.item()), lambda: None)


def _observatory(work: Workload, directory: Path) -> Watcher:
    from neural_observatory import Observatory  # type: ignore[import-not-found, unused-ignore]

    watcher = Observatory(work.model)
    watcher.watch()
    return Watcher(lambda batch, loss: watcher.step(targets=batch[1]), watcher.stop)


def _audit(work: Workload, directory: Path) -> Watcher:
    from torch_audit import autopatch  # type: ignore[import-not-found, unused-ignore]

    auditor = autopatch(work.model, optimizer=work.optimizer, every_n_steps=10)
    return Watcher(lambda batch, loss: None, auditor.unpatch)


_PEERS: Mapping[str, Callable[[Workload, Path], Watcher]] = {
    "histograms": _histograms,
    "fastai": _fastai,
    "wandb": _wandb,
    "torchmortem": _torchmortem,
    "neural-observatory": _observatory,
    "torch-audit": _audit,
}
