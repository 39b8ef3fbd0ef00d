"""All cases."""

from __future__ import annotations

from .case import Case
from .healthy import HEALTHY
from .sick import SICK

CASES: tuple[Case, ...] = (*SICK, *HEALTHY)
