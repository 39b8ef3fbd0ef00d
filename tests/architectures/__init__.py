"""Public architectures at their own default weights: exact with nndiag, and not accused of anything."""
