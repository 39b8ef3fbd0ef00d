"""Time spent inside a monitor, taken where it is spent: exact also where whole steps take different times."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Meter:
    """Adds up the wall time and the processor time of whatever is wrapped; nested calls count once.

    What a monitor does in other threads and processes, and what it does to the caches of the rest, is not in it.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._is_inside = False

    def read(self) -> tuple[float, float]:
        """Wall and processor seconds so far."""
        return self.wall, self.cpu

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time taken."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return function(*args, **kwargs)
            self._is_inside = True
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.cpu += time.process_time() - cpu
                self.wall += time.perf_counter() - wall
                self._is_inside = False

        return call

    def time(self, owner: Any, *names: str) -> None:
        """Times methods of a class or an object from now on."""
        for name in names:
            function = getattr(owner, name)
            setattr(owner, name, functools.wraps(function)(self.timed(function)))

    def time_hooks(self) -> None:
        """Times every hook that is registered from now on, on modules, tensors and optimizers."""
        places: tuple[tuple[type, tuple[str, ...]], ...] = (
            (nn.Module, ("register_forward_hook", "register_forward_pre_hook")),
            (nn.Module, ("register_full_backward_hook", "register_full_backward_pre_hook")),
            (Tensor, ("register_hook", "register_post_accumulate_grad_hook")),
            (torch.optim.Optimizer, ("register_step_pre_hook", "register_step_post_hook")),
        )
        for owner, names in places:
            for name in names:
                setattr(owner, name, self._registering(getattr(owner, name)))

    def _registering(self, register: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return register(owner, self.timed(hook), *args, **kwargs)

        return call
