"""One watched run: observers, schedule, diagnosis and sinks, whatever drives the loop.

A driver (the plain ``Monitor``, the Lightning callback) tells the session when a batch starts, when an
optimizer is about to update, and when the batch has ended. Everything else happens here, behind the guard.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nndiag.diagnosis import Diagnosis, Update
from nndiag.facts import environment, is_at_rest, number, settings_of
from nndiag.findings import Scalar, worst
from nndiag.guard import Guard
from nndiag.measures import Need
from nndiag.memory import Memory
from nndiag.noticeboard import Noticeboard, open_board
from nndiag.observe.observers import Observers
from nndiag.observe.schedule import START_UP, Budget, Schedule
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.sinks import Sink, own_rank
from nndiag.snapshot import Snapshot

DEFAULT_CADENCE = 50
_NEVER = 2**62


class Session:
    """Watches one run of one model.

    Args:
        root: The model.
        options: Checked options.
        total_steps: Length of the run in optimizer steps, when known.
        sinks: Where updates and the report go.
        guard: Counts the faults.
        clock: Seconds; injected, so that tests need not wait.

    Raises:
        ConfigurationError: a layer pattern fits no layer of the model.
    """

    def __init__(
        self,
        root: nn.Module,
        options: MonitorOptions,
        *,
        total_steps: int | None = None,
        sinks: Sequence[Sink] = (),
        guard: Guard | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.guard = guard or Guard(options.strict)
        self.options = options
        self.schedule = Schedule(options.every_n or DEFAULT_CADENCE, total_steps)
        self.budget = Budget(options.max_overhead, clock)
        self.diagnosis = Diagnosis(options.selection, environment(total_steps))
        needs: frozenset[Need] = frozenset().union(*(m.needs for m in self.diagnosis.measures))
        self.observers = Observers(root, options, needs, self.guard, clock)
        self.sinks = list(sinks)
        self.latest: Update | None = None
        self._step = self._last_step = -1
        self._is_visit = self._updated = self._looked = self._closed = False
        self._visits = 0
        self._first_bad: Tensor | None = None
        self._settings: dict[str, Scalar] = {}
        self._optimizers: set[int] = set()
        self._classes = 0
        self._first_step: int | None = None
        self._notes: list[str] = []
        self._memory: Memory | None = None
        self._board: Noticeboard | None = None

    def begin_batch(self, step: int) -> None:
        """A training batch of optimizer step ``step`` is about to run; an error when the session is closed."""
        if self._closed:
            raise RuntimeError("this run is over: make a new monitor to watch again")
        with self._charged(step):
            if self._first_step is None:
                self._set_out(step)
            if step != self._step:
                self._step, self._updated, self._looked = step, False, False
                self.budget.begin_step()
                self._is_visit = self.schedule.is_visit(step, self.budget.stride)
            if self._updated:
                return
            self.guard.call("the probe", self.observers.arm_probe)
            if self._is_visit or self.schedule.is_counted(step):
                self.guard.call("the stream", self.observers.attach_stream, gradients=self._is_visit)

    @property
    def is_recording(self) -> bool:
        """Whether the probe records the present batch."""
        return self.observers.is_recording

    @property
    def has_updated(self) -> bool:
        """Whether an optimizer has stepped since the present step began."""
        return self._updated

    def open_window(self, *, glue: bool) -> None:
        """The probe's recording begins; it lasts until the window is closed, or to the next update.

        Args:
            glue: Whether operations between module calls are recorded too, which is possible only where the
                window surrounds the forward pass and no more.
        """
        if self.observers.probe is not None and self.observers.is_recording:
            self.guard.call("the probe", self.observers.probe.open_window, glue=glue)

    def close_window(self) -> None:
        """The probe's recording ends."""
        if self.observers.probe is not None:
            self.observers.probe.close_window()

    def before_update(
        self,
        *,
        optimizer: Optimizer | None = None,
        gradients: bool = True,
        certify: bool = True,
        scale: float = 1.0,
    ) -> None:
        """An optimizer is about to change its parameters (None: an unknown one, all).

        More optimizers of the same step add their gradients. With ``gradients=False`` no backward pass of
        this step has happened yet. With ``certify=False`` the probe waits for the end of the batch (manual
        optimization: more calls may follow). ``scale`` is what a loss scaler multiplied the gradients by.
        """
        groups = optimizer.param_groups if optimizer is not None else []
        parameters = [p for group in groups for p in group["params"]] if optimizer is not None else None
        with self._charged(self._step):
            if certify:
                self._look()
            if self._is_visit:
                self._settings |= settings_of(groups)
                self._optimizers |= {id(optimizer)} if optimizer is not None else set()
                self._settings["optimizers"] = len(self._optimizers)
                self.guard.call(
                    *("the weights", self.observers.read_weights),
                    first=self._visits == 0,
                    compare=self.schedule.is_compared(self._step, self.budget.stride),
                    only=parameters,
                    gradients=gradients,
                    scale=scale,
                    idle=[p for group in groups if is_at_rest(group) for p in group["params"]],
                )
            self._updated = True

    def end_batch(self, loss: Tensor | float | None = None, labels: Tensor | None = None) -> Update | None:
        """A training batch has ended; returns what the visit brought, if this was one."""
        with self._charged(self._step):
            update = self._end_batch(loss, labels)
        is_regular = update is not None and self._step > max(START_UP)
        if is_regular and not self.schedule.is_visit(self._step + 1, self.budget.stride):
            self.budget.settle(self.schedule.cadence)
        return update

    def _end_batch(self, loss: Tensor | float | None, labels: Tensor | None) -> Update | None:
        if self._closed:
            return None
        if self._is_visit or self.schedule.is_counted(self._step):
            self.guard.call("the labels", self.observers.note_labels, labels)
        if self._updated:
            self._look()
            self._last_step = self._step
            self.guard.call("the loss", self._watch_loss, loss)
            if self._is_visit:
                self.guard.call("the weights", self.observers.read_updates)
        self.release()
        if not (self._is_visit and self._updated):
            return None
        self._is_visit = False
        with _chance_kept():
            update = self.guard.call("the diagnosis", self._diagnose, loss, labels)
            if update is None:
                return None
            if self._board is not None:
                update = (
                    self.guard.call("the exchange with other ranks", self._board.exchange, update) or update
                )
            self.latest = update
            for sink in self.sinks:
                self.guard.call(type(sink).__name__, sink.write, update)
        return self.latest

    def _look(self) -> None:
        """The probe's turn, once a step: certify what was recorded; at a visit, replay it."""
        if self._looked:
            return
        self._looked = True
        limit = self.budget.visit_limit_s(self.schedule.cadence)
        self.guard.call("the probe", self.observers.settle_probe, limit)
        if self._is_visit:
            goes_on = self.schedule.is_visit(self._step + 1, self.budget.stride)
            self.guard.call("the probe", self.observers.replay, self._step, goes_on=goes_on)
            if self.schedule.is_experiment(self._step):
                self.guard.call("the probe's experiments", self.observers.experiment)

    def _watch_loss(self, loss: Tensor | float | None) -> None:
        """Keeps the first step with a non-finite loss; on a device without being read before the next visit."""
        if isinstance(loss, Tensor) and loss.device.type != "cpu":
            if loss.numel() == 1:
                bad = ~loss.detach().isfinite().reshape(())
                step = torch.where(bad, self._step, _NEVER).to(torch.int64)
                known = self._first_bad
                self._first_bad = step if known is None else torch.minimum(known.to(step.device), step)
            return
        found = number(loss)
        if found is not None and not math.isfinite(found) and self._first_bad is None:
            self._first_bad = torch.tensor(self._step)

    def release(self) -> None:
        """Takes every hook out of the model."""
        if self._closed:
            return
        self.guard.clean_up("the weights", self.observers.updates.forget)
        self.guard.clean_up("the stream", self.observers.stream.detach)
        self.guard.clean_up("the probe", self.observers.disarm_probe)

    def close(self) -> Report:
        """Ends the run, also after an exception: hooks off, sinks closed, the model let go. Safe to call again."""
        if self._closed:
            return self.report()
        self.release()
        report = self.report()
        self._closed = self._updated = True
        del self.observers  # a report may be kept for long; the model need not be
        with _chance_kept():
            for sink in self.sinks:
                self.guard.call(type(sink).__name__, sink.close, report)
        return report

    @property
    def should_stop(self) -> bool:
        """Whether a finding at or above ``stop_on`` is active."""
        limit, found = self.options.stop_on, worst(self.latest.findings) if self.latest else None
        return limit is not None and found is not None and found.rank >= limit.rank

    def report(self) -> Report:
        """The report as it stands."""
        self.diagnosis.run |= {} if self._closed else self._account()
        self.diagnosis.note(*self.budget.notes)
        self.guard.call("the report", self.diagnosis.tell_faults, self.guard.causes)
        report = self.diagnosis.report()
        return self._board.united(report) if self._board is not None else report

    def _diagnose(self, loss: Tensor | float | None, labels: Tensor | None) -> Update:
        observation = self.observers.take()
        facts: dict[str, Scalar] = {"total_steps": self.schedule.total_steps}
        facts["output_units"] = self.observers.wiring.output_units
        facts["loss"] = known = number(loss)
        facts["classes_seen"] = self._count_classes(labels)
        facts |= self.guard.call("the loss", self.observers.loss_facts, loss, known, observation) or {}
        facts["probe_samples"] = self.observers.samples
        facts |= self._settings
        if self._first_bad is not None and int(self._first_bad) < _NEVER:
            facts["first_non_finite_loss"] = int(self._first_bad)
        facts |= self.guard.call("the updates", self.observers.update_facts) or {}
        refusal = self.observers.refusal
        if refusal is not None:
            facts["probe_refused"] = refusal
        facts |= {f"fault {feature}": cause for feature, cause in self.guard.causes.items()}
        self._visits += 1
        snapshot = Snapshot(
            step=self._step,
            source="live",
            layers=self.observers.wiring.in_order(),
            statistics={key: statistic.cpu() for key, statistic in observation.statistics.items()},
            gaps=observation.gaps,
            facts=facts,
            notes=(*self._notes, *observation.notes, *self.budget.notes),
        )
        if self.diagnosis.first is None and self._first_step:  # what is seen first is not how the run began
            self.diagnosis.first = replace(snapshot, step=0)
        return self.diagnosis.add(snapshot)

    def _set_out(self, step: int) -> None:
        """Says where this process comes in, and where the run was taken up again."""
        self._first_step = step
        if self.options.merge_ranks:
            self._board = self.guard.call("the exchange with other ranks", open_board)
        rank, ranks = own_rank()
        if ranks > 1:
            self._notes.append(
                f"readings are of rank {rank} of {ranks}: its own batches, nothing is added up"
            )
        if self._memory is not None:
            self._notes.append(
                f"resumed at step {step}: what was found before is kept; the probe records anew, and nothing it"
                " sees is compared with before"
            )
        elif step > 0:
            self._notes.append(f"watched from step {step} on: nothing is known of the steps before")

    def recall(self, memory: Memory) -> None:
        """Goes on from what a checkpoint carried, before the first batch.

        What was found is the word of the rank that saved it: another one takes over the rest.
        """
        self._memory = memory
        is_own = memory.facts.get("rank", 0) == own_rank()[0]
        (memory if is_own else replace(memory, tracks=())).restore(self.diagnosis)
        known = {name: int(value) for name, value in memory.facts.items() if isinstance(value, int)}
        self._visits, self._classes = known.get("visits", 0), known.get("classes", 0)
        if "first_bad" in known:
            self._first_bad = torch.tensor(known["first_bad"])

    def memory(self) -> dict[str, Any]:
        """What a checkpoint should carry, as plain types and tensors; empty before the first visit."""
        if self.diagnosis.first is None:
            return {}
        counted: dict[str, Scalar] = {"visits": self._visits, "classes": self._classes}
        counted["rank"] = own_rank()[0]
        if self._first_bad is not None and int(self._first_bad) < _NEVER:
            counted["first_bad"] = int(self._first_bad)
        before = self._memory.step if self._memory is not None else -1
        with self._charged(self._step):
            return Memory.of(self.diagnosis, max(self._last_step, before), counted).to_state()

    def _count_classes(self, labels: Tensor | None) -> int | None:
        if (
            isinstance(labels, Tensor)
            and labels.numel()
            and not labels.is_floating_point()
            and not labels.is_complex()
        ):
            self._classes = max(self._classes, int(labels.max()) + 1)
        return self._classes or None

    def _account(self) -> dict[str, Scalar]:
        begun: dict[str, Scalar] = {"watched_from": self._first_step} if self._first_step else {}
        return begun | {
            "visits": self._visits,
            "last_step": self._last_step,
            "overhead": round(self.budget.share, 5),
            "overhead_seconds": round(self.budget.spent_s, 4),
            "start_up_seconds": round(self.budget.start_up_s, 4),
            "cadence": self.schedule.cadence * self.budget.stride,
            "probe": self.observers.probe_state,
        }

    @contextlib.contextmanager
    def _charged(self, step: int) -> Iterator[None]:
        begin = self.budget.clock()
        try:
            yield
        finally:
            self.budget.charge(step, self.budget.clock() - begin)


@contextlib.contextmanager
def _chance_kept() -> Iterator[None]:
    """Puts random numbers back: a library that is loaded on the way may draw some for itself."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
