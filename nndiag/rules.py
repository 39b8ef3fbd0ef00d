"""A rule turns the readings of a layer, and their history, into a verdict.

A rule sees numbers only, never a model: the same rule speaks about a live run, a recorded run and a
checkpoint.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from nndiag.findings import Reading, Scalar, Severity
from nndiag.layers import LayerInfo

Total = TypeVar("Total")

_RECENT = 8
"""Readings a series keeps besides its first: enough for every rule's window, and bounded."""


_MIDDLE = 3
"""Losses of which the middle one is taken."""

STILL_BAD = 0.25
"""A loss that has fallen by less than this share of its first value is still bad."""

LEARNED = 0.1
"""Share of the loss of guessing below which a classifier had learned before it was watched."""

LEARNS = 0.5
"""A loss that has fallen by this share says that the network learns, whatever else is said of it."""


class Series:
    """The history of one reading of one layer: its first value and the most recent ones."""

    __slots__ = ("first", "recent")

    def __init__(self, first: Reading) -> None:
        self.first = first
        self.recent: deque[Reading] = deque([first], maxlen=_RECENT)

    def add(self, reading: Reading) -> None:
        """Appends the newest reading."""
        self.recent.append(reading)

    @property
    def last(self) -> Reading:
        """The newest reading."""
        return self.recent[-1]


class History:
    """Every series of a run, and the layers they belong to."""

    def __init__(self) -> None:
        self.step = -1
        self.layers: dict[str, LayerInfo] = {}
        self.series: dict[tuple[str, str, str | None], Series] = {}
        self._newest: dict[tuple[str, str], list[str | None]] = {}
        self._totals: dict[tuple[str, str], Any] = {}

    def add(self, step: int, layers: Mapping[str, LayerInfo], readings: Sequence[Reading]) -> None:
        """Takes the readings of one visit."""
        self.step = step
        self.layers |= layers
        self._newest, self._totals = {}, {}
        for reading in readings:
            key = (reading.measure, reading.name, reading.layer)
            self._newest.setdefault(key[:2], []).append(reading.layer)
            if key in self.series:
                self.series[key].add(reading)
            else:
                self.series[key] = Series(reading)

    def read_now(self, measure: str, *names: str) -> list[str | None]:
        """The layers of which one of some readings was taken at the newest step."""
        return list(dict.fromkeys(layer for name in names for layer in self._newest.get((measure, name), ())))

    def once(self, measure: str, name: str, compute: Callable[[], Total]) -> Total:
        """What is the same for all layers: computed for the first that asks at a visit, and kept for the others."""
        if (measure, name) not in self._totals:
            self._totals[measure, name] = compute()
        found: Total = self._totals[measure, name]
        return found

    def latest(self) -> list[Reading]:
        """The newest reading of every series."""
        return [series.last for series in self.series.values()]


@dataclass(frozen=True, slots=True)
class View:
    """What a rule may look at: one layer (``None``: the run) at the newest step."""

    history: History
    measure: str
    layer: str | None
    threshold: float
    source: Literal["live", "checkpoint"] = "live"

    @property
    def step(self) -> int:
        """The step of the newest visit."""
        return self.history.step

    @property
    def info(self) -> LayerInfo | None:
        """What is known of the layer."""
        return None if self.layer is None else self.history.layers.get(self.layer)

    def series(self, name: str, measure: str | None = None) -> Series | None:
        """The history of one reading of this layer."""
        return self.history.series.get((measure or self.measure, name, self.layer))

    def now(self, name: str, measure: str | None = None) -> Reading | None:
        """The reading of the newest step, None when it was not taken there."""
        series = self.series(name, measure)
        return series.last if series and series.last.step == self.step else None

    def value(self, name: str, default: float = float("nan")) -> float:
        """The value at the newest step, or ``default``."""
        reading = self.now(name)
        return default if reading is None else reading.value

    def first(self, name: str) -> Reading | None:
        """The first reading of the run."""
        series = self.series(name)
        return series.first if series else None

    def across(self, name: str, measure: str | None = None) -> Iterator[tuple[str, Series]]:
        """The histories of one reading of all layers."""
        for layer in self.history.layers:
            series = self.history.series.get((measure or self.measure, name, layer))
            if series is not None:
                yield layer, series

    def across_now(self, name: str, measure: str | None = None) -> Iterator[tuple[str, Reading]]:
        """The readings of all layers at the newest step."""
        for layer, series in self.across(name, measure):
            if series.last.step == self.step:
                yield layer, series.last

    def guessing(self) -> float | None:
        """The loss of an answer that ignores the sample; None where the loss is of no known kind.

        Of cross entropy, with equal odds: the logarithm of the number of classes. Of a mean squared error, with 0:
        the mean square of the targets.
        """
        known = self.run("loss_of_guessing")
        if known is None:
            return None
        return statistics.median(reading.value for reading in (known.first, *known.recent))

    def run(self, name: str) -> Series | None:
        """The history of a fact of the run: ``loss``, ``total_steps``, ``output_units`` ..."""
        return self.history.series.get(("run", name, None))

    def loss_fell(self) -> float | None:
        """The share by which the loss has fallen since the first visit; None where it is not known.

        The middle one of the newest losses is taken: a single batch can be easy. What a loss was above that of
        guessing tells nothing of what was learned, only of how the weights began.
        """
        loss, guessing = self.run("loss"), self.guessing()
        if loss is None or not math.isfinite(loss.first.value) or loss.first.value == 0:
            return None
        began = loss.first.value if guessing is None else min(loss.first.value, guessing)
        return (began - _middle(loss, 0)) / abs(began) if began else None

    def has_learned(self) -> bool:
        """Whether the loss has fallen by a quarter, or is that of a classifier that had learned before."""
        fell = self.loss_fell()
        return (fell is not None and fell >= STILL_BAD) or self.had_learned()

    def had_learned(self) -> bool:
        """Whether the middle value of the loss is that of a classifier that had learned before."""
        loss, classes = self.run("loss"), self.run("classes_seen")
        if loss is None:
            return False
        low = LEARNED * math.log(max(2.0, classes.last.value)) if classes is not None else 0.0
        return statistics.median(reading.value for reading in (loss.first, *loss.recent)) < low

    def is_improving(self) -> bool:
        """Whether the loss falls at present: by a tenth from one half of the newest visits to the other."""
        loss = self.run("loss")
        return (
            loss is not None
            and len(loss.recent) > _MIDDLE
            and _middle(loss, 0) < 0.9 * _middle(loss, _MIDDLE)
        )

    def is_far_above_chance(self) -> bool:
        """Whether the first loss was three times that of guessing, and the newest ones are still above guessing.

        False where classes are not known. It says something beside other evidence only: a loss that is summed over
        samples is large from the start.
        """
        loss, classes = self.run("loss"), self.run("classes_seen")
        if loss is None or classes is None:
            return False
        chance = math.log(max(2.0, classes.last.value))
        return loss.first.value > 3 * chance and not _middle(loss, 0) < 0.9 * chance

    @property
    def has_rivals(self) -> bool:
        """Whether several optimizers step: a loss that stays where it is may be their balance."""
        optimizers = self.run("optimizers")
        return optimizers is not None and optimizers.last.value > 1

    def of(self, layer: str | None) -> View:
        """The same view of another layer."""
        return View(self.history, self.measure, layer, self.threshold, self.source)


