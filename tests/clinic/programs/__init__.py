"""The programs: every case that a module of this folder defines."""

from __future__ import annotations

from ..case import Case
from . import healthy_traps, sick_norms, sick_steps, sick_weights

MODULES = (sick_weights, sick_norms, sick_steps, healthy_traps)

CASES: tuple[Case, ...] = tuple(
    value for module in MODULES for value in vars(module).values() if isinstance(value, Case)
)
SICK = tuple(case for case in CASES if case.kind == "sick")
HEALTHY = tuple(case for case in CASES if case.kind == "healthy")
