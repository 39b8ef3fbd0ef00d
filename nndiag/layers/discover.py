"""Finds the layers of a module, or of a bare state dict."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from nndiag.layers.domains import Domain, Part
from nndiag.layers.info import LayerInfo

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_CONV_DIMS: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d), 1),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d), 2),
    **dict.fromkeys((nn.Conv3d, nn.ConvTranspose3d), 3),
}
_BATCH_NORMS = nn.modules.batchnorm._NormBase
_LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
_ACTIVATIONS = tuple(
    getattr(nn.modules.activation, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)


def strip_wrappers(name: str) -> str:
    """A qualified name without the parts that compile, FSDP, checkpointing or DDP put in."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join(parts)


def discover(module: nn.Module) -> dict[str, LayerInfo]:
    """The layers of a model by qualified name, in order of registration.

    A module that is reused, or shares its weight with an earlier one, is listed once with its aliases.
    """
    layers: dict[str, LayerInfo] = {}
    owners: dict[int, str] = {}
    prefix = "module." if type(module).__name__ in ("DistributedDataParallel", "DataParallel") else ""
    for raw, child in module.named_modules(remove_duplicate=False):
        if isinstance(child, torch.jit.ScriptModule):
            continue  # lives in C++: neither its parameters nor its calls can be seen
        name = strip_wrappers(raw.removeprefix(prefix))
        info = _describe(child, name, len(layers))
        if info is None:
            continue
        identity = _identity(child)
        if identity in owners:
            first = layers[owners[identity]]
            layers[first.name] = replace(first, aliases=(*first.aliases, name))
            continue
        owners[identity] = name
        layers[name] = info
    return layers


def _identity(module: nn.Module) -> int:
    """Two modules with one weight are one layer."""
    parameters = _own_parameters(module)
    weight = next((p for key, p in parameters.items() if "weight" in key and p is not None), None)
    return id(module) if weight is None else id(weight)


def _own_parameters(module: nn.Module) -> dict[str, Tensor | None]:
    """Parameters of the module itself, those behind ``torch.nn.utils.parametrize`` under their full name.

    Reads ``_parameters`` only: an attribute of a parametrized module runs code (spectral norm then moves).
    """
    own: dict[str, Tensor | None] = dict(module._parameters)
    holder = module._modules.get("parametrizations")
    for key, parametrization in (holder._modules if holder is not None else {}).items():
        if parametrization is not None:
            own |= {f"parametrizations.{key}.{name}": p for name, p in parametrization._parameters.items()}
    return own


def _describe(module: nn.Module, name: str, depth: int) -> LayerInfo | None:
    for kinds, describe in _DESCRIBERS:
        if isinstance(module, kinds):
            info = describe(module, name, depth)
            parameters = [p for p in _own_parameters(module).values() if p is not None]
            trainable = any(p.requires_grad for p in parameters) if parameters else True
            return replace(info, trainable=trainable)
    return _transposed_linear(module, name, depth)


def _rows_of(module: nn.Module, view: str, start: int | None, stop: int | None) -> tuple[Part, ...]:
    """Parts of weight and bias; under a parametrization those of its originals that have one row a unit."""
    parts = []
    for key, parameter in _own_parameters(module).items():
        base = key.removeprefix("parametrizations.").partition(".")[0]
        if parameter is None or not (base.startswith("weight") or base == "bias"):
            continue
        cut = "rows" if base == "bias" else view
        weight_bounds = _transposed_bounds(module, start, stop) if cut == "columns" else (start, stop)
        bounds = (start, stop) if base == "bias" else weight_bounds
        parts.append(Part(key, cut, *bounds))
    return tuple(parts)


def _transposed_bounds(
    module: nn.Module, start: int | None, stop: int | None
) -> tuple[int | None, int | None]:
    """A group's slice of the input axis, which a transposed convolution keeps first."""
    if not isinstance(module, nn.modules.conv._ConvNd) or start is None or stop is None:
        return None, None
    inputs, index = module.in_channels // module.groups, start // (stop - start)
    return index * inputs, (index + 1) * inputs


