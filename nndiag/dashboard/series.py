"""Reading nndiag's tensors of one run, whichever way TensorBoard loaded them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tensorboard.data import provider

from nndiag.events import LAYERS_TAG, PLUGIN_NAME, SCHEMA_VERSION
from nndiag.page.series import Array, Row

ALL = 10_000
"""More than TensorBoard holds of a tag, so that nothing is thinned twice."""

_TAGS_A_READ = 16
"""Answers of TensorBoard's data server are limited in size."""


@dataclass(frozen=True)
class Events:
    """The data that TensorBoard holds for one request."""

    provider: Any
    context: Any
    experiment: str

    def index(self, run: str | None = None) -> dict[str, dict[str, Any]]:
        """What each tag of each run says of itself; None where that cannot be read."""
        chosen = None if run is None else provider.RunTagFilter(runs=[run])
        listed = self.provider.list_tensors(
            self.context, experiment_id=self.experiment, plugin_name=PLUGIN_NAME, run_tag_filter=chosen
        )
        return {
            name: {tag: _description(tags[tag].plugin_content) for tag in sorted(tags)}
            for name, tags in sorted(listed.items())
        }

    def read(self, runs: Sequence[str], tags: Sequence[str], most: int) -> dict[str, dict[str, list[Any]]]:
        """Samples by run and tag, in order of steps; of more than ``most``, a part with the last one."""
        found: dict[str, dict[str, list[Any]]] = {}
        for start in range(0, len(tags), _TAGS_A_READ):
            data = self.provider.read_tensors(
                self.context,
                experiment_id=self.experiment,
                plugin_name=PLUGIN_NAME,
                downsample=most,
                run_tag_filter=provider.RunTagFilter(runs=runs, tags=tags[start : start + _TAGS_A_READ]),
            )
            for run, series in data.items():
                into = found.setdefault(run, {})
                into |= {tag: without_repeats(samples) for tag, samples in series.items()}
        return found


@dataclass(frozen=True)
class Run:
    """One run."""

    events: Events
    name: str
    index: Mapping[str, Any]

    @property
    def is_newer(self) -> bool:
        """Whether a newer nndiag wrote it than this one can read."""
        return any(is_newer(facts) for facts in self.index.values())

    def tags(self, kind: str) -> dict[str, Mapping[str, Any]]:
        """Tags of one kind, and what they say of themselves."""
        return {tag: facts for tag, facts in self.index.items() if is_known(facts) and facts["kind"] == kind}

    def texts(self, tag: str, most: int = 1) -> list[tuple[int, dict[str, Any]]]:
        """Steps and records of a tag that holds JSON; what cannot be read is left out."""
        if not is_known(self.index.get(tag)):
            return []
        samples = self.events.read([self.name], [tag], most).get(self.name, {}).get(tag, [])
        records = ((sample.step, record_of(sample)) for sample in samples)
        return [(step, record) for step, record in records if record is not None]

    @cached_property
    def layer_lists(self) -> list[tuple[int, list[dict[str, Any]]]]:
        """Every list of layers with the step from which on it holds."""
        found = []
        for step, record in self.texts(LAYERS_TAG, ALL):
            rows = record.get("layers")
            if isinstance(rows, list) and all(isinstance(row, dict) and "name" in row for row in rows):
                found.append((step, rows))
        return found

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The newest list of layers."""
        return self.layer_lists[-1][1] if self.layer_lists else []

    @cached_property
    def places(self) -> dict[str, int]:
        """Where a layer stands in the newest list."""
        return {str(row["name"]): place for place, row in enumerate(self.layers)}

    def names_at(self, step: int, count: int) -> tuple[str, ...]:
        """The layers of a row that was written at a step.

        The newest list of that time; lists only grow, so where thinning took it away the next one will do.
        """
        earlier = [names for at, names in self._names if at <= step][-1:]
        later = [names for at, names in self._names if at > step]
        fitting = (names for names in (*earlier, *later) if len(names) >= count)
        return next(fitting, ())

    @cached_property
    def _names(self) -> list[tuple[int, tuple[str, ...]]]:
        return [(step, tuple(str(row["name"]) for row in rows)) for step, rows in self.layer_lists]

    def rows(self, tags: Iterable[str], most: int) -> Iterator[tuple[str, Row]]:
        """Each tag's reading over the steps: layers as in the newest list."""
        wanted = list(tags)
        data = self.events.read([self.name], wanted, most).get(self.name, {})
        for tag in wanted:
            if samples := data.get(tag):
                yield tag, self._row(samples)

    def _row(self, samples: Sequence[Any]) -> Row:
        kept = [s for s in samples if s.numpy.ndim == 1 and s.numpy.dtype.kind == "f"]
        values = np.full((len(self.places), len(kept)), np.nan, dtype="<f4")
        maps: dict[tuple[str, ...], Array] = {}
        for column, sample in enumerate(kept):
            names = self.names_at(sample.step, len(sample.numpy))[: len(sample.numpy)]
            if names not in maps:
                maps[names] = np.array([self.places.get(name, -1) for name in names], dtype=np.int64)
            places = maps[names]
            values[places[places >= 0], column] = sample.numpy[: len(places)][places >= 0]
        return Row(np.array([sample.step for sample in kept], dtype=np.int64), values)


def without_repeats(samples: Iterable[Any]) -> list[Any]:
    """Leaves out what a resumed run went over again: the data server does so, the other loader does not."""
    kept: list[Any] = []
    for sample in samples:
        while kept and kept[-1].step >= sample.step:
            kept.pop()
        kept.append(sample)
    return kept


def is_known(facts: Any) -> bool:
    """Whether a tag's description is one that this version can read."""
    return isinstance(facts, dict) and facts.get("v") == SCHEMA_VERSION and isinstance(facts.get("kind"), str)


def is_newer(facts: Any) -> bool:
    """Whether a tag's description comes from a newer nndiag."""
    return isinstance(facts, dict) and isinstance(facts.get("v"), int) and facts["v"] > SCHEMA_VERSION


def record_of(sample: Any) -> dict[str, Any] | None:
    """The JSON object in a sample, or None."""
    try:
        record = json.loads(sample.numpy.reshape(-1)[0], parse_constant=str)
    except (ValueError, TypeError, IndexError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _description(content: bytes) -> Any:
    try:
        return json.loads(content, parse_constant=str)
    except (ValueError, TypeError, RecursionError):
        return None
