"""What normalization layers remember and how they are set, read without running a line of their code."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.layers import LayerInfo, named_layers
from nndiag.observe.observation import Observation
from nndiag.observe.watch import Call
from nndiag.snapshot import Key
from nndiag.statistics import NormState, Running, Unreadable, unreadable

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_BATCH = (*_PLAIN, nn.SyncBatchNorm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_EPS_NAMES = ("eps", "epsilon", "variance_epsilon", "norm_eps")
_AFFINE = ("weight", "gamma", "scale", "bias", "beta")


@dataclass(frozen=True, slots=True)
class Norm:
    """One normalization: y = g (x - mu) / delta + b over a reduction set.

    Attributes:
        reduction: What mu and delta are taken over: batch and positions; the features of a position (with a
            mean, or without); the features of a group and all positions.
        eps: What is added to variances.
        features: Numbers that are normalized together, where the layer says it.
        groups: Of group normalization.
        running: Running statistics, where batches are normalized by their own and these stand in later; or why
            they cannot be read.
    """

    reduction: Literal["batch", "layer", "rms", "group"]
    eps: float
    features: int | None = None
    groups: int = 1
    running: Running | Unreadable | None = None


def norm_of(call: Call) -> Norm | None:
    """The normalization that a call carries out; None where it is of an unknown kind."""
    if call.module is None:
        return _of_function(call)
    module, own = call.module, call.module.__dict__
    if isinstance(module, _BATCH):
        return Norm("batch", own["eps"], running=_running(module) if own["training"] else None)
    if isinstance(module, _INSTANCE):
        return Norm("group", own["eps"], groups=own["num_features"])
    if isinstance(module, nn.GroupNorm):
        return Norm("group", own["eps"], groups=own["num_groups"])
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        kind: Literal["layer", "rms"] = "layer" if isinstance(module, nn.LayerNorm) else "rms"
        return Norm(kind, _eps(own), _product(own["normalized_shape"]))
    gain = next((p for key in _AFFINE if (p := module._parameters.get(key)) is not None), None)
    kind = "rms" if "rms" in type(module).__name__.lower() else "layer"
    return None if gain is None else Norm(kind, _eps(own), gain.numel())


def _running(module: nn.Module) -> Running | Unreadable | None:
    """Of a layer in training mode that keeps running statistics."""
    mean, variance = (module._buffers.get(key) for key in ("running_mean", "running_var"))
    own = module.__dict__
    if mean is None or variance is None or not own["track_running_stats"]:
        return None
    tracked = module._buffers.get("num_batches_tracked")
    reason = _why_not(mean, variance)
    return reason or Running(mean, variance, tracked, own["momentum"], own["eps"])


def _why_not(*statistics: Tensor | None) -> Unreadable | None:
    """Why running statistics cannot be read: they may be of any kind in a class of the user's."""
    kept = [tensor for tensor in statistics if tensor is not None]
    reason = next((reason for reason in map(unreadable, kept) if reason is not None), None)
    if reason is not None:
        return Unreadable(f"running statistics: {reason.reason}")
    is_plain = all(tensor.dim() == 1 and not tensor.is_complex() for tensor in kept)
    return None if is_plain else Unreadable("running statistics are not one real number a channel")


def _of_function(call: Call) -> Norm | None:
    take = functools.partial(_argument, call)
    if call.function == "layer_norm":
        return Norm("layer", take(4, "eps", 1e-5), _product(take(1, "normalized_shape", ())))
    if call.function == "rms_norm":
        eps = take(3, "eps", None)
        shape = take(1, "normalized_shape", ())
        return Norm("rms", torch.finfo(torch.float32).eps if eps is None else eps, _product(shape))
    if call.function == "group_norm":
        return Norm("group", take(4, "eps", 1e-5), groups=take(1, "num_groups", 1))
    if call.function != "batch_norm" or call.target is not F.batch_norm:
        return None
    mean, variance, eps = take(1, "running_mean", None), take(2, "running_var", None), take(7, "eps", 1e-5)
    if mean is None or variance is None or not take(5, "training", False):
        return Norm("batch", eps)
    return Norm("batch", eps, running=Running(mean, variance, None, take(6, "momentum", 0.1), eps))


