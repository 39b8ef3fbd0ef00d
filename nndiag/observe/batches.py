"""The newest training batches, by what they hold on average: labels and inputs."""

from __future__ import annotations

from torch import Tensor

from nndiag.observe.observation import Observation
from nndiag.snapshot import Key
from nndiag.statistics import BatchLabels, BatchMeans

LABELS = Key("", "input", "stream", "batch_labels")
"""Where counts of labels are filed: they belong to the run, not to a layer."""

_WAITING = 64


class BatchWindow:
    """Keeps the newest batches over several visits, since one visit sees only a few."""

    def __init__(self) -> None:
        self._held = Observation()
        self._waiting: list[Tensor] = []

    def note_labels(self, labels: object) -> None:
        """Holds the labels of a batch until the next visit, so that no device is waited for in between."""
        if isinstance(labels, Tensor) and labels.dim() == 1 and len(self._waiting) < _WAITING:
            self._waiting.append(labels.detach().clone())

    def extend(self, seen: Observation) -> None:
        """Replaces what one visit saw of batches by what is known of the newest ones."""
        for labels in self._waiting:
            counts = BatchLabels.of(labels)
            if counts is not None:
                seen.add(LABELS, counts)
        self._waiting.clear()
        for key, statistic in list(seen.statistics.items()):
            if isinstance(statistic, (BatchMeans, BatchLabels)):
                self._held.add(key, statistic)
                seen.statistics[key] = self._held.statistics[key]
