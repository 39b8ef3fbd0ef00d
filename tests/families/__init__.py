"""Exactness: training with nndiag gives the same numbers, bit for bit, as training without it."""
