"""Monitor: nndiag for any training loop."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from nndiag import compat
from nndiag.diagnosis import as_it_stands
from nndiag.guard import Guard, guarded
from nndiag.memory import Memory
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.session import Session
from nndiag.sinks import ConsoleSink, HtmlSink, RecordSink, Sink, TensorBoardSink, own_rank, own_writer
from nndiag.switch import is_enabled


class Monitor:
    """Watches a training loop of your own.

    Use it as a context manager and call ``step`` once per optimizer step. Gradients are read at the moment
    the optimizer steps, so ``zero_grad`` may come before ``monitor.step``.

    Args:
        model: The module that is trained.
        optimizer: Its optimizer or optimizers. None: every optimizer that holds parameters of the model.
        every_n_train_steps: Steps between regular visits, 50 by default; start-up visits come on top.
        measures: Names of measures to take; None means all but those on demand (``shift_origin``).
        layers: Glob patterns on layer names, "!pattern" excludes; None means all.
        select: Rule ids or prefixes to judge ("ND2", "ND202:backbone.*"); None means all.
        ignore: Rule ids or prefixes not to judge.
        thresholds: New thresholds by rule id, as {"ND201": 0.8}.
        probe: Whether recorded batches may be replayed in a sandbox.
        probe_samples: Samples to replay at a visit, at most.
        max_overhead: Largest share of the run's time for regular visits; beyond it they are thinned.
        log_dir: Where event files and the record go; None writes nothing.
        console: Whether to print a summary at the end.
        html: Whether to write an HTML report into ``log_dir``, or the path to write it to.
        stop_on: Not used by a plain loop; ask ``monitor.should_stop``.
        merge_ranks: Of several processes, whether rank 0 shows the findings of all while they train. They are
            passed on through the store that the processes met by, without a collective.
        strict: Whether nndiag's own faults raise (for tests).

    Raises:
        ConfigurationError: an option is wrong.

    Example:
        >>> import torch, nndiag
        >>> x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with nndiag.Monitor(model, optimizer=optimizer, console=False) as monitor:
        ...     for _ in range(4):
        ...         loss = model(x).square().mean()
        ...         loss.backward(); optimizer.step(); optimizer.zero_grad()
        ...         monitor.step(loss)
        >>> monitor.report.status
        'ok'
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
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
        self._optimizers = _as_list(optimizer)
        self._handles: list[RemovableHandle] = []
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._step = 0
        self._session: Session | None = None
        if is_enabled():
            sinks = _sinks(self.options)
            self._session = Session(model, self.options, sinks=sinks, guard=self.guard)

    @property
    def report(self) -> Report:
        """The report as it stands, also after an exception."""
        return as_it_stands(self.guard, self._session.report if self._session else None, Report.empty())

    @property
    def should_stop(self) -> bool:
        """Whether a finding at or above ``stop_on`` is active."""
        return self._session is not None and self._session.should_stop

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._optimizers = []
        if self._session is not None:
            self.guard.call("the report", self._session.close)

    @guarded("the monitor")
    def _start(self) -> None:
        if self._session is None:
            return
        if self._optimizers:
            self._handles = [o.register_step_pre_hook(self._before_update) for o in self._optimizers]
        else:
            self._handles = [register_optimizer_step_pre_hook(self._before_update)]
        self._begin()

    @guarded("the monitor")
    def _before_update(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        groups = optimizer.param_groups
        if self._session is None or not any(id(p) in self._parameters for g in groups for p in g["params"]):
            return  # another model's optimizer
        # With a closure the backward pass is still to come: what .grad holds now belongs to no step.
        closure = kwargs.get("closure", next(iter(args[1:]), None))  # args begin with the optimizer
        self._session.before_update(
            optimizer=optimizer, gradients=closure is None, scale=compat.gradient_scale(optimizer)
        )

    @guarded("the monitor")
    def step(self, loss: Tensor | float | None = None, labels: Tensor | None = None) -> None:
        """Ends one optimizer step: call it once after ``optimizer.step()``.

        Args:
            loss: The loss of the step; a scalar tensor or a number.
            labels: Integer class labels of the batch, one a sample.
        """
        if self._session is None:
            return
        if not self._session.has_updated:
            # An optimizer without torch's hooks, or a step that a gradient scaler skipped: look at what is there.
            self._session.before_update(gradients=False)
        self._session.end_batch(loss, labels)
        self._step += 1
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run should know: plain types and one tensor, less than 64 kB, to save with the model."""
        state = self.guard.call("the memory", self._session.memory) if self._session is not None else None
        return state or {}

    @guarded("the monitor")
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state_dict`` gave, steps included; call it before the loop begins.

        Args:
            state: One of a newer nndiag, or a damaged one, is left out with a warning.
        """
        memory = Memory.recalled(state) if state and self._session is not None else None
        if memory is not None and self._session is not None:
            self._session.recall(memory)
            self._step = memory.step + 1

    def release(self) -> None:
        """Takes every hook out of the model and the optimizers."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        if self._session is not None:
            self._session.release()

    def _begin(self) -> None:
        if self._session is not None and self._handles:
            self._session.begin_batch(self._step)
            self._session.open_window(glue=False)


def _as_list(optimizer: Optimizer | Iterable[Optimizer] | None) -> list[Optimizer]:
    """The optimizers themselves: wrappers, such as Accelerate's, are optimizers without hooks."""
    if optimizer is None:
        return []
    given = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    return [getattr(each, "optimizer", each) for each in given]


def _sinks(options: MonitorOptions) -> list[Sink]:
    """Of several processes, rank 0 writes everything, the others a record each."""
    rank, _ = own_rank()
    if rank:
        return [RecordSink(options.log_dir, rank)] if options.log_dir is not None else []
    sinks: list[Sink] = []
    if options.log_dir is not None:
        sinks += [TensorBoardSink(own_writer(options.log_dir)), RecordSink(options.log_dir)]
    if options.html:
        sinks.append(HtmlSink(options.html if isinstance(options.html, str) else None, options.log_dir))
    if options.console:
        sinks.append(ConsoleSink())
    return sinks
