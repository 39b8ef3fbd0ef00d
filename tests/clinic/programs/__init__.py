"""The programs: every case that a module of this folder defines."""

from __future__ import annotations

from ..case import Case
from . import (
    healthy_dropout,
    healthy_games,
    healthy_models,
    healthy_norms,
    healthy_optimization,
    healthy_schedules,
    healthy_statistics,
    healthy_tails,
    healthy_training,
    healthy_traps,
    healthy_units,
    sick_averages,
    sick_bounds,
    sick_copies,
    sick_depth,
    sick_dropout,
    sick_features,
    sick_flow,
    sick_inputs,
    sick_noise,
    sick_norms,
    sick_optimization,
    sick_paths,
    sick_rates,
    sick_scales,
    sick_starts,
    sick_statistics,
    sick_steps,
    sick_tails,
    sick_units,
    sick_untrained,
    sick_values,
    sick_weights,
)

MODULES = (
    sick_weights,
    sick_norms,
    sick_steps,
    sick_depth,
    sick_rates,
    sick_values,
    sick_untrained,
    sick_dropout,
    sick_statistics,
    sick_features,
    healthy_traps,
    healthy_schedules,
    healthy_games,
    healthy_norms,
    healthy_dropout,
    sick_copies,
    sick_scales,
    sick_tails,
    sick_units,
    healthy_units,
    healthy_tails,
    sick_starts,
    sick_optimization,
    sick_flow,
    sick_bounds,
    sick_inputs,
    healthy_optimization,
    healthy_models,
    sick_noise,
    sick_averages,
    sick_paths,
    healthy_statistics,
    healthy_training,
)

CASES: tuple[Case, ...] = tuple(
    value for module in MODULES for value in vars(module).values() if isinstance(value, Case)
)
SICK = tuple(case for case in CASES if case.kind == "sick")
HEALTHY = tuple(case for case in CASES if case.kind == "healthy")
