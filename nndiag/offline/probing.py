"""Activations of a checkpoint: its tensors in a model of the user's, run on data of the user's.

Unlike reading a file, this runs the user's code. The model gets its own tensors back in the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nndiag.checkpoints.folders import open_checkpoint
from nndiag.checkpoints.inference import plain_names
from nndiag.checkpoints.snapshotting import problem_of
from nndiag.errors import CheckpointError, ConfigurationError
from nndiag.layers import discover, strip_wrappers
from nndiag.measures import Need
from nndiag.observe.buffers import NormObserver, training_statistics
from nndiag.observe.observation import Observation
from nndiag.observe.taps import TapReader
from nndiag.observe.taps.table import Variant
from nndiag.observe.watch import Watch
from nndiag.observe.wiring import Wiring, first_tensor
from nndiag.report import plain_text
from nndiag.snapshot import Snapshot
from nndiag.statistics import NormState

MOST_SAMPLES = 1024
"""Samples after which no further batch is taken: a verdict on units needs 512."""

BATCH_FIRST = "the first axis of every tensor is taken for that of samples"

Forward = Callable[[nn.Module, Any], Any]


class Subject:
    """A model and the batches it is run on: the same for each checkpoint, so that these can be compared.

    Args:
        model: Any checkpoint is put into it, and its own tensors back.
        data: Yields batches; as many are kept as make up ``MOST_SAMPLES``.
        forward: Calls the model with a batch; None: with the first element of a tuple or list, with a mapping's
            keywords, with anything else as it is.
    """

    def __init__(self, model: nn.Module, data: Iterable[Any], forward: Forward | None = None) -> None:
        self.model, self.layers = model, discover(model)
        self.batches, self.samples = taken(data)
        self._forward = forward or call
        self._wiring = Wiring(self.layers)

    def observe(
        self, snapshot: Snapshot, path: Path, needs: frozenset[Need], keeps: Callable[[str], bool]
    ) -> Snapshot:
        """The snapshot of a checkpoint with what its activations say.

        Args:
            snapshot: What was read of the file.
            path: The file.
            needs: What the measures in use ask for.
            keeps: Whether a layer is observed at all.

        Raises:
            CheckpointError: its tensors do not fit the model, or the model fails on the data.
        """
        seen = Observation()
        with loaded(self.model, path), evaluating(self.model), torch.no_grad():
            self._run(seen, path, needs, keeps)
            norms = batch_norms(self.model)
            if norms and Need.BATCH_STATISTICS in needs:
                try:
                    self._run(seen, path, needs, keeps, "batch", norms)
                except CheckpointError as error:  # one value a channel, for one: evaluation is not affected
                    seen.notes.append(f"no pass with the batch's own statistics: {error}"[:300])
            states = NormObserver(self.model, self.layers).read()
        for key, state in states.statistics.items():
            if isinstance(state, NormState):  # of a model that is trained, as far as statistics go
                seen.statistics[key] = replace(state, training=torch.tensor(1))
        facts = {"probe_samples": f"{self.samples} samples", "output_units": self._wiring.output_units}
        statistics = {key: statistic.cpu() for key, statistic in seen.statistics.items()}
        return replace(
            snapshot,
            layers=self._wiring.in_order(),
            statistics={**snapshot.statistics, **statistics},
            gaps={**snapshot.gaps, **seen.gaps},
            facts={**snapshot.facts, **facts},
            notes=(*snapshot.notes, BATCH_FIRST, *dict.fromkeys(seen.notes)),
        )

    def _run(
        self,
        seen: Observation,
        path: Path,
        needs: frozenset[Need],
        keeps: Callable[[str], bool],
        variant: Variant = "",
        norms: Collection[nn.Module] = (),
    ) -> None:
        """One pass over all batches."""
        for batch in self.batches:
            reader = TapReader(self._wiring, needs, "probe", keeps, variant=variant)
            as_trained: AbstractContextManager[Any] = nullcontext()
            if variant:
                as_trained = training_statistics(self.model, dict.fromkeys(norms))
            try:
                with as_trained, Watch(self.model, reader):
                    self._forward(self.model, batch)
            except Exception as error:
                raise CheckpointError(f"{plain_text(path, 500)}: {_failed(error)}") from error
            reader.finish_pass()
            for key, statistic in reader.seen.statistics.items():
                seen.add(key, statistic)
            seen.gaps |= reader.seen.gaps

    def refreshed(self, path: Path) -> dict[str, Tensor]:
        """Running statistics of a checkpoint, taken anew over all batches (PreciseBN), by the model's names.

        Raises:
            CheckpointError: as for ``observe``, or there is no batch normalization.
        """
        norms = batch_norms(self.model)
        if not norms:
            raise CheckpointError(f"{plain_text(path, 500)} has no batch normalization to repair")
        before = {module: dict(module.__dict__) for module in norms}
        with loaded(self.model, path), evaluating(self.model), torch.no_grad():
            try:
                for module in norms:
                    module.reset_running_stats()  # type: ignore[operator]
                    module.__dict__.update(training=True, momentum=None)
                for batch in self.batches:
                    self._forward(self.model, batch)
            except Exception as error:
                raise CheckpointError(f"{plain_text(path, 500)}: {_failed(error)}") from error
            finally:
                for module, own in before.items():
                    module.__dict__["momentum"] = own["momentum"]
            state = self.model.state_dict()
            names = [name for name in state if name.endswith(("running_mean", "running_var"))]
            return {strip_wrappers(name): state[name].detach().clone() for name in names}


def call(model: nn.Module, batch: Any) -> Any:
    """Calls a model with a batch: keywords of a mapping, the first element of a tuple or list, else as it is."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def taken(data: Iterable[Any]) -> tuple[list[Any], int]:
    """As many batches as make up ``MOST_SAMPLES``, and the number of their samples.

    Raises:
        ConfigurationError: there is none, or one without a tensor.
    """
    batches, samples = [], 0
    for batch in data:
        tensor = first_tensor(batch)
        if tensor is None or not tensor.dim():
            raise ConfigurationError.expected("data", "an iterable of batches that hold tensors", type(batch))
        batches.append(batch)
        samples += tensor.shape[0]
        if samples >= MOST_SAMPLES:
            break
    if not batches:
        raise ConfigurationError.expected("data", "an iterable with at least one batch", type(data))
    return batches, samples


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Batch normalizations that keep running statistics; synchronized ones would talk to other processes."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return [m for m in model.modules() if isinstance(m, kinds) and m.running_mean is not None]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode, and as they were afterwards."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, flag in before:
            module.training = flag


