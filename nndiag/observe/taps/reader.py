"""Turns the calls of a forward pass into statistics: each tensor is read once, where it lives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from nndiag import compat
from nndiag.layers import LayerInfo, Role
from nndiag.measures import Need
from nndiag.observe.burst import Burst
from nndiag.observe.observation import Observation
from nndiag.observe.taps import (
    activations,
    attentions,
    bursts,
    dropouts,
    gates,
    inputs,
    norms,
    outputs,
    recurrences,
)
from nndiag.observe.taps.table import Observer, Reader, Variant
from nndiag.observe.watch import Call
from nndiag.observe.wiring import Wiring, first_tensor
from nndiag.snapshot import Gap, Key, Tap
from nndiag.statistics import Rows, Statistic, Unreadable, canonical

READERS = tuple(
    reader
    for kind in (activations, attentions, outputs, inputs, norms, dropouts, recurrences, gates, bursts)
    for reader in kind.READERS
)
"""Everything that is read of passing calls."""

BATCH_FIRST = Rows(axis=0, positions=1, major="sample")
"""What is taken for granted of a training batch: the first axis holds its samples."""


class TapReader:
    """A listener that keeps sufficient statistics of what passes by.

    Args:
        wiring: The model's layers, completed as calls are seen.
        needs: What the measures in use ask for.
        observer: Under whose name statistics are filed. The probe also reads what would be too dear, or not
            allowed, in a training step.
        keeps: Whether a layer is observed at all.
        rows: The sample axis of a call, where it was certified.
        variant: How the replay differs from evaluation.
        stands_in: Whether the stream also reads what else only the probe reads.
        burst: Runs layers on their inputs of the step before, where a measure asks for it.
    """

    def __init__(
        self,
        wiring: Wiring,
        needs: frozenset[Need],
        observer: Observer,
        keeps: Callable[[str], bool],
        rows: Callable[[str], Rows | None] | None = None,
        variant: Variant = "",
        stands_in: bool = False,
        burst: Burst | None = None,
    ) -> None:
        self.wiring = wiring
        wiring.begin_pass()
        self.seen = Observation()
        self.observer, self.variant, self.stands_in = observer, variant, stands_in
        self.burst = burst
        self._needs = needs
        self._keeps = keeps
        self._rows = rows
        self._open: dict[str, LayerInfo] = {}
        self._table: dict[tuple[str, Role], tuple[Reader, ...]] = {}

    def before(self, call: Call) -> None:
        """Reads inputs: afterwards they may be overwritten."""
        info = self.wiring.enter(call, may_run=self.observer == "probe")
        if info is None:
            return
        self._open[call.key] = info
        self._read("before", call, info, None)

    def after(self, call: Call, output: Any) -> None:
        """Reads outputs."""
        info = self._open.pop(call.key, None)
        if info is None:
            return
        self.wiring.leave(info, output)
        self._read("after", call, info, output)
        tensor = first_tensor(output)
        if info.role == "weight" and tensor is not None and self._keeps(info.name):
            self.on_weight_output(info, tensor)

    def _read(self, when: str, call: Call, info: LayerInfo, output: Any) -> None:
        if not self._keeps(info.name):
            return
        for reader in self._due(when, info.role):
            with contextlib.nullcontext() if reader.runs_model else compat.undispatched():
                reader.read(self, call, info, output)

    def _due(self, when: str, role: Role) -> tuple[Reader, ...]:
        if (when, role) not in self._table:
            self._table[when, role] = tuple(
                reader
                for reader in READERS
                if reader.need in self._needs and reader.applies(role, when, self.observer, self.variant)
            )
        return self._table[when, role]

    def on_weight_output(self, info: LayerInfo, output: Tensor) -> None:
        """Called with the output of each layer with weights; the stream hangs its gradient hooks here."""

    def finish_pass(self) -> None:
        """Ends one forward pass."""
        self._open.clear()
        self.wiring.finish_pass()

    def canonical(self, key: str, info: LayerInfo, tap: Tap, tensor: Tensor) -> Tensor | None:
        """X[N, S, C] of a call's input or output; None, and a gap with the reason, where there is none."""
        rows = self._rows(key) if self._rows is not None else BATCH_FIRST
        view = canonical(tensor, unit_axis=info.unit_axis, rows=rows)
        if isinstance(view, Unreadable):
            self.gap(info.name, tap, view.reason)
            return None
        return view

    def file(self, layer: str, tap: Tap, name: str, statistic: Statistic) -> None:
        """Files a statistic; under a part of its name where the replay is a variant."""
        part = f"{name}/{self.variant}" if self.variant else name
        self.seen.add(Key(layer, tap, self.observer, part), statistic)

    def gap(self, layer: str, tap: Tap, reason: str) -> None:
        """Files why something could not be read."""
        self.seen.gaps[Gap(layer, tap, self.observer)] = reason
