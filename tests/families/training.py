"""Runs a family, watched or not, and collects what it left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset

from .families import Family
from .outcome import Outcome, Surroundings, flatten, hook_counts, model_state, random_streams
from .programs import Regression

TRAINING_SAMPLES, VALIDATION_SAMPLES, BATCH = 44, 16, 8  # six batches, of which the last is smaller


@dataclass(frozen=True)
class Run:
    """What a run left behind, and the warnings the user saw."""

    values: Outcome
    warnings: frozenset[str]


MakeMonitor = Callable[..., AbstractContextManager[Any]]
"""``make(model, optimizer=...)``: the monitor of a plain loop."""


def fit(family: Family, callback: Callback | None = None) -> Run:
    """Trains under Lightning; the callback stands before the family's own."""
    with _clean_process(family) as messages:
        module = _build(family)
        training, validation = _loaders(family)
        before = Surroundings.of(module)
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=1,
            callbacks=[*([callback] if callback else []), *family.callbacks()],
            plugins=family.plugins() or None,
            **{"max_epochs": 2, **family.trainer},
        )
        trainer.fit(module, training, validation)
        outcome = _collect(module, before, trainer.optimizers)
        outcome |= flatten(
            {
                "callback": trainer.callback_metrics,
                "logged": trainer.logged_metrics,
                "bar": trainer.progress_bar_metrics,
                "attributes": sorted(vars(trainer)),
                "step": trainer.global_step,
                "stopped": trainer.should_stop,
            },
            "trainer",
        )
        outcome |= _checkpoint(trainer)
    return Run(outcome, frozenset(messages))


def loop(family: Family, make_monitor: MakeMonitor | None = None) -> Run:
    """Trains in a plain loop."""
    with _clean_process(family) as messages:
        module = _build(family)
        network, criterion = module.network, module.criterion
        training, _ = _loaders(family)
        optimizer = family.optimize(network.parameters())
        before = Surroundings.of(network)
        context = make_monitor(network, optimizer=optimizer) if make_monitor else contextlib.nullcontext()
        with context as monitor:
            for _ in range(2):
                for x, y in training:
                    loss = criterion(network(x), y)
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    module.losses.append(loss.detach().clone())
                    if monitor is not None:
                        monitor.step(loss, labels=y)
        outcome = _collect(network, before, [optimizer]) | flatten(module.losses, "losses")
    return Run(outcome, frozenset(messages))


@cache
def bare(family: Family) -> Run:
    """The run without nndiag, once a process."""
    train = fit if family.loop == "lightning" else loop
    if family.is_compiled:  # the first use of the compiler changes the process
        train(family)
    return train(family)


@contextlib.contextmanager
def _clean_process(family: Family) -> Iterator[list[str]]:
    """Fresh seeds, an empty working directory, a quiet framework; yields the list of warnings to come."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    messages: list[str] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        if family.is_compiled:
            torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        yield messages
        messages += [str(warning.message) for warning in caught]


def _build(family: Family) -> Regression:
    return family.program(family.network(), family.optimize)


def _loaders(family: Family) -> tuple[DataLoader[Any], DataLoader[Any]]:
    generator = torch.Generator().manual_seed(1)
    dtype = torch.float64 if family.trainer.get("precision") == "64-true" else torch.get_default_dtype()
    samples = torch.randn(TRAINING_SAMPLES + VALIDATION_SAMPLES, *family.shape, generator=generator).to(dtype)
    dataset = TensorDataset(samples, family.program.targets(samples))
    training, validation = (
        torch.utils.data.Subset(dataset, range(TRAINING_SAMPLES)),
        torch.utils.data.Subset(dataset, range(TRAINING_SAMPLES, len(samples))),
    )
    return DataLoader(training, BATCH, shuffle=True), DataLoader(validation, BATCH)


def _collect(model: torch.nn.Module, before: Surroundings, optimizers: list[Any]) -> Outcome:
    states = [optimizer.state_dict() for optimizer in optimizers]
    outcome = model_state(model) | flatten(states, "optimizers") | random_streams()
    outcome |= hook_counts(model, optimizers) | before.changes(model)
    outcome |= flatten({"notes": [getattr(m, "notes", None) for m in model.modules()]}, "witness")
    outcome |= flatten(getattr(model, "losses", []), "losses")
    outcome |= flatten(sorted(str(path) for path in Path().rglob("*")), "files")
    outcome["directory"] = os.getcwd() == str(Path().absolute())
    graphs = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
    return outcome | {"graphs": graphs}


def _checkpoint(trainer: Trainer) -> Outcome:
    """A checkpoint without what the monitor itself keeps there."""
    trainer.save_checkpoint("end.ckpt")
    saved = torch.load("end.ckpt", weights_only=True)
    saved["callbacks"] = {k: v for k, v in saved["callbacks"].items() if "DiagnosticsMonitor" not in k}
    return flatten(saved, "checkpoint")
