"""Reads checkpoints in processes of their own, which have little to break and nothing to gain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import get_args

from nndiag.checkpoints.files import PlainFile, local_path
from nndiag.checkpoints.folders import checkpoints_in, largest_file
from nndiag.checkpoints.limits import Limits
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.errors import CheckpointError
from nndiag.layers import LayerInfo
from nndiag.report import plain_text
from nndiag.report.checks import checked, facts
from nndiag.snapshot import Observer, Snapshot, Tap

AnyPath = str | os.PathLike[str]
Progress = Callable[[int, int, Path], None]
"""Told how many are read, of how many, and which was the newest."""

_SNAPSHOT, _ERROR = "snapshot.safetensors", "error.json"
_LONGEST_ERROR = 1 << 20
_WORTH_A_PROCESS = 1 << 30
"""Bytes that are read in the time that a process takes to start."""


def find(paths: AnyPath | Iterable[AnyPath]) -> tuple[Path, ...]:
    """The checkpoints at some paths; a folder with several gives each of them.

    Raises:
        CheckpointError: there is none at one of them.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[Path] = []
    for path in listed:
        with _about(path):
            found += checkpoints_in(local_path(path))
    return tuple(dict.fromkeys(found))


def read(
    path: AnyPath,
    *,
    layers: Mapping[str, LayerInfo] | None = None,
    limits: Limits | None = None,
    process: ReadingProcess | None = None,
) -> Snapshot:
    """One checkpoint as a snapshot, read in a process of its own; nothing in it is executed.

    Args:
        path: A file (``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.safetensors``), or a folder with the files of one
            checkpoint (Hugging Face).
        layers: What ``discover(model)`` says, where there is a model; None: kinds and units are inferred.
        limits: What the process may take; None: what the size of the checkpoint calls for.
        process: Reads several checkpoints, of which none sees another; None: one for this one.

    Raises:
        CheckpointError: it cannot be read; the text is one line.
    """
    if process is None:
        with ReadingProcess() as own:
            return read(path, layers=layers, limits=limits, process=own)
    with _about(path), tempfile.TemporaryDirectory(prefix="nndiag-") as folder:
        place, out = _alone(local_path(path).absolute()), Path(folder)
        limits = limits or Limits.for_size(largest_file(place))
        request = {
            "path": str(place),
            "out": folder,
            "layers": None if layers is None else [asdict(info) for info in layers.values()],
            "limits": asdict(limits),
        }
        status = process.answer(json.dumps(request).encode("ascii"), limits.patience)
        if status is None or status == -getattr(signal, "SIGALRM", 0):
            raise CheckpointError(f"could not be read within {limits.patience} seconds")
        if not (out / _SNAPSHOT).is_file() or status != 0:
            raise CheckpointError(_reason(out, status))
        return _trusted(out / _SNAPSHOT, limits)


def read_series(
    paths: AnyPath | Iterable[AnyPath],
    *,
    layers: Mapping[str, LayerInfo] | None = None,
    progress: Progress | None = None,
    processes: int | None = None,
) -> tuple[Snapshot, ...]:
    """Checkpoints of one training run as snapshots, in the order of their steps.

    Where one of them does not say its step, the order of ``paths`` stands and they are numbered from 0. Of several
    at one step the first is kept.

    Args:
        paths: Checkpoints, or folders of them.
        layers: As for ``read``.
        progress: Called in this thread after each.
        processes: How many are read at a time, at most as many as there are processors; None: one more a gigabyte.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    places = find(paths)
    wanted = processes or 1 + sum(map(largest_file, places)) // _WORTH_A_PROCESS
    count = max(1, min(len(places), wanted, os.cpu_count() or 1))
    idle: SimpleQueue[ReadingProcess] = SimpleQueue()

    def read_one(place: Path) -> Snapshot:
        process = idle.get()
        try:
            return read(place, layers=layers, process=process)
        finally:
            idle.put(process)

    with ThreadPoolExecutor(count) as pool, contextlib.ExitStack() as stack:
        for _ in range(count):
            idle.put(stack.enter_context(ReadingProcess()))
        waiting = {pool.submit(read_one, place): place for place in places}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                future.result()
                if progress is not None:
                    progress(done, len(places), waiting[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return ordered(_results(waiting))


def _alone(path: Path) -> Path:
    """The one checkpoint at a path; what needs no look inside is said at once."""
    found = checkpoints_in(path)
    if len(found) > 1:
        raise CheckpointError(f"holds {len(found)} checkpoints: read them as a series")
    if not found[0].is_dir():
        with PlainFile(found[0]):
            pass
    return found[0]


def _results(futures: Iterable[Future[Snapshot]]) -> list[Snapshot]:
    return [future.result() for future in futures]


def ordered(snapshots: Sequence[Snapshot]) -> tuple[Snapshot, ...]:
    """In the order of their steps, one a step; where one does not say its step, numbered as given."""
    if len(snapshots) > 1 and any(s.facts.get("step_from") == "unknown" for s in snapshots):
        note = "not every checkpoint says its step: they are numbered in the order they were given"
        return tuple(replace(s, step=n, notes=(*s.notes, note)) for n, s in enumerate(snapshots))
    kept: dict[int, Snapshot] = {}
    for snapshot in sorted(snapshots, key=lambda s: s.step):
        first = kept.setdefault(snapshot.step, snapshot)
        if first is not snapshot:
            note = f"another checkpoint of step {first.step} was left out"
            kept[first.step] = replace(first, notes=(*first.notes, note))
    return tuple(kept.values())


@contextlib.contextmanager
def _about(path: object) -> Iterator[None]:
    """Puts the name of a checkpoint before what is wrong with it, on one line."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{plain_text(path, 500)} {plain_text(error, 1000)}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{plain_text(path, 500)} cannot be read: {plain_text(reason, 300)}") from error


def _reason(out: Path, status: int) -> str:
    """Why there is no snapshot: what the process says, else how it ended."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        if (out / _ERROR).stat().st_size <= _LONGEST_ERROR:
            return str(json.loads((out / _ERROR).read_text(encoding="ascii"))["reason"])
    if status == -getattr(signal, "SIGXCPU", 0):
        return "takes more processor time to read than any checkpoint of its size needs"
    if status in (-getattr(signal, "SIGXFSZ", 0), -getattr(signal, "SIGKILL", 0)):
        return "takes more of this machine to read than it is given"
    return f"broke the process that read it (status {status})"


def _trusted(path: Path, limits: Limits) -> Snapshot:
    """The snapshot of the process, if it is one in every field: the process has seen the file, we have not."""
    if path.is_symlink() or path.stat().st_size > limits.output:
        raise CheckpointError("gave more than any snapshot holds")
    snapshot = Snapshot.load(path)
    try:
        for info in snapshot.layers.values():
            checked(info)
        facts(snapshot.facts)
        places = [key[:3] for key in (*snapshot.statistics, *snapshot.gaps)]
        is_sound = snapshot.source == "checkpoint" and snapshot.step >= 0
        is_sound &= bool(snapshot.statistics)
        is_sound &= all(isinstance(reason, str) for reason in (*snapshot.gaps.values(), *snapshot.notes))
        is_sound &= all(isinstance(layer, str) for layer, _, _ in places)
        is_sound &= all(tap in get_args(Tap) and by in get_args(Observer) for _, tap, by in places)
    except (TypeError, ValueError) as error:
        raise CheckpointError("did not give a sound snapshot") from error
    if not is_sound:
        raise CheckpointError("did not give a sound snapshot")
    return snapshot
