"""Replays that differ from evaluation by their dropout masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_DROPOUTS = frozenset(
    ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
)
_DRAWS = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)


@contextlib.contextmanager
def dropout_masks(root: nn.Module, seed: int) -> Iterator[None]:
    """Dropout draws masks, in modules, functional calls and fused kernels; everything else evaluates."""
    modules = [m for m in root.modules() if isinstance(m, _DRAWS)]
    with _attributes(modules, training=True), _FunctionalMasks():
        torch.default_generator.manual_seed(seed)
        for index in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextlib.contextmanager
def _attributes(modules: Sequence[nn.Module], **values: Any) -> Iterator[None]:
    """Sets attributes past ``__setattr__``, and takes them back."""
    before = [{key: m.__dict__[key] for key in values if key in m.__dict__} for m in modules]
    try:
        for module in modules:
            module.__dict__.update(values)
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            module.__dict__.update(own)


class _FunctionalMasks(TorchFunctionMode):
    """Functional dropout as in training, whatever the flag it is given."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "").removesuffix("_") in _DROPOUTS:
            if len(args) > 2:
                args = (*args[:2], True, *args[3:])
            else:
                kwargs["train" if "train" in kwargs else "training"] = True
        return func(*args, **kwargs)
