"""Gates of recurrent layers: fused kernels never show them, so they are computed again on the probe's samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import Tails

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader

SAMPLES = 32
"""Samples whose gates are computed: it takes the layer's products once more."""

_SIGMOID = math.log((1 + math.sqrt(0.95)) / (1 - math.sqrt(0.95)))
_TANH = math.atanh(math.sqrt(0.95))
_GATES: Mapping[str, tuple[str, ...]] = {
    "LSTM": ("input gate", "forget gate", "candidate", "output gate"),
    "GRU": ("reset gate", "update gate", "candidate"),
    "RNN": ("candidate",),
}


def _read_gates(reader: TapReader, call: Call, info: LayerInfo, output: Any) -> None:
    module = call.module
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or not call.args:
        return
    kind = type(module).__name__.removesuffix("Cell")
    if kind not in _GATES or getattr(module, "nonlinearity", "tanh") != "tanh":
        return
    states = _states(module, call, output)
    weights = _weights(module)
    if states is None or weights is None:
        reader.gap(
            info.name, "input", "gates are computed of one layer in one direction, over plain batches only"
        )
        return
    for name, z in _preactivations(kind, weights, *states):
        edge = _TANH if name == "candidate" else _SIGMOID
        reader.file(info.name, "input", f"tails/{name}", Tails.of(z, -edge, edge))


def _states(module: nn.RNNBase | nn.RNNCellBase, call: Call, output: Any) -> tuple[Tensor, Tensor] | None:
    """Inputs [N, T, I] and the hidden states [N, T, H] that each step begins with."""
    x, given = call.args[0], first_tensor(call.args[1:]) if len(call.args) > 1 else None
    if not isinstance(x, Tensor) or x.is_nested or not x.is_floating_point():
        return None
    if isinstance(module, nn.RNNCellBase):
        if x.dim() != 2:
            return None
        begin = _zeros(x, len(x), module) if given is None else given
        return x[:SAMPLES, None], begin[:SAMPLES, None]
    made = first_tensor(output)
    is_simple = module.num_layers == 1 and not module.bidirectional
    if not is_simple or made is None or x.dim() != 3 or call.kwargs or module.proj_size:
        return None
    rows, said = (t if module.batch_first else t.transpose(0, 1) for t in (x, made))
    first = _zeros(rows, rows.shape[0], module)[:, None] if given is None else given.transpose(0, 1)
    return rows[:SAMPLES], torch.cat([first.to(said.dtype), said[:, :-1]], 1)[:SAMPLES]


def _zeros(like: Tensor, samples: int, module: nn.RNNBase | nn.RNNCellBase) -> Tensor:
    return like.new_zeros(samples, module.hidden_size)


def _weights(module: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Input and recurrent matrix, and their biases: zero where there are none."""
    ending = "" if isinstance(module, nn.RNNCellBase) else "_l0"
    names = (f"{part}{ending}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    w, u, b, c = (module._parameters.get(name) for name in names)
    if w is None or u is None:
        return None
    zero = w.new_zeros(w.shape[0])
    return w, u, zero if b is None else b, zero if c is None else c


def _preactivations(
    kind: str, weights: tuple[Tensor, Tensor, Tensor, Tensor], x: Tensor, h: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """[N, T, H] of each gate; the candidate of a GRU reads its state through the reset gate."""
    w, u, b, c = weights
    names = _GATES[kind]
    ours = F.linear(x, w, b).chunk(len(names), -1)
    theirs = F.linear(h.to(x.dtype), u, c).chunk(len(names), -1)
    for name, own, other in zip(names, ours, theirs, strict=True):
        is_reset = kind == "GRU" and name == "candidate"
        yield name, own + (torch.sigmoid(ours[0] + theirs[0]) * other if is_reset else other)


READERS = (Reader(Need.INPUT_TAILS, frozenset(("recurrent",)), "after", _read_gates),)
