"""The tensors of a run, read by plain hooks in a plain loop, as a saving hook would store them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..case import Program
from ..data import Batch


@dataclass(frozen=True)
class Tensors:
    """What one step left behind.

    Attributes:
        step: Number of the step, from 0.
        loss: Its loss.
        weights: Trainable parameters named ``weight`` after the update, one a module.
        gradients: Gradients before the update, one a parameter.
        inputs: What went into activation modules, by the name of the module.
        outputs: What came out of them.
        kinds: The class of each activation module.
        labels: Class labels of the batch, if it has some.
    """

    step: int
    loss: float
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    kinds: Mapping[str, type[nn.Module]] = field(default_factory=dict)
    labels: Tensor | None = None

    def of(self, read: Mapping[str, Tensor], *kinds: type[nn.Module]) -> dict[str, Tensor]:
        """Those of ``read`` that belong to activation modules of these classes."""
        return {name: tensor for name, tensor in read.items() if issubclass(self.kinds[name], kinds)}


ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)


class Collector:
    """Hooks on activation modules and optimizers; :meth:`take` empties what they read.

    A functional activation (``F.relu``) is no module, so it is not seen.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        modules = dict(program.model.named_modules())
        chosen = {name: module for name, module in modules.items() if isinstance(module, ACTIVATIONS)}
        self.kinds: dict[str, type[nn.Module]] = {name: type(module) for name, module in chosen.items()}
        self.handles = [
            module.register_forward_pre_hook(self._before(name)) for name, module in chosen.items()
        ]
        self.handles += [module.register_forward_hook(self._after(name)) for name, module in chosen.items()]
        self.handles += [each.register_step_pre_hook(self._before_update) for each in optimizers(program)]

    def take(self, step: int, loss: float, batch: Batch) -> Tensors:
        """The tensors of the step that just ended."""
        weights = {
            name.removesuffix(".weight"): parameter.detach().clone()
            for name, parameter in self.program.model.named_parameters()
            if name.endswith("weight") and parameter.requires_grad
        }
        read = (dict(self.gradients), dict(self.inputs), dict(self.outputs))
        for each in (self.gradients, self.inputs, self.outputs):
            each.clear()
        return Tensors(step, loss, weights, *read, self.kinds, batch.labels)

    def remove(self) -> None:
        """Takes all hooks off."""
        for handle in self.handles:
            handle.remove()

    def _before(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def read(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if module.training:
                self.inputs[name] = arguments[0].detach().clone()  # an activation may work in place

        return read

    def _after(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def read(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training:
                self.outputs[name] = output.detach().clone()  # so may the module after it

        return read

    def _before_update(self, optimizer: Optimizer, arguments: object, options: object) -> None:
        mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self.program.model.named_parameters():
            if id(parameter) in mine and parameter.grad is not None:
                self.gradients[name] = parameter.grad.detach().clone()


def optimizers(program: Program) -> tuple[Optimizer, ...]:
    """All optimizers of a program."""
    mine = program.optimizer
    return (mine,) if isinstance(mine, Optimizer) else tuple(mine)


def turns(program: Program) -> Iterator[tuple[int, Batch, Tensor]]:
    """Trains a program, a plain loop; yields step, batch and loss after each update."""
    for step, batch in enumerate(program.batches):
        yield step, batch, program.step(batch).detach()


def read_run(program: Program, interval: int = 1) -> Iterator[Tensors]:
    """Trains a program and yields the tensors of every ``interval``-th step."""
    collector = Collector(program)
    try:
        for step, batch, loss in turns(program):
            tensors = collector.take(step, float(loss), batch)
            if step % interval == 0:
                yield tensors
    finally:
        collector.remove()


def units(tensor: Tensor) -> Tensor:
    """[N, ...] as [N, U]: every place of a sample is a unit."""
    return tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor.reshape(-1, 1)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())
