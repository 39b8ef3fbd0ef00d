"""The built-in rules of Amazon SageMaker Debugger, written from their public documentation.

Source: "List of Debugger built-in rules", Amazon SageMaker Developer Guide, and the page of each rule there
(VanishingGradient, ExplodingTensor, DeadRelu, SaturatedActivation, PoorWeightInitialization, WeightUpdateRatio,
LossNotDecreasing, AllZero, UnchangedTensor, ClassImbalance). Parameters have the documented default values.

A rule ends at the first step at which its condition holds, and names the tensors that met it then. Choices where
the documentation is silent favor the service: layer norms, biases and frozen weights are no part of the weights,
and a rule whose tensors are not there says nothing.

Left out: Overfit and Overtraining (they need a validation loss during training, which the programs do not have),
TensorVariance (it has no default thresholds, so it never holds), the mispredictions of ClassImbalance (it speaks
of them as a consequence of imbalance), and the rules for images, text, trees and hardware.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..case import Program
from .statement import Statement
from .tensors import Tensors, is_finite, read_run, units


class Rule(Protocol):
    """Looks at one step after another."""

    def look(self, now: Tensors) -> Statement | None:
        """What it says, once its condition holds."""


class VanishingGradient:
    """The mean absolute value of a gradient falls below ``threshold``."""

    threshold = 1e-7

    def look(self, now: Tensors) -> Statement | None:
        """Every gradient by itself."""
        small = [name for name, g in now.gradients.items() if float(g.abs().mean()) < self.threshold]
        return _about(self, now, small)


class ExplodingTensor:
    """A tensor has a value that is NaN or infinite."""

    def look(self, now: Tensors) -> Statement | None:
        """Gradients, weights, activations, and the loss."""
        every = (*now.gradients.items(), *now.weights.items(), *now.outputs.items())
        broken = [name for name, tensor in every if not is_finite(tensor)]
        if not broken and not math.isfinite(now.loss):
            return _says(self, now, ())
        return _about(self, now, broken)


class DeadRelu:
    """More than ``threshold_layer`` percent of the units of a ReLU are active for less than
    ``threshold_inactivity`` percent of the samples.
    """

    threshold_inactivity = 1.0
    threshold_layer = 50.0

    def look(self, now: Tensors) -> Statement | None:
        """Every ReLU by itself."""
        active = {name: units(y) > 0 for name, y in now.of(now.outputs, nn.ReLU).items()}
        return _about(self, now, _inactive(active, self.threshold_inactivity, self.threshold_layer))


class SaturatedActivation:
    """As :class:`DeadRelu`, for tanh and sigmoid: a unit is active where its input is inside the range in which
    the derivative can be told from zero.
    """

    ranges: Mapping[type[nn.Module], tuple[float, float]] = {
        nn.Tanh: (-9.4999, 9.4999),
        nn.Sigmoid: (-23.0, 16.99999),
    }
    threshold_inactivity = 1.0
    threshold_layer = 50.0

    def look(self, now: Tensors) -> Statement | None:
        """Every tanh and sigmoid by itself."""
        active = {
            name: (units(x) > low) & (units(x) < high)
            for kind, (low, high) in self.ranges.items()
            for name, x in now.of(now.inputs, kind).items()
        }
        return _about(self, now, _inactive(active, self.threshold_inactivity, self.threshold_layer))


class PoorWeightInitialization:
    """In the first ``steps`` steps: variances of the inputs of ReLUs that are ``threshold`` times apart, a
    gradient whose 5th and 95th percentiles are closer than ``distribution_range``, or a loss that does not fall
    for ``patience`` steps.
    """

    threshold = 10.0
    distribution_range = 0.001
    patience = 5
    steps = 10

    def __init__(self) -> None:
        self.seen = 0
        self.best = math.inf
        self.waited = 0

    def look(self, now: Tensors) -> Statement | None:
        """Nothing once the first steps are over."""
        self.seen += 1
        if self.seen > self.steps:
            return None
        self.waited = 0 if now.loss < self.best else self.waited + 1
        self.best = min(self.best, now.loss)
        named = [*self._apart(now), *self._narrow(now)]
        return _says(self, now, tuple(named)) if named or self.waited >= self.patience else None

    def _apart(self, now: Tensors) -> list[str]:
        variances = {name: float(x.var()) for name, x in now.of(now.inputs, nn.ReLU).items()}
        if not variances:
            return []
        low, high = (pick(variances, key=lambda name: variances[name]) for pick in (min, max))
        return [low, high] if variances[high] > self.threshold * variances[low] else []

    def _narrow(self, now: Tensors) -> list[str]:
        widths = {
            name: float(ends[1] - ends[0])
            for name, g in now.gradients.items()
            for ends in [torch.quantile(g.flatten().double(), torch.tensor([0.05, 0.95]).double())]
            if g.numel() > 1
        }
        return [name for name, width in widths.items() if width < self.distribution_range]


class WeightUpdateRatio:
    """The norm of an update over that of the weight is above ``large_threshold`` or below ``small_threshold``."""

    large_threshold = 10.0
    small_threshold = 1e-8
    epsilon = 1e-9

    def __init__(self) -> None:
        self.before: Tensors | None = None

    def look(self, now: Tensors) -> Statement | None:
        """Against the step before, so it needs every step."""
        before, self.before = self.before, now
        if before is None or before.step != now.step - 1:
            return None
        ratios = {
            name: float((weight - before.weights[name]).norm() / (before.weights[name].norm() + self.epsilon))
            for name, weight in now.weights.items()
        }
        large = [name for name, ratio in ratios.items() if ratio > self.large_threshold]
        small = [name for name, ratio in ratios.items() if ratio < self.small_threshold]
        return _about(self, now, large, "large") or _about(self, now, small, "small")


class LossNotDecreasing:
    """Every ``num_steps`` steps: the loss fell by less than ``diff_percent``, or rose by more than
    ``increase_threshold_percent``. A smaller rise is allowed.
    """

    num_steps = 10
    diff_percent = 0.1
    increase_threshold_percent = 5.0

    def __init__(self) -> None:
        self.before: Tensors | None = None

    def look(self, now: Tensors) -> Statement | None:
        """Against the step at which it looked last."""
        before = self.before
        if before is not None and now.step - before.step < self.num_steps:
            return None
        self.before = now
        if before is None or before.loss == 0:
            return None
        change = 100 * (now.loss - before.loss) / abs(before.loss)
        if change > self.increase_threshold_percent:
            return _says(self, now, (), "rising")
        return _says(self, now, (), "flat") if -self.diff_percent < change <= 0 else None


class AllZero:
    """All values of a gradient or of the output of a ReLU are zero."""

    def look(self, now: Tensors) -> Statement | None:
        """Each tensor by itself; outputs first, as they are the cause."""
        off = [name for name, y in now.of(now.outputs, nn.ReLU).items() if not y.any()]
        zero = [name for name, g in now.gradients.items() if not g.any()]
        return _about(self, now, off, "output") or _about(self, now, zero, "gradient")


class UnchangedTensor:
    """A weight is the same, by ``numpy.allclose``, for ``num_steps`` steps that were saved."""

    num_steps = 3
    rtol = 1e-5
    atol = 1e-8

    def __init__(self) -> None:
        self.before: Mapping[str, Tensor] = {}
        self.same: Counter[str] = Counter()

    def look(self, now: Tensors) -> Statement | None:
        """Counts how long each weight stood still."""
        for name, weight in now.weights.items():
            before = self.before.get(name)
            is_same = before is not None and torch.allclose(weight, before, self.rtol, self.atol)
            self.same[name] = self.same[name] + 1 if is_same else 0
        self.before = now.weights
        return _about(self, now, [name for name, count in self.same.items() if count >= self.num_steps])


class ClassImbalance:
    """After ``samples`` samples, the largest class has ``threshold_imbalance`` times those of the smallest."""

    threshold_imbalance = 10.0
    samples = 500

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def look(self, now: Tensors) -> Statement | None:
        """Counts labels, where there are any."""
        if now.labels is None:
            return None
        self.counts.update(now.labels.flatten().tolist())
        counts = self.counts.values()
        is_enough = sum(counts) >= self.samples
        return (
            _says(self, now, ())
            if is_enough and max(counts) > self.threshold_imbalance * min(counts)
            else None
        )


RULES: tuple[type[Rule], ...] = (
    *(VanishingGradient, ExplodingTensor, DeadRelu, SaturatedActivation, PoorWeightInitialization),
    *(WeightUpdateRatio, LossNotDecreasing, AllZero, UnchangedTensor, ClassImbalance),
)


def judge_steps(steps: Iterable[Tensors]) -> Iterator[Statement]:
    """All rules over the steps of a run; a rule that has spoken is over."""
    waiting: list[Rule] = [rule() for rule in RULES]
    for now in steps:
        for rule in tuple(waiting):
            statement = rule.look(now)
            if statement is not None:
                waiting.remove(rule)
                yield statement


def watch(program: Program, interval: int = 1) -> list[Statement]:
    """Trains a program under all rules; tensors are saved every ``interval`` steps."""
    return list(judge_steps(read_run(program, interval)))


def _inactive(active: Mapping[str, Tensor], unit: float, layer: float) -> list[str]:
    """Layers in which too many units are active for too few samples; both in percent."""
    shares = {name: (100 * on.double().mean(0) < unit).double().mean() for name, on in active.items()}
    return [name for name, share in shares.items() if 100 * float(share) > layer]


def _about(rule: Rule, now: Tensors, names: Iterable[str], part: str = "") -> Statement | None:
    named = tuple(dict.fromkeys(names))
    return _says(rule, now, named, part) if named else None


def _says(rule: Rule, now: Tensors, names: tuple[str, ...], part: str = "") -> Statement:
    kind = type(rule).__name__
    return Statement(f"{kind} {part}".strip(), f"{kind} holds at step {now.step}", "warning", names)
