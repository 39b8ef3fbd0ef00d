"""Attention: how many keys its rows spread over; on the probe only, where its matrix may be computed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nndiag.layers import LayerInfo
from nndiag.measures import Need
from nndiag.observe.attention import attention_of, scores_of
from nndiag.observe.taps.table import Reader
from nndiag.observe.watch import Call
from nndiag.statistics import AttentionEntropy

if TYPE_CHECKING:
    from nndiag.observe.taps.reader import TapReader


def _read_entropy(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    attention = attention_of(call)
    if isinstance(attention, str):
        reader.gap(info.name, "input", attention)
    elif attention is not None:
        reader.file(info.name, "input", "attention_entropy", AttentionEntropy.of(*attention))


def _read_scores(reader: TapReader, call: Call, info: LayerInfo, output: None) -> None:
    """Of attention, or a choice among experts, that is written out."""
    scores = scores_of(call)
    if isinstance(scores, str):
        reader.gap(info.name, "input", scores)
    else:
        reader.file(info.name, "input", "attention_entropy", AttentionEntropy.of_scores(scores))


READERS = (
    Reader(Need.ATTENTION_ENTROPY, frozenset(("attention",)), "before", _read_entropy),
    Reader(Need.ATTENTION_ENTROPY, frozenset(("softmax",)), "before", _read_scores),
)
