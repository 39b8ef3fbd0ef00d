"""Which statistics are taken of which tensors: one file a kind of layer."""

from nndiag.observe.taps.reader import BATCH_FIRST, TapReader

__all__ = ["BATCH_FIRST", "TapReader"]
