"""DiagnosticsCallback: nndiag as a callback of Hugging Face's ``Trainer``.

It needs ``transformers``, which nndiag does not: this module is loaded only by who asks for it.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nndiag import compat
from nndiag.diagnosis import as_it_stands
from nndiag.errors import ConfigurationError, MissingDependencyError
from nndiag.guard import Guard, Hook, guarded
from nndiag.memory import Memory
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.session import DEFAULT_CADENCE, Session
from nndiag.sinks.loggers import logger_sinks
from nndiag.switch import is_enabled

if TYPE_CHECKING:

    class TrainerCallback:
        """What ``transformers`` has; it brings no types that could be checked without it."""

else:
    try:
        from transformers.trainer_callback import TrainerCallback
    except ImportError as error:
        raise MissingDependencyError(
            f"DiagnosticsCallback needs transformers: pip install 'transformers[torch]' ({error})"
        ) from error

MEMORY_FILE = "nndiag.pt"
"""In each of the Trainer's checkpoints: what a resumed run should know."""


class DiagnosticsCallback(TrainerCallback):
    """Watches the training of a Hugging Face ``Trainer`` and says what is wrong, where, and what to do.

    The Trainer tells callbacks nothing of an exception: after one, ``report`` is there, and ``close()`` writes what
    is written at the end of a run (the end of the program does, too). Of a model that the Trainer compiles only
    weights and gradients are seen.

    Args:
        every_n_train_steps: Steps between regular visits; None takes the Trainer's ``logging_steps``. Start-up
            visits come on top.
        measures: Names of measures to take; None means all but those on demand (``shift_origin``).
        layers: Glob patterns on layer names, "!pattern" excludes; None means all.
        select: Rule ids or prefixes to judge ("ND2", "ND202:backbone.*"); None means all.
        ignore: Rule ids or prefixes not to judge.
        thresholds: New thresholds by rule id, as {"ND201": 0.8}.
        probe: Whether recorded batches may be replayed in a sandbox.
        probe_samples: Samples to replay at a visit, at most.
        max_overhead: Largest share of the run's time for regular visits; beyond it they are thinned. None
            switches thinning off.
        log_dir: Where event files and the record go; None takes the Trainer's TensorBoard directory, if it
            reports to TensorBoard. With several processes, only rank 0 is watched unless this is given.
        console: Whether to print a summary at the end of training.
        html: Whether to write an HTML report beside the record, or the path to write it to.
        stop_on: Severity at which training is stopped; None never stops. Not used with several processes.
        merge_ranks: Of several processes, whether rank 0 shows the findings of all while they train. They are
            passed on through the store that the processes met by, without a collective.
        strict: Whether nndiag's own faults raise (for tests).

    Raises:
        ConfigurationError: an option is wrong; a layer pattern is checked when training starts.
    """

    def __init__(
        self,
        *,
        every_n_train_steps: int | None = None,
        measures: Sequence[str] | None = None,
        layers: Sequence[str] | None = None,
        select: Sequence[str] | None = None,
        ignore: Sequence[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
        probe: bool = True,
        probe_samples: int = 128,
        max_overhead: float | None = 0.03,
        log_dir: str | os.PathLike[str] | None = None,
        console: bool = True,
        html: bool | str = False,
        stop_on: str | None = None,
        merge_ranks: bool = False,
        strict: bool = False,
    ) -> None:
        self.options = MonitorOptions.checked(
            every_n_train_steps=every_n_train_steps,
            measures=measures,
            layers=layers,
            select=select,
            ignore=ignore,
            thresholds=thresholds,
            probe=probe,
            probe_samples=probe_samples,
            max_overhead=max_overhead,
            log_dir=log_dir,
            console=console,
            html=html,
            stop_on=stop_on,
            merge_ranks=merge_ranks,
            strict=strict,
        )
        self.guard = Guard(strict)
        self._session: Session | None = None
        self._report = Report.empty()
        self._at_exit: weakref.finalize[..., Any] | None = None
        self._calls: _Calls | None = None

    @property
    def report(self) -> Report:
        """The report as it stands, also after an exception or Ctrl-C."""
        session = self._session
        return as_it_stands(self.guard, session.report if session is not None else None, self._report)

    @guarded("the monitor", begins=True, lets_out=(ConfigurationError,))
    def on_train_begin(
        self, /, args: Any, state: Any, control: Any, *, model: nn.Module, **others: Any
    ) -> None:
        """Starts a session."""
        self.close()
        rank = int(args.process_index)
        is_heard = self.options.log_dir is not None or self.options.merge_ranks
        if not is_enabled() or (rank and not is_heard):
            return
        every_n = self.options.every_n or int(state.logging_steps) or DEFAULT_CADENCE
        options = replace(self.options.with_cadence(every_n), log_dir=self.options.log_dir or _log_dir(args))
        is_compiled = _is_compiled(args)
        session = self._session = Session(
            _stand_in(model) if is_compiled else model,
            replace(options, probe=options.probe and not is_compiled),
            total_steps=state.max_steps if state.max_steps > 0 else None,
            sinks=self.guard.call("the sinks", logger_sinks, (), options, rank) or (),
            guard=self.guard,
        )
        self._at_exit = weakref.finalize(self, self.guard.call, "the report", session.close)
        can_be_hooked = not (is_compiled or compat.is_compiled(model))
        self._calls = _Calls(model if can_be_hooked else nn.Identity(), self.guard, session.release)
        memory = self.guard.call("the memory", _memory, args, state) if state.global_step else None
        if memory is not None:
            session.recall(memory)

    @guarded("the monitor")
    def on_step_begin(self, /, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Attaches what this step needs."""
        if self._calls is not None:
            self._calls.forget()
        self._begin(state.global_step)

    @guarded("the monitor")
    def on_substep_end(self, /, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Goes on to the next of the batches whose gradients are added up."""
        if self._session is not None and self._calls is not None:
            self._session.end_batch(labels=self._calls.labels)
            self._begin(state.global_step)

    @guarded("the monitor")
    def on_pre_optimizer_step(
        self, /, args: Any, state: Any, control: Any, *, optimizer: Any, **others: Any
    ) -> None:
        """Looks at parameters and gradients before they are used."""
        if self._session is None or self._calls is None:
            return
        self._calls.detach()  # the probe calls the model, too
        inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate puts its own around it
        scale = compat.gradient_scale(inner, getattr(optimizer, "scaler", None))
        self._session.before_update(optimizer=inner, scale=scale)

    @guarded("the monitor")
    def on_step_end(self, /, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Detaches, and files what a visited step brought."""
        if self._session is None or self._calls is None:
            return
        self._calls.detach()
        self._session.end_batch(self._calls.loss, self._calls.labels)
        self._calls.forget()
        if self._session.should_stop and args.world_size == 1:
            control.should_training_stop = True

    @guarded("the monitor")
    def on_save(self, /, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Puts what a resumed run should know into the checkpoint."""
        folder = _checkpoint(args, state)
        if self._session is None or not state.is_world_process_zero or not folder.is_dir():
            return
        memory = self.guard.call("the memory", self._session.memory)
        if memory:
            torch.save(memory, folder / MEMORY_FILE)

    @guarded("the monitor")
    def on_train_end(self, /, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Ends the session."""
        self.close()

    def close(self) -> None:
        """Ends the session, as the end of training does; for after an exception. Safe to call again."""
        self.release()
        session, self._session, self._calls = self._session, None, None
        if self._at_exit is not None:
            self._at_exit.detach()
        if session is not None:
            report = self.guard.call("the report", session.close)
            self._report = report if isinstance(report, Report) else self._report

    def release(self) -> None:
        """Takes every hook out of the model."""
        if self._calls is not None:
            self._calls.detach()
        if self._session is not None:
            self._session.release()

    def _begin(self, step: int) -> None:
        if self._session is None or self._calls is None:
            return
        self._session.begin_batch(step)
        self._session.open_window(glue=False)
        self._calls.attach()


class _Calls:
    """What the model is called with in one step, and the loss it gives: the Trainer tells callbacks neither.

    Args:
        root: The model.
        guard: Counts the faults.
        leave: Called when the model is called in evaluation: an exception has ended the step.
    """

    def __init__(self, root: nn.Module, guard: Guard, leave: Callable[[], None]) -> None:
        self._root, self._leave = root, leave
        self._hook = Hook(self._note, functools.partial(guard.report, "the loss"))
        self._handle: RemovableHandle | None = None
        self.forget()

    def forget(self) -> None:
        """A step is over."""
        self._losses: list[Tensor] = []
        self._are_shares = False
        self.labels: Tensor | None = None

    @property
    def loss(self) -> Tensor | None:
        """Of the step: the mean over its batches, or their sum where each is a share already."""
        if not self._losses:
            return None
        losses = torch.stack(self._losses)
        return losses.sum() if self._are_shares else losses.mean()

    def attach(self) -> None:
        """Puts the hook in place."""
        if self._handle is None:
            self._handle = self._root.register_forward_hook(self._hook, with_kwargs=True)

    def detach(self) -> None:
        """Takes the hook off."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.remove()

    def _note(self, root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if not root.training:
            self.detach()
            self._leave()
            return
        labels = kwargs.get("labels")
        self.labels = labels if isinstance(labels, Tensor) and labels.dim() == 1 else None
        self._are_shares = kwargs.get("num_items_in_batch") is not None
        loss = output.get("loss") if isinstance(output, Mapping) else next(iter(output), None)
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
            self._losses.append(loss.detach().reshape(()))


def _is_compiled(args: Any) -> bool:
    """Whether Accelerate compiles the model: the callback is given the one inside, where a hook costs a graph."""
    return args.torch_compile or os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"


def _stand_in(model: nn.Module) -> nn.Module:
    """A compiled model that is never called, for the Trainer's own, which is out of reach."""
    return cast("nn.Module", torch.compile(model))


def _log_dir(args: Any) -> str | None:
    """Where the Trainer's own TensorBoard callback writes; it was there first and has made its directory."""
    if "tensorboard" not in args.report_to:
        return None
    told = getattr(args, "logging_dir", None) or os.environ.get("TENSORBOARD_LOGGING_DIR")
    if told:
        return str(told)
    runs = Path(args.output_dir) / "runs"
    made = [folder for folder in runs.iterdir() if folder.is_dir()] if runs.is_dir() else []
    return str(max(made, key=lambda folder: folder.stat().st_mtime_ns, default=runs))


def _checkpoint(args: Any, state: Any) -> Path:
    """The folder of the Trainer's checkpoint at this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _memory(args: Any, state: Any) -> Memory | None:
    """What the checkpoint that training goes on from knows."""
    path = _checkpoint(args, state) / MEMORY_FILE
    return Memory.recalled(torch.load(path, weights_only=True)) if path.is_file() else None
