"""Compiled models: not one graph more with nndiag, and nothing claimed of what it cannot see."""