def _middle(loss: Series, skipped: int) -> float:
    """The middle one of three losses, leaving out the newest ``skipped``; the first one where there are none."""
    newest = [reading.value for reading in loss.recent][::-1][skipped : skipped + _MIDDLE]
    return statistics.median(newest or [loss.first.value])


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule's word on one layer at one visit. ``value`` is compared with the rule's threshold."""

    severity: Severity
    value: float | None = None
    evidence: Mapping[str, Scalar] = field(default_factory=dict)
    places: tuple[str, ...] = ()
    """The layers to name in the finding, when they are not the one that was read."""
    is_harmless: bool = False
    """Whether this is a note about something that brings nothing else about."""
    is_conclusive: bool = False
    """Whether one visit is enough: what was seen is far beyond what chance or a bad moment can show."""


class Abstention:
    """A rule's word where it may not speak yet: neither bad nor clean."""


ABSTAIN = Abstention()


@dataclass(frozen=True, slots=True)
class Case:
    """All layers a rule holds against at present, the leading one first."""

    layers: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    step: int
    first_step: int

    @property
    def leading(self) -> Verdict:
        """The verdict on the first layer."""
        return self.verdicts[0]

    @property
    def worst(self) -> str:
        """The layer that a message's numbers belong to."""
        return _in_words(self.layers[0]) if self.layers else self.where

    @property
    def others(self) -> str:
        """Names the further layers of a finding: the numbers are not theirs."""
        rest = self.layers[1:]
        if not rest:
            return ""
        more = f" and {len(rest) - 4} more" if len(rest) > 4 else ""
        return f" Over the limit, too: {', '.join(map(_in_words, rest[:4]))}{more}."

    @property
    def where(self) -> str:
        """The layers in words: "fc1", "fc1 and fc2", "fc1 and 3 more layers"."""
        if not self.layers:
            return "the run"
        names = list(map(_in_words, self.layers))
        return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more layers"


def _in_words(layer: str) -> str:
    """A layer in a sentence, where a bare number would be read as one."""
    return f"layer {layer}" if layer.isdecimal() else layer or "the model"


@dataclass(frozen=True, slots=True)
class Advice:
    """The words of a finding: what was seen, what to change, how to see that it worked."""

    message: str
    recommendation: str


Persistence = Literal["at once", "two of three"]


@dataclass(frozen=True)
class Rule:
    """One rule of the catalogue; its id is stable for ever.

    ``reads`` names the reading whose presence at a step means that the rule can judge the layer there.
    ``judge`` returns a verdict, None when the layer is clean, or ``ABSTAIN``. ``lead`` says which layer a
    finding names first. ``explains`` names the rules whose findings are consequences of this one.
    """

    id: str
    name: str
    measure: str
    summary: str
    reads: str
    judge: Callable[[View], Verdict | Abstention | None]
    advise: Callable[[Case], Advice]
    threshold: float
    also_reads: tuple[str, ...] = ()
    """Further readings, each of which is enough for it to judge."""
    persistence: Persistence = "two of three"
    lead: Literal["worst", "earliest"] = "worst"
    explains: tuple[str, ...] = ()
    spares: Callable[[Mapping[str, Scalar]], tuple[str, ...]] = lambda evidence: ()
    """Which of ``explains`` a finding with this evidence cannot bring about."""
    lower_is_worse: bool = False
    is_of_run: bool = False
    """Whether the cause lies in the run as a whole (learning rate, depth): no layer is ahead of it."""
    acts_by_updates: bool = False
    """Whether updates bring it about: what was there before the first one is not its consequence."""
