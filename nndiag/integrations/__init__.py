"""Adapters that only translate a framework's events into a session's."""
