"""What holds for every test: the same examples and random numbers in each run, and no compiler left over.

``NNDIAG_TEST_MODE=float64`` (or ``deterministic``, ``anomaly``) runs all tests as a user would whose program has
set this for the whole process. Tests that are about numbers of a certain format name it.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("fast", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=1000)
settings.load_profile("fast")

MODES = {
    "": lambda: None,
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
}
_set_mode = MODES[os.environ.get("NNDIAG_TEST_MODE", "")]
_set_mode()  # for what test files make when they are read


@pytest.fixture(autouse=True)
def _mode() -> None:
    """Anew for each test: some set and reset it themselves. None depends on the numbers that another has drawn."""
    _set_mode()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def float32() -> None:
    """For what is tuned on the numbers that are drawn in single precision."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """Where anything was compiled in a process, nndiag is careful with the first batch of every later run."""
    yield
    frame = sys.modules.get("torch._dynamo.eval_frame")
    if frame is not None and any(backend is not None for backend in frame.cached_backends.values()):
        sys.modules["torch._dynamo"].reset()