@contextlib.contextmanager
def loaded(model: nn.Module, path: Path) -> Iterator[None]:
    """The tensors of a checkpoint in a model, and the model's own afterwards.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    state = {strip_wrappers(name): t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    tensors = stored_tensors(path)
    reasons = list(_misfits(state, tensors))
    if reasons:
        more = f" and {len(reasons) - 4} more" if len(reasons) > 4 else ""
        raise CheckpointError(
            f"{plain_text(path, 500)} does not fit the model: {plain_text('; '.join(reasons[:4]), 600)}{more}"
        )
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    try:
        _fill(state, tensors)
        yield
    finally:
        _fill(state, before)


def _fill(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in state.items():
            if name in tensors:
                tensor.copy_(tensors[name])


def _misfits(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in state.items():
        if name not in tensors:
            if not name.endswith("num_batches_tracked"):  # PyTorch before 0.4.1 did not count
                yield f"{name} is not in the file"
        elif tensors[name].shape != tensor.shape:
            yield f"{name} is {list(tensors[name].shape)} in the file, {list(tensor.shape)} in the model"
    yield from (f"{name} is not in the model" for name in tensors if name not in state)


def stored_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by plain names, read by the reader that executes nothing.

    Raises:
        CheckpointError: one cannot be read.
    """
    with contextlib.ExitStack() as stack:
        try:
            contents = open_checkpoint(path, stack)
            names, _ = plain_names(contents.tensors)
            for name, stored in contents.tensors.items():
                problem = problem_of(stored)
                if problem is not None:
                    raise CheckpointError(f"holds {name}, which cannot be put into a model: {problem}")
            return {names[name]: stored.read() for name, stored in contents.tensors.items()}
        except CheckpointError as error:
            raise CheckpointError(f"{plain_text(path, 500)} {plain_text(error, 1000)}") from error
        except OSError as error:
            raise CheckpointError(f"{plain_text(path, 500)} cannot be read: {error.strerror}") from error


def _failed(error: Exception) -> str:
    return f"the model fails on the data: {plain_text(f'{type(error).__name__}: {error}', 300)}"
