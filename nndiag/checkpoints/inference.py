"""Layers of a checkpoint, inferred from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from nndiag.checkpoints.tensors import Stored
from nndiag.layers import LayerInfo, discover_state_dict, strip_wrappers

_PREFIXES = ("_forward_module.", "module.", "_orig_mod.")
_COUNTER = "n_averaged"
_NORM = re.compile(r"norm|^(ln|bn|gn)(_.*|\d*)$|_(ln|bn|gn)\d*$")
"""In the last part of a module's name."""

_RUNNING = ("running_mean", "running_var")


def plain_names(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Names without what wrappers put in, by the names of the file; and what is to be said of it."""
    known = list(names)
    plain = {name: strip_wrappers(name) for name in known}
    notes = []
    while (prefix := _shared_prefix(plain.values())) is not None:
        plain = {name: new.removeprefix(prefix) for name, new in plain.items()}
        notes.append(f"all names begin with {prefix!r}, which a wrapper puts there: it is left out")
    if len(set(plain.values())) < len(plain):
        return {name: name for name in known}, []
    return plain, notes


def _shared_prefix(names: Iterable[str]) -> str | None:
    real = [name for name in names if name != _COUNTER]
    return next((p for p in _PREFIXES if real and all(name.startswith(p) for name in real)), None)


def module_of(name: str) -> tuple[str, str]:
    """The module a tensor belongs to, and its name there as a live parameter's is said.

    What lies behind a parametrization goes by the layer that it is of: ``fc.parametrizations.weight.original0`` is
    ``weight.original0`` of ``fc``.
    """
    head, inside, rest = f".{name}".partition(".parametrizations.")
    if inside:
        return head[1:], rest
    module, _, own = name.rpartition(".")
    return module, own


def layers_of(tensors: Mapping[str, Stored]) -> dict[str, LayerInfo]:
    """Layers in the order of the file; kinds and units are inferred, and said so. A tied weight is one layer.

    Args:
        tensors: By name, wrappers stripped.
    """
    floating = {name: stored for name, stored in tensors.items() if stored.is_floating}
    shapes = {n: torch.empty(s.shape, dtype=torch.uint8, device="meta") for n, s in floating.items()}
    found = discover_state_dict(shapes) | _norms(floating)
    order = {module: place for place, module in reversed(list(enumerate(module_of(n)[0] for n in tensors)))}
    ranked = sorted(found.values(), key=lambda info: order.get(info.name, len(order)))
    layers: dict[str, LayerInfo] = {}
    owners: dict[Hashable, str] = {}
    for info in _with_depthwise(ranked, shapes):
        identity = _identity(info, tensors)
        if identity is not None and identity in owners:
            first = layers[owners[identity]]
            layers[first.name] = replace(first, aliases=(*first.aliases, info.name))
            continue
        owners[identity] = info.name
        layers[info.name] = replace(info, depth=len(layers))
    return layers


def _with_depthwise(ranked: list[LayerInfo], shapes: Mapping[str, torch.Tensor]) -> Iterator[LayerInfo]:
    """Convolutions of one input channel behind layers of as many channels: each unit reads a channel of its own."""
    seen: set[int | None] = set()
    for info in ranked:
        weight = shapes.get(f"{info.name}.weight" if info.name else "weight")
        is_narrow = weight is not None and weight.dim() > 2 and weight.shape[1] == 1 and info.domains
        if is_narrow and info.units in seen:
            yield replace(
                info, domains=(), inferred=f"{info.inferred}: depthwise, no unit reads what another does"
            )
        else:
            yield info
        seen.add(info.units)


def _identity(info: LayerInfo, tensors: Mapping[str, Stored]) -> Hashable:
    stored = tensors.get(f"{info.name}.weight" if info.name else "weight")
    return None if stored is None else stored.identity


def _norms(tensors: Mapping[str, Stored]) -> dict[str, LayerInfo]:
    modules: dict[str, dict[str, Stored]] = {}
    for name, stored in tensors.items():
        module, own = module_of(name)
        modules.setdefault(module, {})[own] = stored
    norms = {}
    for module, tensors_of_it in modules.items():
        info = _norm(module, tensors_of_it)
        if info is not None:
            norms[module] = info
    return norms


def _norm(module: str, own: Mapping[str, Stored]) -> LayerInfo | None:
    """A normalization: it keeps running statistics, or is called so and has one gain a feature."""
    mean, variance = (own.get(name) for name in _RUNNING)
    if mean is not None and variance is not None and mean.shape == variance.shape and len(mean.shape) == 1:
        return LayerInfo(
            *(module, "BatchNorm", "norm", 0, 1, mean.shape[0]),
            inferred="a normalization, by its running statistics",
        )
    gain = own.get("weight", own.get("gamma", own.get("scale")))
    is_flat = (
        gain is not None and len(gain.shape) == 1 and set(own) <= {"weight", "gamma", "scale", "bias", "beta"}
    )
    if gain is None or not is_flat or not _NORM.search(module.rpartition(".")[2].lower()):
        return None
    kind = "LayerNorm" if {"bias", "beta"} & set(own) else "RMSNorm"
    return LayerInfo(
        *(module, kind, "norm", 0, -1, gain.shape[0]),
        inferred="a normalization, by its name and one gain a feature",
    )