def _grouped_domains(module: nn.Module, view: str, units: int, groups: int) -> tuple[Domain, ...]:
    if not isinstance(units, int) or units // groups < 2:
        return ()
    if groups == 1:
        return (Domain("", _rows_of(module, view, None, None)),)
    size = units // groups
    return tuple(
        Domain(f"group {g}", _rows_of(module, view, g * size, (g + 1) * size)) for g in range(groups)
    )


def _weight_name(module: nn.Module) -> str | None:
    return "weight" if module._parameters.get("weight") is not None else None


def _linear(module: nn.Linear, name: str, depth: int) -> LayerInfo:
    domains = _grouped_domains(module, "rows", module.out_features, 1)
    return LayerInfo(
        *(name, type(module).__name__, "weight", depth, -1, module.out_features),
        fan_in=module.in_features,
        fan_out=module.out_features,
        weight=_weight_name(module),
        domains=domains,
    )


def _conv(module: nn.modules.conv._ConvNd, name: str, depth: int) -> LayerInfo:
    view = "columns" if module.transposed else "rows"
    area = 1
    for size in module.kernel_size:
        area *= size
    dims = next(d for kind, d in _CONV_DIMS.items() if isinstance(module, kind))
    return LayerInfo(
        *(name, type(module).__name__, "weight", depth, -(dims + 1), module.out_channels),
        fan_in=module.in_channels // module.groups * area,
        fan_out=module.out_channels // module.groups * area,
        weight=_weight_name(module),
        domains=_grouped_domains(module, view, module.out_channels, module.groups),
    )


def _recurrent(module: nn.RNNBase, name: str, depth: int) -> LayerInfo:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    directions = ["", "_reverse"] if module.bidirectional else [""]
    suffixes = [f"l{layer}{way}" for layer in range(module.num_layers) for way in directions]
    return LayerInfo(
        *(name, type(module).__name__, "recurrent", depth, -1, module.hidden_size),
        domains=tuple(Domain(suffix, _gate_parts(module, suffix, gates)) for suffix in suffixes),
        activation="tanh" if gates > 1 else module.mode.rpartition("_")[2].lower(),
        odd=module.mode == "RNN_TANH",
    )


def _recurrent_cell(module: nn.RNNCellBase, name: str, depth: int) -> LayerInfo:
    gates = {nn.LSTMCell: 4, nn.GRUCell: 3}.get(type(module), 1)
    parts = _gate_parts(module, "", gates)
    return LayerInfo(
        *(name, type(module).__name__, "recurrent", depth, -1, module.hidden_size),
        domains=(Domain("", parts),),
        activation="tanh" if gates > 1 else module.__dict__.get("nonlinearity", "tanh"),
    )


def _gate_parts(module: nn.Module, suffix: str, gates: int) -> tuple[Part, ...]:
    """Input rows, biases and the swap-proof summary of the recurrent matrix, gate by gate."""
    ending = f"_{suffix}" if suffix else ""
    parts = []
    for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        parameter = module._parameters.get(key + ending)
        if parameter is None:
            continue
        # With a projection (proj_size) the recurrent matrix is not square: its rows carry no summary.
        square = parameter.dim() == 2 and parameter.shape[0] == gates * parameter.shape[1]
        if key == "weight_hh" and not square:
            continue
        view = "gates_recurrent" if key == "weight_hh" else "gates"
        parts.append(Part(key + ending, view, blocks=gates))
    return tuple(parts)


