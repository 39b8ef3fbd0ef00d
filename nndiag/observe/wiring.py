"""Learns, from the calls of a forward pass, how the layers of a model are wired.

Which functional calls there are, in which order layers run, which module's output an activation reads, and
what is the network's output: none of it can be asked of the modules.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nndiag.functional import ELEMENTWISE, TailEdges, tail_edges
from nndiag.layers import LayerInfo, Role
from nndiag.observe.watch import Call

_FUNCTIONAL_ROLES: dict[str, Role] = {
    "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
    "softmax": "softmax",
    **dict.fromkeys(("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm"), "norm"),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), "dropout"),
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), "weight"),
}
_CHANNEL_AXES = {
    "conv1d": -2,
    "conv2d": -3,
    "conv3d": -4,
    **{f"dropout{dims}d": -(dims + 1) for dims in (1, 2, 3)},
    "batch_norm": 1,
    "instance_norm": 1,
    "group_norm": 1,
}


class Wiring:
    """The layers of one model, completed as calls are seen. Shared by the probe and the stream."""

    def __init__(self, layers: Mapping[str, LayerInfo]) -> None:
        self.layers = dict(layers)
        self._aliases = {alias: info.name for info in layers.values() for alias in info.aliases}
        self._modules = frozenset(layers)
        self._names: dict[tuple[str, str | None], str] = {}
        self._order = itertools.count()
        self._seen: set[str] = set()
        self._producers: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self._by_shape: dict[tuple[int, ...], str] = {}
        self._edges: dict[str, TailEdges | None] = {}
        self._kinds: dict[tuple[str, ...], TailEdges | None] = {}
        self._ignored: set[str] = set()
        self._given: set[int] = set()
        self._first_readers: set[str] = set()
        self._awaited: dict[tuple[str, ...], Callable[[Tensor], Tensor] | None] = {}
        self._may_run = False
        self._trace: list[str] = []

    def enter(self, call: Call, *, may_run: bool = False) -> LayerInfo | None:
        """The layer of a call about to run; None for a call that is no layer of its own.

        Args:
            call: The call.
            may_run: Whether activations may be run and differentiated now (inside the probe's sandbox), also
                an unknown module without parameters, to see whether it is an elementwise function.
        """
        self._may_run = may_run
        if not self._given:
            self._given = _memory((call.args, call.kwargs))
        info = self._resolve(call)
        if info is None:
            return None
        argument = call.args[0] if call.args else next(iter(call.kwargs.values()), None)
        source, made = self._source(argument)
        is_first = not made and (not self._producers or bool(_memory(argument) & self._given))
        if info.role == "activation" or info.name not in self._modules:
            info = self._occurrence(info, source)
        if info.role == "activation":
            info = self._with_edges(info, call)
        if info.odd and source is not None and source.activation == info.activation and not source.odd:
            source = self.layers[source.name] = replace(source, odd=True)
        if info.name not in self._seen:
            self._seen.add(info.name)
            info = self._connect(replace(info, depth=next(self._order)), source, made)
        self.layers[info.name] = info
        if info.name not in self._trace:
            self._trace.append(info.name)
        if is_first:
            self._first_readers.add(info.name)
        return info

    def _occurrence(self, info: LayerInfo, source: LayerInfo | None) -> LayerInfo:
        """One activation module, or one line of code, behind two layers is two layers; in a loop it is one."""
        place = (info.name, source.name if source is not None else None)
        if place not in self._names:
            count = sum(name == info.name for name, _ in self._names)
            self._names[place] = f"{info.name}#{count}" if count else info.name
        name = self._names[place]
        return self.layers.get(name) or replace(info, name=name)

    def leave(self, info: LayerInfo, output: Any) -> None:
        """Remembers who made a tensor, for as long as the tensor lives."""
        tensor = first_tensor(output)
        if tensor is None or self._is_passed_on(tensor, info):
            return
        self._producers[id(tensor)] = (weakref.ref(tensor), _version(tensor), info.name)
        if info.role in ("weight", "norm", "recurrent", "attention"):
            self._by_shape[_shape(tensor)] = info.name

    def _is_passed_on(self, tensor: Tensor, info: LayerInfo) -> bool:
        """Whether a module returns the very tensor that another layer has made: ``nn.Identity`` makes nothing."""
        entry = self._producers.get(id(tensor))
        is_made = entry is not None and entry[0]() is tensor and entry[1] == _version(tensor)
        return is_made and info.kind == "Identity"

    def edges(self, name: str) -> TailEdges | None:
        """The tail edges of an activation layer."""
        return self._edges.get(name)

    def begin_pass(self) -> None:
        """Forgets the tensors of the pass before: also of one that is still open, as a stream's is in a replay."""
        self._producers.clear()
        self._by_shape.clear()
        self._given.clear()
        self._first_readers.clear()
        self._trace.clear()

    def finish_pass(self) -> None:
        """After a whole forward pass: whatever runs after the last layer with weights is output."""
        self._renumber()
        self.begin_pass()
        awaited, self._awaited = self._awaited, {}
        for key, function in awaited.items():
            self._find_tails(key, function)
        seen = [info for name, info in self.layers.items() if name in self._seen]
        depths = [info.depth for info in seen if info.role in ("weight", "recurrent", "attention")]
        last = max(depths, default=-1)
        for info in seen:
            is_output = info.depth > last if info.role == "activation" else info.depth == last
            if is_output != info.is_output:
                self.layers[info.name] = replace(info, is_output=is_output)

    def _renumber(self) -> None:
        """A layer first seen in a later pass belongs where it ran, not behind everything seen before."""
        ran = set(self._trace)
        known = sorted((i for n, i in self.layers.items() if n in self._seen), key=lambda info: info.depth)
        order = [info.name for info in known if info.name not in ran]
        place = next((index for index, info in enumerate(known) if info.name in ran), len(order))
        order[place:place] = self._trace
        for depth, name in enumerate(order):
            self.layers[name] = replace(self.layers[name], depth=depth)
        self._order = itertools.count(len(order))

    @property
    def output_units(self) -> int | None:
        """Units of the last layer with weights, once a pass was seen."""
        return next((info.units for info in self.layers.values() if info.is_output and info.units), None)

    def reads_input(self, name: str) -> bool:
        """Whether a layer that takes part in the pass under way reads what no other layer made."""
        return name in self._first_readers

    def unseen(self) -> list[LayerInfo]:
        """Layers that no pass has called yet."""
        return [info for name, info in self.layers.items() if name not in self._seen]

    def in_order(self) -> dict[str, LayerInfo]:
        """All layers: those seen by order of execution, then the others."""
        ranked = sorted(self.layers.values(), key=lambda info: (info.name not in self._seen, info.depth))
        return {info.name: replace(info, depth=depth) for depth, info in enumerate(ranked)}

    def _resolve(self, call: Call) -> LayerInfo | None:
        name = self._aliases.get(call.owner, call.owner)
        known = self.layers.get(name)
        if call.module is not None:
            if known is None:
                return self._custom(call, name) if self._may_run and name not in self._ignored else None
            return known
        inside = known.role if known is not None else None
        if inside == "activation" or (inside == "attention" and call.function == "softmax"):
            return None  # the inside of an activation module is the activation
        if (
            known is not None
            and known.role == "attention"
            and call.function == "multi_head_attention_forward"
        ):
            return known
        return self._functional(call)

    def _functional(self, call: Call) -> LayerInfo | None:
        function = call.function or ""
        role = "activation" if function in ELEMENTWISE else _FUNCTIONAL_ROLES.get(function)
        if role is None:
            return None
        name = f"{call.owner}:{function}"
        return LayerInfo(name, function, role, 0, _CHANNEL_AXES.get(function, -1))

    def _with_edges(self, info: LayerInfo, call: Call) -> LayerInfo:
        """Fills in the tails of an activation, found once for each kind and its constants."""
        if info.name in self._edges:
            return info
        kind = info.kind.lower()
        key = (kind, *_constants(call))
        if key not in self._kinds:
            if not self._may_run:
                # Differentiating inside the user's forward pass would upset activation checkpointing.
                self._awaited[key] = _as_function(call)
                return replace(info, activation=kind)
            self._find_tails(key, _as_function(call))
        edges = self._edges[info.name] = self._kinds[key]
        if edges is None:
            return replace(info, activation=kind)
        return replace(
            info, activation=edges.name, edges=(edges.low, edges.high), bounded=edges.squashes, odd=edges.odd
        )

    def _find_tails(self, key: tuple[str, ...], function: Callable[[Tensor], Tensor] | None) -> None:
        self._kinds[key] = None if function is None else tail_edges(key[0], function)

    def _custom(self, call: Call, name: str) -> LayerInfo | None:
        """A user's own activation: a leaf without parameters that acts on each entry by itself."""
        module = call.module
        assert module is not None
        x = first_tensor(call.args)
        leaf = not module._modules and not module._parameters and not module._buffers
        takes_floats = len(call.args) == 1 and x is not None and x.is_floating_point()
        if not leaf or not takes_floats or not _is_elementwise(module):
            self._ignored.add(name)
            return None
        return LayerInfo(name, type(module).__name__, "activation", 0)

    def _source(self, argument: Any) -> tuple[LayerInfo | None, bool]:
        """Who made an input, and whether that is certain.

        By the identity of the tensor, else the newest layer with an output of its shape.
        """
        tensor = first_tensor(argument)
        if tensor is None:
            return None, False
        entry = self._producers.get(id(tensor))
        made = entry is not None and entry[0]() is tensor and entry[1] == _version(tensor)
        name = entry[2] if made and entry is not None else self._by_shape.get(_shape(tensor))
        return (self.layers.get(name) if name is not None else None), made

    def _connect(self, info: LayerInfo, source: LayerInfo | None, made: bool) -> LayerInfo:
        """Tells a layer about its source, and the source about the norm or activation behind it."""
        if source is None:
            return info
        if info.role == "norm" and made:
            self.layers[source.name] = replace(source, before_norm=True)
        if info.role == "norm":
            return replace(info, source=source.name)
        if info.role == "dropout":
            axis = source.unit_axis if info.unit_axis == -1 else info.unit_axis
            return replace(info, source=source.name, unit_axis=axis, units=source.units)
        if info.role != "activation":
            return info
        for feeder in (source, self.layers.get(source.source or "")):
            if feeder is not None and feeder.activation is None and feeder.role in ("weight", "norm"):
                self.layers[feeder.name] = replace(feeder, activation=info.activation, odd=info.odd)
        return replace(info, source=source.name, unit_axis=source.unit_axis, units=info.units or source.units)


def _memory(value: Any) -> set[int]:
    """Where the tensors of a call's arguments live: a view is still the same data."""
    return {t.untyped_storage()._cdata for t in every_tensor(value) if t.layout == torch.strided}


def every_tensor(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings; each container is opened once, also one in itself."""
    pending, opened = [value], dict[int, Any]()
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (Mapping, tuple, list)) and id(item) not in opened:
            opened[id(item)] = item
            pending += reversed(list(item.values() if isinstance(item, Mapping) else item))


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in nested tuples, lists and mappings."""
    return next(every_tensor(value), None)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """A nested tensor has none that could be asked for."""
    return (-1,) if tensor.is_nested else tuple(tensor.shape)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _as_function(call: Call) -> Callable[[Tensor], Tensor] | None:
    """The activation as a function of one tensor; None where its slope never vanishes, or is random."""
    if call.module is not None:
        if isinstance(call.module, (nn.LeakyReLU, nn.PReLU, nn.RReLU)):
            return None
        forward = call.module.forward
        return lambda x: forward(x.clone())
    if call.function in ("leaky_relu", "prelu", "rrelu"):
        return None
    target, rest, kwargs = call.target, call.args[1:], dict(call.kwargs)
    if any(isinstance(value, Tensor) for value in (*rest, *kwargs.values())):
        return None
    return lambda x: target(x.clone(), *rest, **kwargs)


def _constants(call: Call) -> tuple[str, ...]:
    """An activation's plain numbers: with its kind, they make the function."""
    if call.module is not None:
        own, is_torchs = vars(call.module), type(call.module).__module__.startswith("torch.nn.")
        return (() if is_torchs else (call.owner,)) + tuple(
            f"{k}={v}" for k, v in sorted(own.items()) if isinstance(v, (int, float, str)) and k != "training"
        )
    return tuple(map(str, call.args[1:])) + tuple(
        f"{k}={v}" for k, v in sorted(call.kwargs.items()) if k != "input"
    )


def _is_elementwise(module: nn.Module) -> bool:
    """Whether the output of each entry depends on that entry alone: a permutation commutes with it."""
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    order = torch.arange(32, -1, -1)
    try:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            straight, turned = module.forward(x), module.forward(x[order])
            alone = module.forward(x[:7])
    except Exception:  # whatever the user's code cannot take, it is no plain activation
        return False
    if not isinstance(straight, Tensor) or straight.shape != x.shape or straight.dtype != x.dtype:
        return False
    return torch.equal(straight[order], turned) and torch.equal(straight[:7], alone)
