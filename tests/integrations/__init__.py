"""The adapters to training frameworks, run against the real frameworks."""