def _attention(module: nn.MultiheadAttention, name: str, depth: int) -> LayerInfo:
    size, heads = module.embed_dim, module.num_heads
    if module._parameters.get("in_proj_weight") is not None:
        starts = {"q": 0, "k": size, "v": 2 * size}
        weights = {p: ("in_proj_weight", start) for p, start in starts.items()}
    else:
        weights = {p: (f"{p}_proj_weight", None) for p in ("q", "k", "v")}
    columns = Part("out_proj.weight", "head_columns", blocks=heads)

    def rows(projection: str, view: str, blocks: int) -> list[Part]:
        key, start = weights[projection]
        stop = None if start is None else start + size
        parts = [Part(key, view, start, stop, blocks)]
        if module._parameters.get("in_proj_bias") is not None:
            at = {"q": 0, "k": size, "v": 2 * size}[projection]
            parts.append(Part("in_proj_bias", view, at, at + size, blocks))
        return parts

    per_head = [part for projection in "qkv" for part in rows(projection, "heads", heads)]
    domains = [Domain("values", (*rows("v", "rows", 1), Part("out_proj.weight", "columns")))]
    if heads > 1:
        domains.insert(0, Domain("heads", (*per_head, columns)))
    return LayerInfo(*(name, type(module).__name__, "attention", depth, -1, size), domains=tuple(domains))


def _embedding(module: nn.Embedding | nn.EmbeddingBag, name: str, depth: int) -> LayerInfo:
    """Units are columns; equal rows (padding, unused tokens) are normal."""
    return LayerInfo(
        *(name, type(module).__name__, "embedding", depth, -1, module.embedding_dim),
        domains=(Domain("", (Part("weight", "columns"),)),) if module.embedding_dim > 1 else (),
    )


def _channel_norm(module: nn.Module, name: str, depth: int) -> LayerInfo:
    dims = int(re.findall(r"(\d)d$", type(module).__name__)[0]) if type(module).__name__[-1] == "d" else 0
    axis = -(dims + 1) if dims > 1 else 1
    units = module.__dict__.get("num_features", module.__dict__.get("num_channels"))
    return LayerInfo(*(name, type(module).__name__, "norm", depth, axis, units))


def _feature_norm(module: nn.LayerNorm | nn.RMSNorm, name: str, depth: int) -> LayerInfo:
    return LayerInfo(*(name, type(module).__name__, "norm", depth, -1, module.normalized_shape[-1]))


def _dropout(module: nn.Module, name: str, depth: int) -> LayerInfo:
    return LayerInfo(*(name, type(module).__name__, "dropout", depth))


def _activation(module: nn.Module, name: str, depth: int) -> LayerInfo:
    return LayerInfo(*(name, type(module).__name__, "activation", depth))


def _lazy(module: nn.Module, name: str, depth: int) -> LayerInfo:
    """Not built yet: its shapes are known after the first forward pass."""
    return LayerInfo(name, type(module).__name__, "weight", depth)


