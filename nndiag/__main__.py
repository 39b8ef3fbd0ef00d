"""``python -m nndiag``."""

from nndiag.cli import main

main()
