"""Finds the layers of a bare state dict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from nndiag.layers.discover import strip_wrappers
from nndiag.layers.domains import Domain, Part
from nndiag.layers.info import LayerInfo

_WEIGHT_KEYS = (
    *("weight", "weight_v", "weight_g", "weight_orig"),
    *("parametrizations.weight.original", "parametrizations.weight.original1"),
    "parametrizations.weight.original0",
)
_BIAS_KEYS = ("bias", "parametrizations.bias.original")
_HIDDEN = re.compile(r"weight_hh(?P<ending>|_l\d+|_l\d+_reverse)")
_RNN_KINDS = {4: "LSTM", 3: "GRU", 1: "RNN"}


def discover_state_dict(state: Mapping[str, Tensor]) -> dict[str, LayerInfo]:
    """The layers of a bare state dict; kind and units are inferred from names and shapes, and said so."""
    layers: dict[str, LayerInfo] = {}
    for module, names in _by_module(state).items():
        prefix = f"{module}." if module else ""
        tensors = {name: state[prefix + name] for name in names}
        projection = state.get(f"{prefix}out_proj.weight")
        info = _infer(strip_wrappers(module), tensors, projection, len(layers))
        if info is not None:
            layers[info.name] = info
    return layers


def _by_module(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of tensors by module; a parametrization belongs to the module that it is in."""
    modules: dict[str, list[str]] = {}
    for key in state:
        head, inside, _ = f".{key}".partition(".parametrizations.")
        module = head[1:] if inside else key.rpartition(".")[0]
        modules.setdefault(module, []).append(key[len(module) + 1 :] if module else key)
    return modules


def _infer(
    name: str, tensors: Mapping[str, Tensor], projection: Tensor | None, depth: int
) -> LayerInfo | None:
    """A layer from the names and shapes of its tensors; None for what has no units to compare."""
    if any(_HIDDEN.fullmatch(key) for key in tensors):
        return _recurrent(name, tensors, depth)
    if any(key in tensors for key in ("in_proj_weight", "v_proj_weight")):
        return _attention(name, tensors, projection, depth)
    return _weight(name, tensors, depth)


def _weight(name: str, tensors: Mapping[str, Tensor], depth: int) -> LayerInfo | None:
    found = [key for key in _WEIGHT_KEYS if key in tensors and tensors[key].dim() > 1]
    if not found:
        return None
    weight = max(found, key=lambda key: tensors[key].numel())
    shape = tuple(tensors[weight].shape)
    bias = next((key for key in _BIAS_KEYS if key in tensors and tensors[key].dim() == 1), None)
    embedding = len(shape) == 2 and bias is None and _is_embedding_name(name)
    # Only a weight that is kept as [in, out, ...] has as many columns, and not as many rows, as biases.
    turned = bias is not None and tensors[bias].shape[0] == shape[1] != shape[0]
    axis = 1 if embedding or turned else 0
    if min(shape) < 1 or shape[axis] < 2:
        return None
    view = "columns" if axis else "rows"
    parts = [Part(key, view) for key in found if tensors[key].shape[axis] == shape[axis]]
    if bias is not None and tensors[bias].shape[0] == shape[axis]:
        parts.append(Part(bias, "rows"))
    area = math.prod(shape[2:])
    return LayerInfo(
        *(name, _weight_kind(shape, embedding, turned), "embedding" if embedding else "weight", depth),
        unit_axis=-1 if len(shape) == 2 else -(len(shape) - 1),
        units=shape[axis],
        fan_in=None if embedding else shape[1 - axis] * area,
        fan_out=None if embedding else shape[axis] * area,
        weight="weight" if weight == "weight" and axis == 0 else None,
        domains=(Domain("", tuple(parts)),),
        inferred=f"kind from the shape {list(shape)} of {weight}",
    )


def _weight_kind(shape: tuple[int, ...], embedding: bool, turned: bool) -> str:
    if len(shape) == 2:
        return "Embedding" if embedding else "Conv1D" if turned else "Linear"
    return f"{'ConvTranspose' if turned else 'Conv'}{len(shape) - 2}d"


def _is_embedding_name(name: str) -> bool:
    return re.search(r"(^|[._])(emb|embed\w*|wte|wpe|tok\w*|pos\w*)$", name) is not None


def _attention(
    name: str, tensors: Mapping[str, Tensor], projection: Tensor | None, depth: int
) -> LayerInfo | None:
    """Units inside the values; the number of heads is in no shape."""
    packed = tensors.get("in_proj_weight")
    rows = tensors["v_proj_weight"] if packed is None else packed
    size, rest = divmod(rows.shape[0], 1 if packed is None else 3) if rows.dim() == 2 else (0, 0)
    if rest or size < 2:
        return None
    bounds = (2 * size, 3 * size)
    values = Part("v_proj_weight", "rows") if packed is None else Part("in_proj_weight", "rows", *bounds)
    parts = [values]
    bias = tensors.get("in_proj_bias")
    if bias is not None and bias.shape == (3 * size,):
        parts.append(Part("in_proj_bias", "rows", *bounds))
    if projection is not None and projection.dim() == 2 and projection.shape[1] == size:
        parts.append(Part("out_proj.weight", "columns"))
    return LayerInfo(
        *(name, "MultiheadAttention", "attention", depth, -1, size),
        domains=(Domain("values", tuple(parts)),),
        inferred=f"kind from the name of {values.parameter}",
    )


def _recurrent(name: str, tensors: Mapping[str, Tensor], depth: int) -> LayerInfo | None:
    found = {m["ending"]: tensors[key] for key in tensors if (m := _HIDDEN.fullmatch(key))}
    cuts = {ending: _gates(ending, hidden, tensors) for ending, hidden in found.items()}
    domains = {ending: cut for ending, cut in cuts.items() if cut is not None}
    if not domains:
        return None
    ending, (gates, _) = next(iter(domains.items()))
    return LayerInfo(
        *(name, _RNN_KINDS[gates], "recurrent", depth, -1, found[ending].shape[0] // gates),
        domains=tuple(Domain(ending.removeprefix("_"), parts) for ending, (_, parts) in domains.items()),
        inferred=f"{gates} gates from the shape {list(found[ending].shape)} of weight_hh{ending}",
    )


def _gates(ending: str, hidden: Tensor, tensors: Mapping[str, Tensor]) -> tuple[int, tuple[Part, ...]] | None:
    """Number of gates and parts of one direction of one layer; None when its shapes fit no such network.

    With a projection (``weight_hr``) the recurrent matrix is not square: its rows carry no summary.
    """
    projection = tensors.get(f"weight_hr{ending}")
    square = hidden if projection is None else projection
    if hidden.dim() != 2 or square.dim() != 2 or square.shape[1] < 1:
        return None
    gates, rest = divmod(hidden.shape[0], square.shape[1])
    if rest or gates not in _RNN_KINDS:
        return None
    parts = []
    for stem in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        tensor = tensors.get(stem + ending)
        if tensor is None or not tensor.dim() or tensor.shape[0] != hidden.shape[0]:
            continue
        if stem == "weight_hh" and projection is not None:
            continue
        view = "gates_recurrent" if stem == "weight_hh" else "gates"
        parts.append(Part(stem + ending, view, blocks=gates))
    return gates, tuple(parts)
