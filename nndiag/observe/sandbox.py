"""The sandbox: inside it a model can be run, and afterwards it never was."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from nndiag.guard import insist
from nndiag.observe.barrier import WriteBarrier
from nndiag.observe.state import Pin, State, install


class Sandbox(contextlib.ExitStack):
    """A context in which the model is in eval mode, without gradients, and everything is put back.

    Random number generators are seeded with a constant inside and restored outside; what a replay writes, in
    tensors or on the Python side, is undone.

    Args:
        root: The model.
        pins: State to hold at its value of certification.
        parameters: Whether parameter values are copied beforehand, on top of the write barrier.
    """

    def __init__(self, root: nn.Module, pins: list[Pin], *, parameters: bool = False) -> None:
        super().__init__()
        self._root, self._wanted, self._parameters = root, pins, parameters
        self.changed: list[str] = []
        self.pins: list[Pin] = []

    def __enter__(self) -> Self:
        """Sets everything aside; what was set aside is put back even if this fails half way."""
        try:
            self._set_aside()
        except BaseException:
            self.close()
            raise
        return self

    def _set_aside(self) -> None:
        self.callback(insist, _generators(self._root))
        self.callback(torch.set_default_dtype, torch.get_default_dtype())
        self.callback(insist, _silent_logs(self._root))
        state = State(self._root, self._parameters)
        self.callback(insist, functools.partial(self._restore, state))
        self.callback(insist, _evaluation(self._root))
        self.enter_context(torch.no_grad())
        self.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if "torch._dynamo" in sys.modules:
            self.enter_context(torch.compiler.set_stance("force_eager"))
        barrier = WriteBarrier()
        self.callback(insist, barrier.undo)
        self.callback(lambda: state.note_writes(barrier.written))
        install(self._wanted)
        self.enter_context(barrier)

    def _restore(self, state: State) -> None:
        self.changed, self.pins = state.restore()


Undo = Callable[[], None]


def _generators(root: nn.Module) -> Undo:
    """Seeds torch on the CPU and on the devices of the model, Python, NumPy."""
    devices = {t.device.index for t in (*root.parameters(), *root.buffers()) if t.device.type == "cuda"}
    cuda = {index: torch.cuda.get_rng_state(index) for index in devices if index is not None}
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()

    def undo() -> None:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
        for index, state in cuda.items():
            torch.cuda.set_rng_state(state, index)

    torch.default_generator.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    for index in cuda:
        torch.cuda.default_generators[index].manual_seed(0)
    return undo


def _silent_logs(root: nn.Module) -> Undo:
    """``self.log`` of a LightningModule does nothing meanwhile."""
    modules = [
        m for m in root.modules() if hasattr(type(m), "training_step") and hasattr(type(m), "log_dict")
    ]
    names: tuple[str, ...] = ("log", "log_dict")
    before = [(m, {key: m.__dict__[key] for key in names if key in m.__dict__}) for m in modules]

    def undo() -> None:
        for module, own in before:
            for key in names:
                module.__dict__.pop(key, None)
            module.__dict__.update(own)

    for module in modules:
        module.__dict__.update(log=_nothing, log_dict=_nothing)
    return undo


def _evaluation(root: nn.Module) -> Undo:
    """Eval mode by the flag alone: ``.eval()`` may be overridden, and ``.train()`` would thaw what is frozen."""
    flags = [(module, module.training) for module in root.modules()]

    def undo() -> None:
        for module, flag in flags:
            _set_training(module, flag)

    try:
        for module, _ in flags:
            _set_training(module, False)
    except BaseException:
        undo()
        raise
    return undo


def _set_training(module: nn.Module, flag: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        module.training = flag  # lives in C++
    else:
        module.__dict__["training"] = flag


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands in for a method that must have no effect."""
