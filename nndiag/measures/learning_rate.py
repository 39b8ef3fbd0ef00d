"""What the learning rate did: rules on updates ask, where it is known."""

from __future__ import annotations

import itertools
import math

from nndiag.rules import View

RAN_OUT = 1e-5
"""Share of the first learning rate at which nothing is learned any more."""

JUMP = 10.0
"""A learning rate that is this many times what it was, when losses stop being finite, is the cause."""


def now(view: View) -> float:
    """The newest learning rate, the largest over groups; NaN where it is not known."""
    lr = view.run("lr")
    return math.nan if lr is None else lr.last.value


def before_jump(view: View) -> float | None:
    """The learning rate before it rose tenfold from one visit to the next, where losses are not finite since."""
    rates, losses = view.run("lr"), view.run("loss")
    if rates is None or losses is None or math.isfinite(losses.last.value):
        return None
    values = [reading.value for reading in rates.recent]
    jumps = (b for b, a in itertools.pairwise(values) if 0 < JUMP * b <= a and a == rates.last.value)
    return next(jumps, None)


def before_it_ran_out(view: View) -> float | None:
    """The first learning rate, where it has been next to nothing for eight visits; not towards the end of a run."""
    rates, total = view.run("lr"), view.run("total_steps")
    if rates is None or len(rates.recent) < 8 or (total is not None and view.step > total.last.value / 2):
        return None
    return rates.first.value if max(r.value for r in rates.recent) < RAN_OUT * rates.first.value else None
