"""Everything nndiag knows of a model at one step, frozen.

A snapshot holds sufficient statistics, never a weight, an activation or a sample. Live runs, recorded runs
and checkpoints end in this one type.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nndiag.errors import CheckpointError
from nndiag.findings import Scalar
from nndiag.layers import LayerInfo
from nndiag.statistics import STATISTICS, Statistic

SCHEMA_VERSION = 1

Tap = Literal["input", "output", "grad_output", "weight", "grad"]
Observer = Literal["probe", "stream", "weights"]


class Key(NamedTuple):
    """Which statistic: of which layer, which of its tensors, seen by which observer.

    ``statistic`` is a name in ``STATISTICS``; a part may follow ("signature/heads").
    """

    layer: str
    tap: Tap
    observer: Observer
    statistic: str


class Gap(NamedTuple):
    """Something that could not be observed."""

    layer: str | None
    tap: Tap
    observer: Observer


@dataclass(frozen=True)
class Snapshot:
    """The statistics of one visit.

    ``layers`` are in order of execution. ``gaps`` says what could not be observed, and why. ``facts`` are
    plain numbers and strings about the run at this step (``loss``, ``total_steps``, ``output_units``).
    """

    step: int
    source: Literal["live", "checkpoint"]
    layers: Mapping[str, LayerInfo]
    statistics: Mapping[Key, Statistic]
    gaps: Mapping[Gap, str] = field(default_factory=dict)
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def get(self, layer: str, tap: Tap, observer: Observer, statistic: str) -> Statistic | None:
        """One statistic, or None when it was not taken."""
        return self.statistics.get(Key(layer, tap, observer, statistic))

    def parts(self, layer: str, tap: Tap, observer: Observer, statistic: str) -> dict[str, Statistic]:
        """The statistics of one kind by part: those of a layer's symmetry domains, for one."""
        return dict(self._parts.get((layer, tap, observer, statistic), {}))

    @functools.cached_property
    def _parts(self) -> dict[tuple[str, str, str, str], dict[str, Statistic]]:
        """Looked up layer by layer: going through all keys for each would grow with the square of a network."""
        found: dict[tuple[str, str, str, str], dict[str, Statistic]] = {}
        for key, value in self.statistics.items():
            name, slash, part = key.statistic.partition("/")
            if slash:
                found.setdefault((*key[:3], name), {})[part] = value
        return found

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file: the tensors, and a JSON header as its metadata."""
        tensors, keys = {}, []
        for index, (key, statistic) in enumerate(self.statistics.items()):
            keys.append(list(key))
            for name, tensor in statistic.to_tensors().items():
                # Statistics may share memory, which the format refuses.
                tensors[f"{index}/{name}"] = tensor.detach().to("cpu", copy=True).contiguous()
        header = {
            "schema_version": SCHEMA_VERSION,
            "step": self.step,
            "source": self.source,
            "layers": [asdict(info) for info in self.layers.values()],
            "keys": keys,
            "gaps": [[*gap, reason] for gap, reason in self.gaps.items()],
            "facts": dict(self.facts),
            "notes": list(self.notes),
        }
        save_file(tensors, str(path), metadata={"nndiag": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Snapshot:
        """Reads what ``save`` wrote.

        Raises:
            CheckpointError: the file is not a snapshot, or was written by a newer nndiag.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})["nndiag"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["schema_version"] > SCHEMA_VERSION:
                raise CheckpointError(f"{path} was written by a newer nndiag: upgrade nndiag to read it.")
            return cls._from_header(header, tensors)
        except CheckpointError:
            raise
        except Exception as error:  # safetensors raises its own type; a header made by others, any
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(f"{path} is not an nndiag snapshot: {cause}") from error

    @classmethod
    def _from_header(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
        layers = {row["name"]: LayerInfo.from_dict(row) for row in header["layers"]}
        parts: dict[int, dict[str, object]] = {}
        for name, tensor in tensors.items():
            index, part = name.split("/", 1)
            parts.setdefault(int(index), {})[part] = tensor
        statistics = {
            Key(*key): STATISTICS[key[3].partition("/")[0]].from_tensors(parts.get(index, {}))
            for index, key in enumerate(header["keys"])
        }
        gaps = {Gap(*row[:3]): row[3] for row in header["gaps"]}
        return cls(
            int(header["step"]),
            header["source"],
            layers,
            statistics,
            gaps,
            dict(header["facts"]),
            tuple(header["notes"]),
        )
