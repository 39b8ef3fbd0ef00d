"""The stream: hooks that live only during a visited training step."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nndiag import compat
from nndiag.guard import Hook, OnFault
from nndiag.layers import LayerInfo, named_layers
from nndiag.measures import Need
from nndiag.observe.observation import Observation
from nndiag.observe.taps import BATCH_FIRST, TapReader
from nndiag.observe.watch import Call, Watch
from nndiag.observe.wiring import Wiring, first_tensor
from nndiag.snapshot import Gap, Key
from nndiag.statistics import Answers, Moments, Statistic, Tails, Unreadable, canonical, unreadable

ANSWERS = Key("", "output", "stream", "answers")
"""Where the network's output in a training step is filed, with the gradient at it."""

WINDOW_SAMPLES = 512
"""Samples of real batches that tail counts are kept for."""


class _Window:
    """The newest tail counts of one layer, as many steps back as ``WINDOW_SAMPLES`` samples need."""

    def __init__(self) -> None:
        self._steps: deque[Tails] = deque()

    def add(self, tails: Tails) -> None:
        if self._steps and self._steps[-1].n.shape != tails.n.shape:
            self._steps.clear()  # other units than before
        if self._steps and self._steps[-1].k < WINDOW_SAMPLES // 8:
            tails = self._steps.pop().merge(tails)
        self._steps.append(tails)
        while sum(step.k for step in self._steps) - self._steps[0].k >= WINDOW_SAMPLES:
            self._steps.popleft()

    def total(self) -> Tails:
        total = self._steps[0]
        for tails in list(self._steps)[1:]:
            total = total.merge(tails)
        return total


class Stream:
    """Reads real training batches at visited steps.

    Forward hooks count tails at the inputs of activations and, from a visited step's backward pass, take the
    mean square gradient at the outputs of layers with weights, through tensor hooks. Inside compiled regions
    nothing is attached.
    """

    def __init__(
        self,
        root: nn.Module,
        wiring: Wiring,
        needs: frozenset[Need],
        keeps: Callable[[str], bool],
        on_fault: OnFault,
    ) -> None:
        self._root, self._wiring, self._needs, self._keeps = root, wiring, needs, keeps
        self._on_fault = on_fault
        self._watch: Watch | None = None
        self._reader: _StreamReader | None = None
        self._windows: dict[Key, _Window] = {}
        self._seen = Observation()
        self.stands_in_for_probe = False

    @property
    def is_attached(self) -> bool:
        """Whether hooks are in place."""
        return self._watch is not None

    def attach(self, *, gradients: bool) -> None:
        """Puts hooks in place for one training batch; ``gradients`` also for its backward pass."""
        self.detach()
        want = gradients and Need.GRADIENT_MOMENTS in self._needs
        self._reader = _StreamReader(
            *(self._wiring, self._needs, self._keeps, self._on_fault),
            stands_in=self.stands_in_for_probe,
            gradients=want,
        )
        self._watch = Watch(self._root, self._reader, on_fault=self._on_fault, lexical=False)
        self._watch.__enter__()

    def detach(self) -> None:
        """Removes every hook and files what the batch brought."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._reader is None:
            return
        self._reader.close()
        reader, self._reader = self._reader, None
        reader.finish_pass()
        for key, statistic in reader.seen.statistics.items():
            if isinstance(statistic, Tails):
                self._windows.setdefault(key, _Window()).add(statistic)
            else:
                self._seen.add(key, statistic)
        self._seen.gaps |= reader.seen.gaps

    def take(self) -> Observation:
        """What was seen since the last visit; tail counts as a window over the newest samples."""
        seen, self._seen = self._seen, Observation()
        windows: dict[Key, Statistic] = {key: window.total() for key, window in self._windows.items()}
        seen.statistics |= windows
        self._tell_compiled(seen)
        return seen

    def _tell_compiled(self, seen: Observation) -> None:
        """Says of which layers only the probe can see something."""
        regions = {name: m for name, m in named_layers(self._root) if compat.is_compiled_module(m)}
        inside = {id(inner) for region in regions.values() for inner in region.modules()}
        for name, module in named_layers(self._root):
            info = self._wiring.layers.get(name)
            if id(module) in inside and info is not None and info.role == "weight":
                seen.gaps[Gap(name, "grad_output", "stream")] = "compiled"
        if regions:
            what = ", ".join(name or "the model" for name in list(regions)[:3])
            more = ", ..." if len(regions) > 3 else ""
            seen.notes.append(
                f"inside {what}{more} training batches and their gradients are not observed (compiled): only the"
                " probe can see these layers"
            )


class _StreamReader(TapReader):
    """A tap reader that also hangs tensor hooks for the backward pass."""

    def __init__(
        self,
        wiring: Wiring,
        needs: frozenset[Need],
        keeps: Callable[[str], bool],
        on_fault: OnFault,
        *,
        stands_in: bool,
        gradients: bool,
    ) -> None:
        super().__init__(wiring, needs, "stream", keeps, stands_in=stands_in)
        self._gradients = gradients
        self._on_fault = on_fault
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._depth = 0

    def before(self, call: Call) -> None:
        self._depth += 1
        super().before(call)

    def after(self, call: Call, output: Any) -> None:
        super().after(call, output)
        self._depth -= 1
        tensor = first_tensor(output) if self._gradients and not self._depth else None
        if tensor is not None and tensor.requires_grad and tensor.dim():
            read = functools.partial(self._read_answers, tensor.detach())
            self._handles.append(tensor.register_hook(Hook(read, self._on_fault)))

    def _read_answers(self, output: Tensor, gradient: Tensor) -> None:
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            if output.is_floating_point() and unreadable(output) is None and unreadable(gradient) is None:
                self.seen.add(ANSWERS, Answers.of(output, gradient))

    def on_weight_output(self, info: LayerInfo, output: Tensor) -> None:
        if self._gradients and output.requires_grad:
            read = functools.partial(self._read_gradient, info)
            self._handles.append(output.register_hook(Hook(read, self._on_fault)))

    def _read_gradient(self, info: LayerInfo, gradient: Tensor) -> None:
        with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
            x = canonical(gradient, unit_axis=info.unit_axis, rows=BATCH_FIRST)
            if isinstance(x, Unreadable):
                self.gap(info.name, "grad_output", x.reason)
            else:
                self.file(info.name, "grad_output", "moments", Moments.of(x))

    def close(self) -> None:
        """Takes the tensor hooks off again."""
        while self._handles:
            self._handles.pop().remove()
