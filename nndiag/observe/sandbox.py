"""The sandbox: inside it a model can be run, and afterwards it never was."""

from __future__ import annotations

import contextlib
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from nndiag.observe.barrier import WriteBarrier
from nndiag.observe.state import Pin, State, install


class Sandbox:
    """A context in which the model is in eval mode, without gradients, and everything is put back.

    Random number generators are seeded with a constant inside and restored outside; what a replay writes, in
    tensors or on the Python side, is undone.

    Args:
        root: The model.
        pins: State to hold at its value of certification.
        parameters: Whether parameter values are copied beforehand, on top of the write barrier.
    """

    def __init__(self, root: nn.Module, pins: list[Pin], *, parameters: bool = False) -> None:
        self._root, self._wanted, self._parameters = root, pins, parameters
        self._stack = contextlib.ExitStack()
        self.changed: list[str] = []
        self.pins: list[Pin] = []

    def __enter__(self) -> Sandbox:
        """Sets everything aside; what was set aside is put back even if this fails half way."""
        try:
            self._stack.enter_context(_generators(self._root))
            self._stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            self._stack.enter_context(_silent_logs(self._root))
            self._stack.callback(self._restore, State(self._root, self._parameters))
            self._stack.enter_context(_evaluation(self._root))
            self._stack.enter_context(torch.no_grad())
            self._stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            if "torch._dynamo" in sys.modules:
                self._stack.enter_context(torch.compiler.set_stance("force_eager"))
            barrier = WriteBarrier()
            self._stack.callback(barrier.undo)
            install(self._wanted)
            self._stack.enter_context(barrier)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Puts everything back, in reverse."""
        self._stack.close()

    def _restore(self, state: State) -> None:
        self.changed, self.pins = state.restore()


@contextlib.contextmanager
def _generators(root: nn.Module) -> Iterator[None]:
    """Torch on the CPU and on the devices of the model, Python, NumPy."""
    devices = {t.device.index for t in (*root.parameters(), *root.buffers()) if t.device.type == "cuda"}
    cuda = {index: torch.cuda.get_rng_state(index) for index in devices if index is not None}
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(0)
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
        for index, state in cuda.items():
            torch.cuda.set_rng_state(state, index)


@contextlib.contextmanager
def _silent_logs(root: nn.Module) -> Iterator[None]:
    """``self.log`` of a LightningModule does nothing meanwhile."""
    modules = [
        m for m in root.modules() if hasattr(type(m), "training_step") and hasattr(type(m), "log_dict")
    ]
    names: tuple[str, ...] = ("log", "log_dict")
    before = [(m, {key: m.__dict__[key] for key in names if key in m.__dict__}) for m in modules]
    try:
        for module in modules:
            module.__dict__.update(log=_nothing, log_dict=_nothing)
        yield
    finally:
        for module, own in before:
            for key in names:
                module.__dict__.pop(key, None)
            module.__dict__.update(own)


@contextlib.contextmanager
def _evaluation(root: nn.Module) -> Iterator[None]:
    """Eval mode by the flag alone: ``.eval()`` may be overridden, and ``.train()`` would thaw what is frozen."""
    flags = [(module, module.training) for module in root.modules()]
    try:
        for module, _ in flags:
            _set_training(module, False)
        yield
    finally:
        for module, flag in flags:
            _set_training(module, flag)


def _set_training(module: nn.Module, flag: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        module.training = flag  # lives in C++
    else:
        module.__dict__["training"] = flag


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for a method that must have no effect."""
