"""Private names of torch, Lightning and TensorBoard: there today, with a safe answer for when they are gone."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from nndiag import compat


def compiled(target: Any) -> Any:
    return torch.compile(target, backend="eager")


# torch


class Counting(TorchDispatchMode):
    """Counts the operations that it sees."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_undispatched_operations_are_seen_by_no_mode():
    with Counting() as mode:
        torch.ones(2).add(1)
        before = mode.seen
        with compat.undispatched():
            torch.ones(2).add(1)
    assert before > 0
    assert mode.seen == before


def test_without_the_name_modes_see_all(monkeypatch):
    monkeypatch.delattr(torch._C, "_DisableTorchDispatch")
    with Counting() as mode, compat.undispatched():
        torch.ones(2).add(1)
    assert mode.seen > 0


def test_backward_is_told_from_forward():
    seen = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: seen.append(compat.is_in_backward()))
    assert not compat.is_in_backward()
    x.sum().backward()
    assert seen == [True]
    assert not compat.is_in_backward()


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_recomputation_is_told_from_the_forward_pass(use_reentrant):
    seen = []

    def part(x: torch.Tensor) -> torch.Tensor:
        seen.append(compat.is_in_backward())
        return x.sin().exp()

    checkpoint(part, torch.ones(2, requires_grad=True), use_reentrant=use_reentrant).sum().backward()
    assert seen == [False, True]


def test_without_the_name_nothing_is_a_recomputation(monkeypatch):
    monkeypatch.delattr(torch._C, "_current_graph_task_id")
    seen = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda grad: seen.append(compat.is_in_backward()))
    x.sum().backward()
    assert seen == [False]


@pytest.mark.parametrize(
    "transform", [torch.func.vmap, lambda f: lambda x: torch.func.grad(lambda y: f(y).sum())(x)]
)
def test_functorch_tensors_are_known(transform):
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(compat.is_functorch_wrapped(x))
        return x * 2

    transform(look)(torch.ones(3))
    assert seen == [True]
    assert not compat.is_functorch_wrapped(torch.ones(3))


@pytest.mark.parametrize("name", ["_functorch", "_functorch.is_functorch_wrapped_tensor"])
def test_without_the_name_no_tensor_is_wrapped(monkeypatch, name):
    owner, _, attribute = name.rpartition(".")
    monkeypatch.delattr(getattr(torch._C, owner) if owner else torch._C, attribute)
    assert not compat.is_functorch_wrapped(torch.ones(3))


def compiled_in_place() -> nn.Module:
    module = nn.Linear(2, 2)
    module.compile(backend="eager")
    return module


def test_compiled_modules_are_known():
    for module in (compiled(nn.Linear(2, 2)), compiled_in_place()):
        assert compat.is_compiled_module(module)
        assert compat.is_compiled(module)
        assert compat.is_compiled(nn.Sequential(nn.ReLU(), module))
        assert not compat.is_compiled_module(nn.Sequential(module))
    assert not compat.is_compiled_module(nn.Linear(2, 2))
    assert not compat.is_compiled(nn.Sequential(nn.Linear(2, 2)))


def test_a_backend_in_use_is_known():
    compiled(torch.sin)(torch.ones(2))
    assert compat.compile_backend_in_use()
    torch._dynamo.reset()
    assert not compat.compile_backend_in_use()


def test_without_the_name_no_backend_is_in_use(monkeypatch):
    import torch._dynamo.eval_frame as frame

    monkeypatch.setattr(frame, "cached_backends", {1: object()})
    assert compat.compile_backend_in_use()
    monkeypatch.setattr(frame, "cached_backends", {1: None})
    assert not compat.compile_backend_in_use()
    monkeypatch.delattr(frame, "cached_backends")
    assert not compat.compile_backend_in_use()


