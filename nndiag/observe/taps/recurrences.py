"""Recurrent layers: how far back in time their last output depends on the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.statistics import TimeReach

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader

SAMPLES = 8
"""Samples that are differentiated: it takes one more forward and a backward pass of the layer on these."""

SHORTEST = 8
"""Time steps below which quarters mean little."""


def _read_reach(reader: TapReader, call: Call, info: LayerInfo, output: Any) -> None:
    module = call.module
    if type(module) not in (nn.RNN, nn.LSTM, nn.GRU) or not call.args:
        return
    x = call.args[0]
    if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
        reader.gap(info.name, "input", "how far a recurrent layer reaches back is read of plain batches only")
        return
    assert isinstance(module, nn.RNNBase)
    rows = x if module.batch_first else x.transpose(0, 1)
    if rows.shape[1] >= SHORTEST and rows.shape[0]:
        reader.file(info.name, "input", "time_reach", TimeReach.of(_gradient(module, rows[:SAMPLES])))


def _gradient(module: nn.RNNBase, rows: Tensor) -> Tensor:
    """[N, T, C] gradient of an alternating sum over the units of the last output, of the forward direction.

    cuDNN differentiates in training mode only.
    """
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        given = rows.detach().clone().requires_grad_(True)
        sequence = type(module).forward(module, given if module.batch_first else given.transpose(0, 1))[0]
        last = (sequence if module.batch_first else sequence.transpose(0, 1))[:, -1]
        units = last[:, : (module.proj_size or module.hidden_size)]
        signs = torch.ones(units.shape[1], device=units.device, dtype=units.dtype)
        signs[1::2] = -1
        (gradient,) = torch.autograd.grad((units * signs).sum(), given)
    return gradient


READERS = (Reader(Need.TIME_REACH, frozenset(("recurrent",)), "after", _read_reach, runs_model=True),)
