"""Finds the layers of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from nndiag import compat
from nndiag.layers.domains import Domain, Part
from nndiag.layers.info import LayerInfo

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_CONV_DIMS: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.Conv1d, nn.ConvTranspose1d), 1),
    **dict.fromkeys((nn.Conv2d, nn.ConvTranspose2d), 2),
    **dict.fromkeys((nn.Conv3d, nn.ConvTranspose3d), 3),
}
_NORM_DIMS: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.BatchNorm2d, nn.InstanceNorm2d), 2),
    **dict.fromkeys((nn.BatchNorm3d, nn.InstanceNorm3d), 3),
}
_LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_Bounds = tuple[int | None, int | None]
_ACTIVATIONS = tuple(
    getattr(nn.modules.activation, name)
    for name in nn.modules.activation.__all__
    if name not in ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU")
)


def strip_wrappers(name: str) -> str:
    """A qualified name without the parts that compile, FSDP, checkpointing or DDP put in."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join(parts)


def named_layers(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module below ``root`` that can be looked into, once under each of its names, wrappers stripped.

    Scripted modules live in C++: neither their parameters nor their calls can be seen.
    """
    inner = dict(root.named_children()).get("_orig_mod", root)
    prefix = "module" if type(inner).__name__ in ("DistributedDataParallel", "DataParallel") else ""
    for raw, module in root.named_modules(remove_duplicate=False):
        if not isinstance(module, torch.jit.ScriptModule):
            name = strip_wrappers(raw)
            first, _, rest = name.partition(".")
            yield rest if first == prefix else name, module


def discover(module: nn.Module) -> dict[str, LayerInfo]:
    """The layers of a model by qualified name, in order of registration.

    A module that is reused, or shares its weight with an earlier one, is listed once with its aliases.
    """
    layers: dict[str, LayerInfo] = {}
    owners: dict[int, str] = {}
    for name, child in named_layers(module):
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
    describe = next((d for kinds, d in _DESCRIBERS if isinstance(module, kinds)), _by_hand)
    info = describe(module, name, depth)
    if info is None:
        return None
    parameters = [p for p in _own_parameters(module).values() if p is not None]
    trainable = any(p.requires_grad for p in parameters) if parameters else True
    return replace(info, trainable=trainable)


def _kind(module: nn.Module) -> str:
    """The class name, without what parametrization and FSDP put before it when they swap the class."""
    name = type(module).__name__
    originals = (base.__name__ for base in type(module).__mro__)
    return next((o for o in originals if name in (f"Parametrized{o}", f"FSDP{o}")), name)


def _rows_of(module: nn.Module, view: str, units: int, bounds: _Bounds) -> tuple[Part, ...]:
    """Parts of weight and bias; under a reparametrization those of its originals that have a row a unit."""
    axis = 1 if view == "columns" else 0
    parts = []
    for key, parameter in _own_parameters(module).items():
        base = key.removeprefix("parametrizations.").partition(".")[0]
        if parameter is None:
            continue
        if base == "bias":
            parts.append(Part(key, "rows", *bounds))
        elif key == "weight" or (
            base.startswith("weight") and parameter.dim() > axis and parameter.shape[axis] == units
        ):
            parts.append(Part(key, view, *(_transposed_bounds(module, bounds) if axis else bounds)))
    return tuple(parts)


def _transposed_bounds(module: nn.Module, bounds: _Bounds) -> _Bounds:
    """A group's slice of the input axis, which a transposed convolution keeps first."""
    start, stop = bounds
    if not isinstance(module, _Conv) or start is None or stop is None:
        return None, None
    inputs, index = module.in_channels // module.groups, start // (stop - start)
    return index * inputs, (index + 1) * inputs


def _grouped_domains(module: nn.Module, view: str, units: int, groups: int) -> tuple[Domain, ...]:
    size = units // groups
    if size < 2:
        return ()
    rows = size if view == "columns" else units
    slices: list[_Bounds] = [(g * size, (g + 1) * size) for g in range(groups)]
    if groups == 1:
        return (Domain("", _rows_of(module, view, rows, (None, None))),)
    return tuple(
        Domain(f"group {g}", _rows_of(module, view, rows, bounds)) for g, bounds in enumerate(slices)
    )


def _weight_name(module: nn.Module) -> str | None:
    return "weight" if module._parameters.get("weight") is not None else None


def _linear(module: nn.Linear, name: str, depth: int) -> LayerInfo:
    domains = _grouped_domains(module, "rows", module.out_features, 1)
    return LayerInfo(
        *(name, _kind(module), "weight", depth, -1, module.out_features),
        fan_in=module.in_features,
        fan_out=module.out_features,
        weight=_weight_name(module),
        domains=domains,
    )


def _conv(module: _Conv, name: str, depth: int) -> LayerInfo:
    view = "columns" if module.transposed else "rows"
    area = 1
    for size in module.kernel_size:
        area *= size
    dims = next(d for kind, d in _CONV_DIMS.items() if isinstance(module, kind))
    return LayerInfo(
        *(name, _kind(module), "weight", depth, -(dims + 1), module.out_channels),
        fan_in=module.in_channels // module.groups * area,
        fan_out=module.out_channels // module.groups * area,
        weight=_weight_name(module),
        domains=_grouped_domains(module, view, module.out_channels, module.groups),
    )


def _recurrent(module: nn.RNNBase, name: str, depth: int) -> LayerInfo:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    directions = ["", "_reverse"] if module.bidirectional else [""]
    suffixes = [f"l{layer}{way}" for layer in range(module.num_layers) for way in directions]
    cuts = {suffix: _gate_parts(module, suffix, gates) for suffix in suffixes}
    return LayerInfo(
        *(name, _kind(module), "recurrent", depth, -1, module.hidden_size),
        domains=tuple(Domain(suffix, parts) for suffix, parts in cuts.items() if parts),
        activation="tanh" if gates > 1 else module.mode.rpartition("_")[2].lower(),
        odd=module.mode == "RNN_TANH",
    )


def _recurrent_cell(module: nn.RNNCellBase, name: str, depth: int) -> LayerInfo:
    gates = 4 if isinstance(module, nn.LSTMCell) else 3 if isinstance(module, nn.GRUCell) else 1
    activation = module.nonlinearity if isinstance(module, nn.RNNCell) else "tanh"
    parts = _gate_parts(module, "", gates)
    return LayerInfo(
        *(name, _kind(module), "recurrent", depth, -1, module.hidden_size),
        domains=(Domain("", parts),) if parts else (),
        activation=activation,
        odd=gates == 1 and activation == "tanh",
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
    return LayerInfo(*(name, _kind(module), "attention", depth, -1, size), domains=tuple(domains))


def _embedding(module: nn.Embedding | nn.EmbeddingBag, name: str, depth: int) -> LayerInfo:
    """Units are columns; equal rows (padding, unused tokens) are normal."""
    return LayerInfo(
        *(name, _kind(module), "embedding", depth, -1, module.embedding_dim),
        domains=(Domain("", (Part("weight", "columns"),)),) if module.embedding_dim > 1 else (),
    )


def _channel_norm(module: nn.Module, name: str, depth: int) -> LayerInfo:
    dims = next((d for kind, d in _NORM_DIMS.items() if isinstance(module, kind)), None)
    axis = 1 if dims is None else -(dims + 1)
    units = module.__dict__.get("num_features", module.__dict__.get("num_channels"))
    return LayerInfo(*(name, _kind(module), "norm", depth, axis, units))


def _feature_norm(module: nn.LayerNorm | nn.RMSNorm, name: str, depth: int) -> LayerInfo:
    return LayerInfo(*(name, _kind(module), "norm", depth, -1, module.normalized_shape[-1]))


def _dropout(module: nn.Module, name: str, depth: int) -> LayerInfo:
    return LayerInfo(*(name, _kind(module), "dropout", depth))


def _activation(module: nn.Module, name: str, depth: int) -> LayerInfo:
    return LayerInfo(*(name, _kind(module), "activation", depth))


def _lazy(module: nn.Module, name: str, depth: int) -> LayerInfo:
    """Not built yet: its shapes are known after the first forward pass."""
    return LayerInfo(name, _kind(module), "weight", depth)


def _by_hand(module: nn.Module, name: str, depth: int) -> LayerInfo | None:
    """Layers written by hand that go by the shapes and names of what they hold."""
    return _transposed_linear(module, name, depth) or _feature_norm_by_hand(module, name, depth)


def _feature_norm_by_hand(module: nn.Module, name: str, depth: int) -> LayerInfo | None:
    """A layer or RMS normalization: a leaf called so, with one gain (and bias) a feature and no buffers."""
    own = {key: p for key, p in module._parameters.items() if p is not None}
    gain = next((own[key] for key in ("weight", "gamma", "scale") if key in own), None)
    kind = _kind(module)
    is_leaf = not module._modules and not module._buffers and len(own) <= 2
    if gain is None or gain.dim() != 1 or not is_leaf or "norm" not in kind.lower():
        return None
    if any(other in kind.lower() for other in ("batch", "group", "instance")):
        return None
    return LayerInfo(
        *(name, kind, "norm", depth, -1, gain.numel()),
        inferred="a normalization over features, by its name and its one gain a feature",
    )


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


_Describer = Callable[..., LayerInfo | None]
_DESCRIBERS: tuple[tuple[type | tuple[type, ...], _Describer], ...] = (
    (nn.modules.lazy.LazyModuleMixin, _lazy),
    (nn.Linear, _linear),
    (tuple(_CONV_DIMS), _conv),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((*compat.CHANNEL_NORMS, nn.GroupNorm), _channel_norm),
    (_LAYER_NORMS, _feature_norm),
    (compat.DROPOUTS, _dropout),
    (_ACTIVATIONS, _activation),
)
