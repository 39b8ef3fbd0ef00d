"""Everything a training run leaves behind, as one flat mapping, and the count of what differs."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

Outcome = dict[str, Any]
"""Leaves by path: tensors, numbers, strings, None."""

HOOK_TABLES = (
    *("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks"),
    *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
OPTIMIZER_HOOK_TABLES = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
GLOBAL_HOOK_TABLES = tuple(name for name in vars(nn.modules.module) if name.startswith("_global_"))
PATCHABLE = (torch, nn.functional, nn.Module, torch.Tensor, torch.optim.Optimizer, torch.autograd, random)
"""Namespaces whose functions an observer could be tempted to replace."""


def flatten(value: Any, path: str = "") -> Outcome:
    """The leaves of nested mappings and sequences, by path."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = [(str(index), item) for index, item in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = list(vars(value).items())
    elif isinstance(value, torch.Tensor):
        return {path: value.detach().clone()}
    elif isinstance(value, np.ndarray):
        return {path: torch.from_numpy(value.copy())}
    elif isinstance(value, (int, float, str, bytes, type(None))):
        return {path: value}
    else:
        return {path: type(value).__qualname__}
    leaves: Outcome = {f"{path}#": len(items)}
    for key, item in items:
        leaves |= flatten(item, f"{path}/{key}")
    return leaves


def differing(expected: Outcome, actual: Outcome) -> dict[str, int]:
    """Number of differing values by path; what only one side has counts as one difference."""
    counts = dict.fromkeys(expected.keys() ^ actual.keys(), 1)
    for path in expected.keys() & actual.keys():
        count = _count(expected[path], actual[path])
        if count:
            counts[path] = count
    return counts


def _count(a: Any, b: Any) -> int:
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
        return int(type(a) is not type(b) or (a != b and not (a != a and b != b)))
    if a.dtype != b.dtype or a.shape != b.shape:
        return max(a.numel(), b.numel(), 1)
    return int((_bytes(a) != _bytes(b)).any(dim=1).sum()) if a.numel() else 0


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """[numel, bytes of an element]: NaN equals NaN, -0 differs from 0."""
    return tensor.contiguous().reshape(-1, 1).view(torch.uint8)


def random_streams() -> Outcome:
    """The state of the three global random generators."""
    numpy_state = np.random.get_state(legacy=True)
    return flatten({"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy_state}, "rng")


def model_state(model: nn.Module) -> Outcome:
    """Parameters, all buffers, gradients, and the mode of every module."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    return flatten({"state": tensors, "gradient": gradients, "requires_grad": flags, "mode": modes}, "model")


def hook_counts(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Outcome:
    """Number of hooks on modules, parameters, optimizers, and in torch's global tables."""
    counts: Outcome = {}
    for name, module in model.named_modules():
        for table in HOOK_TABLES:
            counts[f"hooks/{name}/{table}"] = len(module.__dict__.get(table) or ())
    for name, parameter in model.named_parameters():
        counts[f"hooks/{name}/tensor"] = len(parameter._backward_hooks or ())
        accumulated = getattr(parameter, "_post_accumulate_grad_hooks", None)
        counts[f"hooks/{name}/accumulated"] = len(accumulated or ())
    for index, optimizer in enumerate(optimizers):
        for table in OPTIMIZER_HOOK_TABLES:
            counts[f"hooks/optimizer{index}/{table}"] = len(getattr(optimizer, table))
    for table in GLOBAL_HOOK_TABLES:
        hooks = getattr(nn.modules.module, table)
        counts[f"hooks/global/{table}"] = len(hooks) if hasattr(hooks, "__len__") else str(hooks)
    return counts


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a run must leave as it was: attributes, functions, threads, global settings."""

    attributes: dict[tuple[str, str], Any]
    functions: dict[tuple[str, str], Any]
    threads: frozenset[int | None]
    settings: Outcome

    @classmethod
    def of(cls, model: nn.Module) -> Surroundings:
        """Taken before a run, to be compared after it."""
        attributes = {
            (name, key): value
            for name, module in model.named_modules()
            for key, value in vars(module).items()
        }
        functions = {
            (space.__name__, key): value
            for space in (*PATCHABLE, *type(model).__mro__[:-1])
            for key, value in vars(space).items()
            if isinstance(value, (FunctionType, BuiltinFunctionType, property))
        }
        return cls(attributes, functions, frozenset(t.ident for t in threading.enumerate()), _settings())

    def changes(self, model: nn.Module) -> Outcome:
        """What is not as it was."""
        now = Surroundings.of(model)
        replaced = {
            "/".join(key)
            for key, value in self.attributes.items()
            if not _is_same(now.attributes.get(key), value)
        }
        added = {"/".join(key) for key in now.attributes.keys() - self.attributes.keys()}
        patched = {
            "/".join(key) for key, value in self.functions.items() if now.functions.get(key) is not value
        }
        found = {"replaced": sorted(replaced), "added": sorted(added), "patched": sorted(patched)}
        found["threads"] = len(now.threads - self.threads)
        return flatten(found, "changes") | now.settings


def _is_same(now: Any, before: Any) -> bool:
    """The very object, which is held meanwhile: an address may be given to another; plain numbers by value."""
    if isinstance(before, (int, float, str)):
        return type(now) is type(before) and bool(now == before)
    return now is before


def _settings() -> Outcome:
    return flatten(
        {
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "autocast_cache": torch.is_autocast_cache_enabled(),
            "dtype": str(torch.get_default_dtype()),
            "function_modes": torch._C._len_torch_function_stack(),
            "dispatch_modes": torch._C._len_torch_dispatch_stack(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "anomaly": torch.is_anomaly_enabled(),
            "stance": str(torch._dynamo.eval_frame._stance.stance),
        },
        "settings",
    )
