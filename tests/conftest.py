"""How hypothesis looks for counterexamples: the same examples in each run, without a clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fast", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=1000)
settings.load_profile("fast")
