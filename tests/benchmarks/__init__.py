"""What watching costs: nndiag and its peers beside the same training without them."""
