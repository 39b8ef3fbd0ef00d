"""The dashboard in TensorBoard: a tab that reads what ``nndiag.sinks.tab`` wrote."""
