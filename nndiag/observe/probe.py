"""The probe: every layer on the same inputs at every visit, without touching the training.

A step's module calls are recorded once and replayed in a sandbox. A model that the sandbox cannot vouch for is
refused before it can come to harm: by a scan before the first replay, by comparing two replays, and by
watching what each later one changes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nndiag import compat
from nndiag.observe.certificate import Certificate, Digest, Digester, certify, compare
from nndiag.observe.recorder import Recorder
from nndiag.observe.replay import play
from nndiag.observe.sandbox import Sandbox
from nndiag.observe.state import Pin, State
from nndiag.observe.tape import Leaf, Tape
from nndiag.observe.values import Refusal, Refused, same
from nndiag.observe.watch import Listener, Watch
from nndiag.statistics import Rows

Experiment = Callable[[nn.Module], AbstractContextManager[Any]]
"""Makes a replay of a model differ from evaluation in one thing."""

_STACK_LIMIT = 64 * 2**20
"""Bytes of inputs that are kept, and of the largest output of a layer in a replay of more than one batch."""

_STACK_BATCHES = 64
_BYTES = 4  # of a number, most often
_FEWEST = 32  # below, most measures have nothing to say
_SHORT_S = 0.05
"""A replay shorter than this costs its calls, not its rows, and timing it is a matter of chance."""
_ATTEMPTS = 3
_RETRY = ("no-call", "iterator-argument", "opaque-argument")


class Probe:
    """Records, certifies and replays the top-level calls of one model.

    Args:
        root: The model.
        samples: Samples to replay, gathered from several recorded batches where that is certified.
        clock: Seconds; injected, so that tests need not wait.
    """

    def __init__(
        self, root: nn.Module, *, samples: int = 128, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.refusal: Refusal | None = None
        self.notes: tuple[str, ...] = ()
        self.time_limit_s: float | None = None
        self.n = 0
        self._root, self._samples, self._clock = root, samples, clock
        self._recorder: Recorder | None = None
        self._pending: Recorder | None = None
        self._tapes: list[Tape] = []
        self._tape: Tape | None = None
        self._certificate: Certificate | None = None
        self._whole: Mapping[str, Digest] = {}
        self._pins: list[Pin] = []
        self._changed: frozenset[str] = frozenset()
        self._needs_autograd = self._uses_compile = False
        self._is_complete = False
        self._batches = self._attempts = 0
        self._batch_s = 0.0

    @property
    def certified(self) -> bool:
        """Whether the tape may be replayed."""
        return self._tape is not None and self.refusal is None

    @property
    def is_complete(self) -> bool:
        """Whether the samples are final: until then readings of two visits are not of the same ones."""
        return self._is_complete

    @property
    def wants_capture(self) -> bool:
        """Whether another training batch should be recorded."""
        return self.refusal is None and not self._is_complete

    @property
    def whole(self) -> bool:
        """Whether samples cannot be told apart: the recorded batch is replayed as it is."""
        return self._certificate is None

    @property
    def pinned(self) -> tuple[str, ...]:
        """State that replays change, held at its value of certification."""
        return tuple(f"{pin.path} is held at its value of the recorded step" for pin in self._pins)

    @property
    def stale(self) -> frozenset[str]:
        """Calls whose input is frozen at the recorded step."""
        return frozenset(self._tape.stale_calls) if self._tape is not None else frozenset()

    def rows(self, key: str) -> Rows | None:
        """Where the samples of a call's output are."""
        return self._certificate.where(key) if self._certificate is not None else None

    def arm(self) -> None:
        """Prepares to record the coming batch.

        Hooks that are in place when a compiled function is first traced would cost a graph: where anything
        is compiled, the first batch goes unrecorded.
        """
        self._batches += 1
        self._uses_compile = compat.compile_backend_in_use() or compat.is_compiled(self._root)
        if self._uses_compile and self._batches == 1:
            return
        self._recorder = Recorder(self._root)
        self._recorder.arm()

    def open_window(self, *, glue: bool) -> None:
        """Begins the recording.

        Args:
            glue: Whether operations between module calls are recorded too, where nothing is compiled.
        """
        if self._recorder is not None:
            self._recorder.open(glue and not self._uses_compile)

    def close_window(self) -> None:
        """Ends the recording."""
        if self._recorder is not None:
            self._recorder.close()

    def disarm(self) -> None:
        """Removes the recorder's hooks; idempotent, also after an exception."""
        if self._recorder is not None:
            self._recorder.disarm()
            self._pending, self._recorder = self._recorder, None

    def certify(self) -> None:
        """Judges what was recorded, at the parameters it was recorded with."""
        recorder, self._pending = self._pending, None
        if recorder is None or not self.wants_capture:
            return
        if recorder.refusal is not None:
            self._refuse_or_retry(recorder.refusal)
            return
        self.notes = tuple(sorted({*self.notes, *recorder.tape.notes}))
        try:
            if self._tape is None:
                self._certify_first(recorder.tape)
            self._gather(recorder.tape)
        except Refused as refused:
            self._refuse(refused.refusal)
        except (torch.OutOfMemoryError, MemoryError):
            self._refuse(Refusal("too-large", "there is no memory for a replay"))
        except Exception as error:
            text = f"the model's evaluation pass raises {type(error).__name__}: {error}"[:200]
            self._refuse(Refusal("replay-raised", text))

    def replay(
        self,
        listener: Listener | None = None,
        experiment: Experiment = contextlib.nullcontext,
        samples: int | None = None,
    ) -> list[list[Tensor]]:
        """One visit: plays the tape in the sandbox while the listener is told of every call.

        Args:
            listener: Who is told.
            experiment: What is different from evaluation, entered around the replay.
            samples: How many are enough, where they can be told apart; None: all.

        Returns:
            The output tensors of each module call; empty when the tape could not be played.
        """
        if not self.certified or self._tape is None:
            return []
        tape = self._tape
        if samples is not None and samples < self.n and self._certificate is not None:
            tape = _narrow(tape, self._certificate, samples)
        sandbox = Sandbox(self._root, self._pins)
        outputs: list[list[Tensor]] = []
        try:
            with sandbox, experiment(self._root), contextlib.ExitStack() as stack:
                if listener is not None:
                    stack.enter_context(Watch(self._root, listener))
                outputs = play(tape, gradients=self._needs_autograd)
        except (torch.OutOfMemoryError, MemoryError):
            self._refuse(Refusal("too-large", "there is no memory left for a replay"))
        except Refused as refused:
            self._refuse(refused.refusal)
        new = frozenset(sandbox.changed) - self._changed
        if new:
            what = ", ".join(sorted(new)[:3])
            self._refuse(Refusal("late-change", f"a replay changed {what}, which certification did not"))
        return outputs

    def _certify_first(self, tape: Tape) -> None:
        scan = State(self._root, False)
        if scan.iterators:
            what = ", ".join(scan.iterators[:3])
            raise Refused("unrestorable-state", f"{what} can be read only once and cannot be rewound")
        first, digests, sandbox = self._try(tape)
        self._pins, self._changed = sandbox.pins, frozenset(sandbox.changed)
        begin = self._clock() if self.time_limit_s is not None else 0.0
        second, again, sandbox = self._run(tape)
        self._batch_s = self._clock() - begin if self.time_limit_s is not None else 0.0
        if frozenset(sandbox.changed) - self._changed:
            raise Refused("unrestorable-state", "two replays of one step change different things")
        equal = [len(a) == len(b) and all(map(same, a, b)) for a, b in zip(first, second, strict=True)]
        totals = digests.keys() == again.keys() and all(
            same(digests[k].total, again[k].total) for k in digests
        )
        if not all(equal) or not totals:
            raise Refused("not-repeatable", "two replays of the same inputs give different outputs")
        self._certificate = certify(tape, digests, lambda select: self._run(tape, select)[1])
        self._whole, self._tape = digests, tape
        self.n = self._certificate.rows if self._certificate is not None else 1

    def _try(self, tape: Tape) -> tuple[list[list[Tensor]], Mapping[str, Digest], Sandbox]:
        """The first replay, with a copy of every parameter; once more with autograd if it needs that."""
        try:
            return self._run(tape, parameters=True)
        except RuntimeError as error:
            if "grad" not in str(error):
                raise
            self._needs_autograd = True
            return self._run(tape, parameters=True)

    def _run(
        self,
        tape: Tape,
        select: Callable[[int, Tensor], Tensor] | None = None,
        *,
        parameters: bool = False,
    ) -> tuple[list[list[Tensor]], Mapping[str, Digest], Sandbox]:
        digester, sandbox = Digester(), Sandbox(self._root, self._pins, parameters=parameters)
        with sandbox, Watch(self._root, digester):
            outputs = play(tape, select, gradients=self._needs_autograd)
        return outputs, digester.digests, sandbox

    def _gather(self, tape: Tape) -> None:
        """Collects batches until there are enough samples, then stacks them."""
        certificate = self._certificate
        wanted = self._samples if certificate is None else self._affordable(certificate.rows)
        if certificate is None or certificate.rows >= wanted:
            self._is_complete, self._tapes = True, []
            self._fit_rows(self._samples)
            return
        first = self._tape
        assert first is not None
        if not self._tapes:
            self._tapes.append(first)
        elif tape.structure != first.structure:
            self._finish_stack()
            return
        else:
            self._tapes.append(tape)
        batches = min(_STACK_BATCHES, -(-wanted // certificate.rows))
        size = first.nbytes() * (len(self._tapes) + 1)
        if len(self._tapes) >= batches or size > _STACK_LIMIT or first.stale_calls:
            self._finish_stack()

    def _affordable(self, rows: int) -> int:
        """Samples that about fit the time of a visit: no more are gathered, since to certify them takes long too.

        Training itself proves that the rows of one batch fit the memory; of more, the largest output must be small.
        """
        largest = max((math.prod(digest.shape) * _BYTES for digest in self._whole.values()), default=0)
        wanted = self._samples
        if largest:
            wanted = min(wanted, max(rows, _STACK_LIMIT * rows // largest))
        if self.time_limit_s is None:
            return wanted
        batches = max(self.time_limit_s, _SHORT_S) / max(self._batch_s, 1e-9)
        return min(wanted, max(rows, _FEWEST, int(rows * min(batches, _STACK_BATCHES))))

    def _finish_stack(self) -> None:
        """One tape of many rows, only if it gives what the separate replays give."""
        self._is_complete = True
        tapes, self._tapes = self._tapes, []
        certificate, first = self._certificate, self._tape
        assert certificate is not None
        assert first is not None
        stacked = _stack(tapes, certificate, self._samples) if len(tapes) > 1 else None
        if stacked is None:
            self._fit_rows(self._samples)
            return
        count = next(stacked.leaves[n].value.shape[certificate.axis] for n in certificate.leaves)
        try:
            whole = self._run(stacked)[1]
            part = self._run(first)[1]
        except Exception:  # what was certified alone stays certified
            return
        kept = torch.arange(certificate.rows)
        matches = {key: match for key, match in certificate.found.items() if isinstance(match, Rows)}
        if all(
            k in whole and k in part and compare(whole[k], part[k], kept, count) == m
            for k, m in matches.items()
        ):
            self._tape, self.n, self._whole = stacked, count, whole
        self._fit_rows(self._samples)

    def _fit_rows(self, limit: int) -> None:
        """As many rows as fit the time of a visit, from two timings; at least 8, or the whole batch."""
        certificate, tape = self._certificate, self._tape
        if certificate is None or tape is None:
            return
        rows = min(self.n, limit)
        if self.time_limit_s is not None and rows > 8:
            few = max(1, 3 * rows // 5)
            slow, fast = (
                self._seconds(_narrow(tape, certificate, rows)),
                self._seconds(_narrow(tape, certificate, few)),
            )
            each = max(slow - fast, 0.0) / (rows - few)
            if slow > max(self.time_limit_s, _SHORT_S) and each > 0:
                fixed = slow - each * rows  # where calls cost more than rows, fewer rows help little
                affordable = int(max(self.time_limit_s - fixed, fixed) / each)
                rows = max(min(rows, affordable), min(certificate.rows, 8))
        if rows < self.n:
            self._tape, self.n = _narrow(tape, certificate, rows), rows

    def _seconds(self, tape: Tape) -> float:
        begin = self._clock()
        self._run(tape)
        return self._clock() - begin

    def _refuse_or_retry(self, refusal: Refusal) -> None:
        self._attempts += 1
        code = refusal.code.replace("-output", "-argument")
        if self._tape is not None:
            self._finish_stack()
        elif code not in _RETRY or self._attempts >= _ATTEMPTS:
            self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """For the rest of the run; nothing of a recorded batch is kept."""
        self.refusal = refusal
        self._tape, self._tapes, self._pins, self.n = None, [], [], 0


def _stack(tapes: list[Tape], certificate: Certificate, limit: int) -> Tape | None:
    """The rows of several recordings on one tape."""
    first, axis = tapes[0], certificate.axis
    leaves: dict[int, Leaf] = {}
    for number, leaf in first.leaves.items():
        if number not in certificate.leaves:
            leaves[number] = leaf
            continue
        values = [tape.leaves[number].value for tape in tapes]
        if any(_other_axes(value, axis) != _other_axes(leaf.value, axis) for value in values):
            return None
        joined = torch.cat(values, axis)
        leaves[number] = replace(leaf, value=joined.narrow(axis, 0, min(limit, joined.shape[axis])).clone())
    return replace(first, leaves=leaves)


def _narrow(tape: Tape, certificate: Certificate, rows: int) -> Tape:
    """The first rows of a tape."""
    leaves = {
        number: replace(leaf, value=leaf.value.narrow(certificate.axis, 0, rows).clone())
        if number in certificate.leaves
        else leaf
        for number, leaf in tape.leaves.items()
    }
    return replace(tape, leaves=leaves)


def _other_axes(value: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(value.shape[:axis] + value.shape[axis + 1 :])
