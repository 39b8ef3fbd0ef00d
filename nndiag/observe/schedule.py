"""When nndiag looks: a pure function of the step, thinned only by the cost it measures."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

START_UP = frozenset({0, 1, 2, 3, 5, 8, 12, 16, *(t + b for t in range(20, 61, 10) for b in (0, 1))})
"""Steps at which every run is visited: dense at first, then in bursts of two."""

EXPERIMENTS = frozenset({16, 31, 61})
"""Start-up steps at which the probe also replays with something changed."""

THINNED = "regular visits are fewer than asked for, to keep within max_overhead: see the run's cadence"
"""Said of a run whose visits were thinned."""

_AIM = 2 / 3
"""Share of ``max_overhead`` that visits are spread to take."""

SIGNATURES = 10
"""Steps, at least, from one comparison of all units to the next: copies neither come nor part in a step."""

COUNTING_STEPS = 32
"""Steps from the first on during which the stream's counters run at every step."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Visits at the start-up steps, then in bursts (t, t+1) every ``cadence`` steps, and at the last step.

    A visit at step t sees the parameters that step t trains with, before its update.

    Args:
        every_n: Regular cadence in optimizer steps.
        total_steps: Length of the run, when known: the cadence is at most a twentieth of it.
    """

    every_n: int
    total_steps: int | None = None

    @property
    def cadence(self) -> int:
        """Steps between two bursts."""
        if self.total_steps is None:
            return self.every_n
        return max(1, min(self.every_n, self.total_steps // 20))

    def is_visit(self, step: int, stride: int = 1) -> bool:
        """Whether ``step`` (0-based) is a visit; ``stride`` thins the regular ones."""
        if step in START_UP or (self.total_steps is not None and step == self.total_steps - 1):
            return True
        if step <= max(START_UP):
            return False
        return step % (self.cadence * stride) in (0, 1)

    def is_experiment(self, step: int) -> bool:
        """Whether a visit at ``step`` affords dear replays: less and less often, and at the end."""
        if step in EXPERIMENTS or (self.total_steps is not None and step == self.total_steps - 1):
            return True
        bursts, offset = divmod(step, self.cadence)
        return step > max(START_UP) and offset == min(1, self.cadence - 1) and bursts & (bursts - 1) == 0

    def is_compared(self, step: int, stride: int = 1) -> bool:
        """Whether units are compared at a visit: at the first of a burst, and no more often than ``SIGNATURES``."""
        if step <= max(START_UP) or (self.total_steps is not None and step == self.total_steps - 1):
            return True
        interval = self.cadence * stride
        return step % (interval * -(-SIGNATURES // interval)) == 0

    def is_counted(self, step: int) -> bool:
        """Whether the stream counts at ``step``, visit or not."""
        return step < COUNTING_STEPS


class Budget:
    """Keeps the share of time that regular visits take below ``max_overhead``.

    Start-up visits are reported apart and not charged. When the share is exceeded the stride doubles; it
    never shrinks again, and no training step is changed.

    Args:
        max_overhead: Largest share of the time since the start; None switches thinning off.
        clock: Seconds; injected, so that tests need not wait.
    """

    def __init__(self, max_overhead: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.max_overhead = max_overhead
        self.clock = clock
        self.stride = 1
        self.start_up_s = 0.0
        self.spent_s = 0.0
        self._begin = clock()
        self._mark: tuple[float, float] | None = None
        self._paces: deque[float] = deque(maxlen=16)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out to keep within the limit."""
        return (THINNED,) if self.stride > 1 else ()

    @property
    def share(self) -> float:
        """Time of regular visits over the time since the start, start-up visits taken out of both."""
        return self.spent_s / self._elapsed_s if self._elapsed_s > 0 else 0.0

    @property
    def _elapsed_s(self) -> float:
        return self.clock() - self._begin - self.start_up_s

    def begin_step(self) -> None:
        """Takes the time of the step before, without what was spent in it."""
        now, booked = self.clock(), self.start_up_s + self.spent_s
        if self._mark is not None:
            self._paces.append(max(0.0, now - self._mark[0] - (booked - self._mark[1])))
        self._mark = now, booked

    def visit_limit_s(self, cadence: int) -> float | None:
        """What a visit may take, two of them every ``cadence`` steps; None when that is not known."""
        if self.max_overhead is None or not self._paces:
            return None
        return self.max_overhead * cadence * statistics.median(self._paces) / 2

    def charge(self, step: int, seconds: float) -> None:
        """Books the time spent at one step."""
        if step <= max(START_UP):
            self.start_up_s += seconds
        else:
            self.spent_s += seconds

    def settle(self, cadence: int = 0) -> None:
        """After a regular visit: looks half as often from now on, if the visits so far took too long.

        Args:
            cadence: Steps to the next burst at a stride of 1: what was spent is spread over them too. Aimed at is
                then ``_AIM`` of the limit, since the next burst may take longer.
        """
        if self.max_overhead is None:
            return
        pace = statistics.median(self._paces) if self._paces else 0.0
        ahead = pace * cadence * self.stride
        limit = self.max_overhead * (_AIM if ahead else 1.0)
        if self.spent_s > limit * (self._elapsed_s + ahead):
            self.stride *= 2
