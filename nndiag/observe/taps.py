"""Turns the calls of a forward pass into statistics: each tensor is read once, where it lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.attention import attention_of
from nndiag.observe.observation import Observation
from nndiag.observe.watch import Call
from nndiag.observe.wiring import Wiring, first_tensor
from nndiag.snapshot import Gap, Key, Tap
from nndiag.statistics import (
    AttentionEntropy,
    Histogram,
    Moments,
    Rows,
    Slope,
    Statistic,
    Tails,
    Unreadable,
    canonical,
)

BATCH_FIRST = Rows(axis=0, positions=1, major="sample")
"""What is taken for granted of a training batch: the first axis holds its samples."""


class TapReader:
    """A listener that keeps sufficient statistics of what passes by.

    Args:
        wiring: The model's layers, completed as calls are seen.
        needs: What the measures in use ask for.
        observer: Under whose name statistics are filed. The probe also reads what would be too dear, or not
            allowed, in a training step: moments of outputs, slopes, histograms, attention.
        keeps: Whether a layer is observed at all.
        rows: The sample axis of a call, where it was certified.
    """

    def __init__(
        self,
        wiring: Wiring,
        needs: frozenset[Need],
        observer: Literal["probe", "stream"],
        keeps: Callable[[str], bool],
        rows: Callable[[str], Rows | None] | None = None,
        outputs: bool = True,
    ) -> None:
        self.wiring = wiring
        self.seen = Observation()
        self._needs = needs
        self._observer = observer
        self._keeps = keeps
        self._rows = rows
        self._outputs = outputs and Need.OUTPUT_MOMENTS in needs
        self._open: dict[str, LayerInfo] = {}

    def before(self, call: Call) -> None:
        """Reads the input of activations and attention: afterwards it may be overwritten."""
        info = self.wiring.enter(call, may_run=self._observer == "probe")
        if info is None:
            return
        self._open[call.key] = info
        if not self._keeps(info.name):
            return
        if info.role == "activation" and Need.INPUT_TAILS in self._needs:
            self._read_activation(call, info)
        elif info.role == "attention" and Need.ATTENTION_ENTROPY in self._needs and self._observer == "probe":
            self._read_attention(call, info)

    def after(self, call: Call, output: Any) -> None:
        """Reads the output of layers with weights."""
        info = self._open.pop(call.key, None)
        if info is None:
            return
        self.wiring.leave(info, output)
        if info.role == "weight" and self._keeps(info.name):
            tensor = first_tensor(output)
            if tensor is None:
                return
            if self._outputs:
                x = self._canonical(call.key, info, "output", tensor)
                if x is not None:
                    self._file(info.name, "output", "moments", Moments.of(x))
            self.on_weight_output(info, tensor)

    def on_weight_output(self, info: LayerInfo, output: Tensor) -> None:
        """Called with the output of each layer with weights; the stream hangs its gradient hooks here."""

    def finish_pass(self) -> None:
        """Ends one forward pass."""
        self._open.clear()
        self.wiring.finish_pass()

    def _read_activation(self, call: Call, info: LayerInfo) -> None:
        edges, tensor = self.wiring.edges(info.name), first_tensor((call.args, call.kwargs))
        if edges is None or tensor is None or (not edges.has_tails):
            return
        x = self._canonical(call.key, info, "input", tensor)
        if x is None:
            return
        self._file(info.name, "input", "tails", Tails.of(x, edges.low, edges.high))
        if self._observer == "probe":
            self._file(info.name, "input", "slope", Slope.of(x, edges))
            self._file(info.name, "input", "histogram", Histogram.of(x))

    def _read_attention(self, call: Call, info: LayerInfo) -> None:
        attention = attention_of(call)
        if isinstance(attention, str):
            self.gap(info.name, "input", attention)
        elif attention is not None:
            self._file(info.name, "input", "attention_entropy", AttentionEntropy.of(*attention))

    def _canonical(self, key: str, info: LayerInfo, tap: Tap, tensor: Tensor) -> Tensor | None:
        rows = self._rows(key) if self._rows is not None else BATCH_FIRST
        view = canonical(tensor.detach(), unit_axis=info.unit_axis, rows=rows)
        if isinstance(view, Unreadable):
            self.gap(info.name, tap, view.reason)
            return None
        return view

    def _file(self, layer: str, tap: Tap, name: str, statistic: Statistic) -> None:
        self.seen.add(Key(layer, tap, self._observer, name), statistic)

    def gap(self, layer: str, tap: Tap, reason: str) -> None:
        """Files why something could not be read."""
        self.seen.gaps[Gap(layer, tap, self._observer)] = reason
