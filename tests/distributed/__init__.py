"""Several processes: training stays exact, nobody waits for nndiag, records do not get into each other's way."""