@pytest.fixture
def process_group() -> Any:
    """A group of one process, without a network."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


def test_collectives_move_the_number(process_group):
    before = compat.collective_sequence_number()
    assert compat.collective_sequence_number() == before
    process_group.all_reduce(torch.ones(2))
    assert compat.collective_sequence_number() > before


def test_without_the_name_the_number_stands_still(process_group, monkeypatch):
    process_group.all_reduce(torch.ones(2))
    monkeypatch.delattr(type(torch.distributed.distributed_c10d._world), "pg_map")
    assert compat.collective_sequence_number() == 0


def test_without_processes_there_is_no_number():
    assert not torch.distributed.is_initialized()
    assert compat.collective_sequence_number() == 0


def test_processes_share_the_store_they_met_by(process_group):
    store = compat.process_store()
    store.set("nndiag/test", "here")
    assert store.check(["nndiag/test"])
    assert not store.check(["nndiag/other"])
    assert store.get("nndiag/test") == b"here"


def test_without_the_name_or_processes_there_is_no_store(process_group, monkeypatch):
    monkeypatch.delattr(torch.distributed.distributed_c10d, "_get_default_store")
    assert compat.process_store() is None
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    assert compat.process_store() is None


def test_metrics_are_known():
    torchmetrics = pytest.importorskip("torchmetrics")
    assert compat.is_metric(torchmetrics.MeanMetric())
    assert compat.is_metric(type("Mine", (torchmetrics.MeanMetric,), {})())
    assert not compat.is_metric(nn.Linear(2, 2))
    elsewhere = type("Mine", (nn.Module,), {"__module__": "my.torchmetrics"})
    assert not compat.is_metric(elsewhere())


NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
DROPOUTS = (*(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),)


def test_bases_cover_every_public_class_and_no_other():
    assert len(compat.CHANNEL_NORMS) == len(compat.DROPOUTS) == 1, "the private bases are there"
    assert all(issubclass(kind, compat.CHANNEL_NORMS) for kind in NORMS)
    assert all(issubclass(kind, compat.DROPOUTS) for kind in DROPOUTS)
    others = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Linear, nn.Identity, nn.ReLU)
    assert not any(issubclass(kind, compat.CHANNEL_NORMS + compat.DROPOUTS) for kind in others)


def test_without_a_base_the_public_classes_stand_for_it():
    assert compat._bases(SimpleNamespace(), "_NormBase", *NORMS) == NORMS


# Lightning


def trainer(**options: Any) -> Any:
    pl = pytest.importorskip("lightning.pytorch")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", logger=False, **quiet, **options)


class Spy:
    """Takes down what compat says of a run."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.total: int | None = None


def fit(**options: Any) -> Spy:
    import lightning.pytorch as pl

    spy = Spy()

    class Program(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def on_train_start(self) -> None:
            spy.total = compat.total_steps(self.trainer)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            spy.steps.append(compat.logging_step(self.trainer))
            return self.fc(batch).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    run = trainer(**options)
    assert "_batches_that_stepped" in vars(run.fit_loop.epoch_loop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers
        run.fit(Program(), torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2))
    return spy


def test_the_logging_step_counts_batches_that_stepped():
    spy = fit(max_epochs=2, accumulate_grad_batches=2)
    assert spy.steps == [0, 0, 1, 2, 2, 3]
    assert spy.total == 4


def test_total_steps_of_a_run_that_is_cut_short():
    assert fit(max_steps=2).total == 2
    assert fit(max_epochs=3, limit_train_batches=2).total == 6


def test_without_the_name_the_global_step_is_taken():
    assert compat.logging_step(SimpleNamespace(global_step=7)) == 7
    assert (
        compat.logging_step(SimpleNamespace(global_step=7, fit_loop=SimpleNamespace(epoch_loop=object())))
        == 7
    )


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "batches", "accumulate", "total"),
    [
        (-1, 3, 10, 1, 30),
        (-1, 3, 10, 4, 9),
        (20, 3, 10, 1, 20),
        (50, 3, 10, 1, 30),
        (20, -1, 10, 1, 20),
        (20, None, math.inf, 1, 20),
        (-1, -1, 10, 1, None),
        (-1, 3, math.inf, 1, None),
    ],
)
def test_total_steps(max_steps, max_epochs, batches, accumulate, total):
    state = {"max_steps": max_steps, "max_epochs": max_epochs, "num_training_batches": batches}
    assert compat.total_steps(SimpleNamespace(**state, accumulate_grad_batches=accumulate)) == total


def test_without_a_number_of_batches_the_total_is_not_known():
    state = SimpleNamespace(max_steps=-1, max_epochs=3, accumulate_grad_batches=1)
    assert compat.total_steps(state) is None


# TensorBoard


def test_an_event_is_written_through_the_writer(tmp_path: Path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    assert hasattr(compat.event_writer(writer), "add_summary")
    compat.write_summary(writer, Summary(value=[Summary.Value(tag="nndiag/x", simple_value=0.5)]), 3)
    writer.close()
    (path,) = tmp_path.iterdir()
    events = [event for event in EventFileLoader(str(path)).Load() if event.summary.value]
    assert [(event.step, event.summary.value[0].tag) for event in events] == [(3, "nndiag/x")]


def test_an_event_is_written_through_the_other_writer(tmp_path: Path):
    tensorboardx = pytest.importorskip("tensorboardX")
    from tensorboard.compat.proto.summary_pb2 import Summary

    writer = tensorboardx.SummaryWriter(str(tmp_path))
    compat.write_summary(writer, Summary(value=[Summary.Value(tag="nndiag/x", simple_value=0.5)]), 3)
    writer.close()
    (path,) = tmp_path.iterdir()
    assert b"nndiag/x" in path.read_bytes()
