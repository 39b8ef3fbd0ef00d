"""What the ranks of one run tell each other while they train, without waiting for one another.

Each rank pins its findings to the key-value store that the processes met by, and rank 0 reads what hangs there.
That is no collective: nobody waits, and a rank that fails or falls behind leaves an old notice or none.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

from nndiag import compat
from nndiag.diagnosis import Update
from nndiag.findings import Finding
from nndiag.report import Report
from nndiag.sinks.ranks import own_rank, unite, unite_findings

_opened = itertools.count()


class Noticeboard:
    """The newest findings of each rank.

    Args:
        store: A key-value store that all ranks share.
        rank: Of this process.
        ranks: How many there are.
        run: Told apart by this from other runs of the same processes.
    """

    def __init__(self, store: Any, rank: int, ranks: int, run: int = 0) -> None:
        self._store, self._rank, self._ranks, self._run = store, rank, ranks, run
        self._pinned: tuple[Finding, ...] = ()
        self._others: dict[int, tuple[Finding, ...]] = {}

    def exchange(self, update: Update) -> Update:
        """Pins what this rank found; on rank 0, the update with what the others have pinned so far."""
        if update.findings != self._pinned:
            notice = json.dumps([finding.to_dict() for finding in update.findings], allow_nan=False)
            self._store.set(self._key(self._rank), notice)
            self._pinned = update.findings
        if self._rank:
            return update  # rank 0 writes for all
        before, self._others = self._others, self._read()
        findings = unite_findings({0: update.findings, **self._others})
        return replace(update, findings=findings, changed=update.changed or self._others != before)

    def united(self, report: Report) -> Report:
        """On rank 0 the report with the findings of the others, as of the last exchange."""
        others = {rank: Report(findings) for rank, findings in self._others.items()}
        return unite({self._rank: report, **others}, {})

    def _read(self) -> dict[int, tuple[Finding, ...]]:
        ranks = (rank for rank in range(1, self._ranks) if self._store.check([self._key(rank)]))
        notices = {rank: json.loads(self._store.get(self._key(rank))) for rank in ranks}
        return {rank: tuple(map(Finding.from_dict, rows)) for rank, rows in notices.items()}

    def _key(self, rank: int) -> str:
        return f"nndiag/{self._run}/{rank}"


def open_board() -> Noticeboard | None:
    """The board of this run; None where one process is alone.

    Raises:
        RuntimeError: there is no process group of torch.distributed yet.
    """
    rank, ranks = own_rank()
    if ranks == 1:
        return None
    store = compat.process_store()
    if store is None:
        raise RuntimeError("merge_ranks needs a process group of torch.distributed before the first step")
    return Noticeboard(store, rank, ranks, next(_opened))  # ranks open their boards in the same order
