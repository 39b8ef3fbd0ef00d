"""What holds for every test: the same examples in each run, and no compiler left over from the test before."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("fast", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=1000)
settings.load_profile("fast")


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """Where anything was compiled in a process, nndiag is careful with the first batch of every later run."""
    yield
    frame = sys.modules.get("torch._dynamo.eval_frame")
    if frame is not None and any(backend is not None for backend in frame.cached_backends.values()):
        sys.modules["torch._dynamo"].reset()