def _transposed_linear(module: nn.Module, name: str, depth: int) -> LayerInfo | None:
    """A linear layer that keeps its weight as [in, out], as the first GPT did in a class ``Conv1D``."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if type(module).__name__ != "Conv1D" or weight is None or bias is None or weight.dim() != 2:
        return None
    inputs, outputs = weight.shape
    return LayerInfo(
        *(name, "Conv1D", "weight", depth, -1, outputs),
        fan_in=inputs,
        fan_out=outputs,
        domains=(Domain("", (Part("weight", "columns"), Part("bias", "rows"))),),
    )


_Describer = Callable[..., LayerInfo]
_DESCRIBERS: tuple[tuple[type | tuple[type, ...], _Describer], ...] = (
    (nn.modules.lazy.LazyModuleMixin, _lazy),
    (nn.Linear, _linear),
    (tuple(_CONV_DIMS), _conv),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((_BATCH_NORMS, nn.GroupNorm), _channel_norm),
    (_LAYER_NORMS, _feature_norm),
    (nn.modules.dropout._DropoutNd, _dropout),
    (_ACTIVATIONS, _activation),
)


def discover_state_dict(state: Mapping[str, Tensor]) -> dict[str, LayerInfo]:
    """The layers of a bare state dict; kind and units are inferred from names and shapes, and said so."""
    layers: dict[str, LayerInfo] = {}
    for module, keys in _by_module(state).items():
        info = _infer(module, {key: state[f"{module}.{key}" if module else key] for key in keys}, len(layers))
        if info is not None:
            layers[info.name] = info
    return layers


def _by_module(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for key in state:
        head, dot, tail = key.partition(".parametrizations.")
        module, _, name = (head, ".", f"parametrizations.{tail}") if dot else key.rpartition(".")
        modules.setdefault(module, []).append(name)
    return modules


def _infer(name: str, tensors: Mapping[str, Tensor], depth: int) -> LayerInfo | None:
    """A layer from the names and shapes of its tensors; None for what has no units to compare."""
    if any(key.startswith(("weight_ih", "weight_hh")) for key in tensors):
        return _infer_recurrent(name, tensors, depth)
    weight = next((key for key in tensors if key in _WEIGHT_KEYS), None)
    if weight is None or tensors[weight].dim() < 2 or tensors[weight].shape[0] < 2:
        return None
    shape = tuple(tensors[weight].shape)
    kind = "Linear" if len(shape) == 2 else f"Conv{len(shape) - 2}d"
    embedding = len(shape) == 2 and "bias" not in tensors and _is_embedding_name(name)
    view = "columns" if embedding else "rows"
    keys = [key for key in tensors if key in _WEIGHT_KEYS or key == "bias"]
    parts = [Part(key, "rows" if key == "bias" else view) for key in _equal_rows(keys, tensors, view)]
    return LayerInfo(
        name=strip_wrappers(name),
        kind="Embedding" if embedding else kind,
        role="embedding" if embedding else "weight",
        depth=depth,
        unit_axis=-1 if len(shape) == 2 else -(len(shape) - 1),
        units=shape[1] if embedding else shape[0],
        fan_in=None if embedding else _product(shape[1:]),
        fan_out=None if embedding else shape[0] * _product(shape[2:]),
        weight=None if embedding or weight != "weight" else weight,
        domains=(Domain("", tuple(parts)),),
        inferred=f"kind from the shape {list(shape)} of {weight}",
    )


_WEIGHT_KEYS = (
    *("weight", "weight_v", "weight_g", "weight_orig"),
    *("parametrizations.weight.original", "parametrizations.weight.original1"),
    *("parametrizations.weight.original0", "in_proj_weight"),
)


def _is_embedding_name(name: str) -> bool:
    return re.search(r"(^|[._])(emb|embed\w*|wte|wpe|tok\w*|pos\w*)$", name) is not None


def _equal_rows(keys: Iterable[str], tensors: Mapping[str, Tensor], view: str) -> list[str]:
    """Keys whose tensor has one row a unit; an embedding's unit is a column, and it has no bias."""
    keys = list(keys)
    if view == "columns":
        return keys[:1]
    rows = max(tensors[key].shape[0] for key in keys)
    return [key for key in keys if tensors[key].dim() and tensors[key].shape[0] == rows]


def _infer_recurrent(name: str, tensors: Mapping[str, Tensor], depth: int) -> LayerInfo | None:
    domains = []
    for key in (key for key in tensors if key.startswith("weight_hh")):
        suffix = key.removeprefix("weight_hh").removeprefix("_")
        rows, size = tensors[key].shape
        if rows % size:
            continue
        ending = f"_{suffix}" if suffix else ""
        names = [
            k + ending for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if k + ending in tensors
        ]
        views = {key: "gates_recurrent"}
        parts = tuple(Part(k, views.get(k, "gates"), blocks=rows // size) for k in names)
        domains.append(Domain(suffix, parts))
    if not domains:
        return None
    gates = domains[0].parts[0].blocks
    kind = {4: "LSTM", 3: "GRU", 1: "RNN"}.get(gates, "RNN")
    units = tensors[domains[0].parts[0].parameter].shape[0] // gates
    return LayerInfo(
        *(strip_wrappers(name), kind, "recurrent", depth, -1, units),
        domains=tuple(domains),
        inferred=f"{gates} gates from the shapes of weight_hh",
    )


def _product(values: Iterable[int]) -> int:
    total = 1
    for value in values:
        total *= value
    return total