def _argument(call: Call, place: int, name: str, default: Any) -> Any:
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _eps(own: Mapping[str, Any]) -> float:
    """RMS normalization without an eps of its own adds that of the number format."""
    found = next((own[key] for key in _EPS_NAMES if isinstance(own.get(key), float)), None)
    return torch.finfo(torch.float32).eps if found is None else float(found)


def _product(shape: Any) -> int | None:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return functools.reduce(lambda a, b: a * b, sizes, 1) if sizes else None


class NormObserver:
    """Reads the state of the normalization layers of a live model.

    Args:
        root: The model.
        layers: The layers to read.
    """

    def __init__(self, root: nn.Module, layers: Mapping[str, LayerInfo]) -> None:
        norms = {name for name, info in layers.items() if info.role == "norm"}
        self._modules = {name: module for name, module in named_layers(root) if name in norms}
        self._rows: dict[str, int] = {}

    def read(self) -> Observation:
        """Buffers and settings as they are now."""
        seen = Observation()
        for name, module in self._modules.items():
            buffers = (module._buffers.get(key) for key in ("running_mean", "running_var"))
            if isinstance(module, (*_BATCH, *_INSTANCE)) and _why_not(*buffers) is None:
                seen.statistics[Key(name, "weight", "weights", "norm_state")] = _state(module)
        return seen

    def note_batch_sizes(self, sizes: Mapping[str, int]) -> None:
        """Remembers how large real batches are at the input of each layer."""
        self._rows |= sizes

    @property
    def keep_statistics(self) -> bool:
        """Whether there are batch normalizations with statistics to compare with the data, frozen or not."""
        return any(
            isinstance(module, _BATCH) and module._buffers.get("running_mean") is not None
            for module in self._modules.values()
        )

    def in_training(self) -> dict[nn.Module, int | None]:
        """Batch normalizations that use batches' own statistics now, and the size of their batches.

        Synchronized layers would talk to other processes; frozen ones evaluate in training too.
        """
        return {
            module: self._rows.get(name)
            for name, module in self._modules.items()
            if isinstance(module, _BATCH)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.__dict__["training"]
        }


def _state(module: nn.Module) -> NormState:
    own, buffers = module.__dict__, module._buffers
    affine = [p for p in module._parameters.values() if p is not None]
    return NormState.of(
        buffers.get("running_mean"),
        buffers.get("running_var"),
        buffers.get("num_batches_tracked"),
        momentum=own["momentum"],
        eps=own["eps"],
        training=bool(own["training"]),
        trainable=any(p.requires_grad for p in affine) if affine else None,
    )


@contextlib.contextmanager
def training_statistics(root: nn.Module, norms: Mapping[nn.Module, int | None]) -> Iterator[None]:
    """Batch normalization as in training: by the statistics of batches of training's size, keeping none.

    Args:
        root: The model; not used, layers are told one by one.
        norms: The layers that do so in training, each with its batch size; None: the whole replay is one
            batch.
    """
    before = [(module, dict(module.__dict__)) for module in norms]
    try:
        for module, rows in norms.items():
            module.__dict__.update(training=True, track_running_stats=False)
            if rows is not None and type(module) in _PLAIN:
                module.__dict__["forward"] = _in_batches(module, rows)
        yield
    finally:
        for module, own in before:
            for key in ("training", "track_running_stats", "forward"):
                module.__dict__.pop(key, None)
                if key in own:
                    module.__dict__[key] = own[key]


def _in_batches(module: nn.Module, rows: int) -> Callable[[Tensor], Tensor]:
    """The forward pass of a batch normalization over consecutive batches of about ``rows`` rows."""
    weight, bias, eps = module._parameters["weight"], module._parameters["bias"], module.__dict__["eps"]

    def forward(x: Tensor) -> Tensor:
        parts = torch.tensor_split(x, max(1, round(x.shape[0] / rows)))
        return torch.cat([F.batch_norm(part, None, None, weight, bias, True, 0.0, eps) for part in parts])

    return forward
