"""Harmless everywhere: any tensor, any scale, any length of run, any fault of a disk."""
