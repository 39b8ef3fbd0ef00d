"""Verdicts on small training programs whose truth is known."""
