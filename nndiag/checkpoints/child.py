"""The process that reads checkpoints: ``python -m nndiag.checkpoints.child``.

It takes requests as lines of JSON on standard input (where the checkpoint is, where the snapshot goes, the layers of
the model if they are known, the limits). For each it leaves a snapshot, or one line about why there is none, and says
on standard output how the reading ended. On Linux each checkpoint is read in a fork of this process, which never sees
a file itself; elsewhere the process ends with its first.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nndiag.checkpoints.files import local_path
from nndiag.checkpoints.folders import open_checkpoint
from nndiag.checkpoints.limits import Limits
from nndiag.checkpoints.snapshotting import snapshot_of
from nndiag.errors import CheckpointError
from nndiag.layers import LayerInfo
from nndiag.snapshot import Snapshot

SNAPSHOT = "snapshot.safetensors"
ERROR = "error.json"

_FORBIDDEN = (
    *("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.kill"),
    *("os.startfile", "pty.spawn", "pickle.find_class"),
)
"""What reading a checkpoint never does, as Python calls it when it is done."""


def read_here(path: str | os.PathLike[str], layers: Mapping[str, LayerInfo] | None = None) -> Snapshot:
    """Reads a checkpoint in this process.

    Args:
        path: A file, or a folder with the files of one checkpoint.
        layers: The layers of the model; None: they are inferred.

    Raises:
        CheckpointError: it cannot be read, in words that follow its name.
    """
    try:
        with contextlib.ExitStack() as stack:
            place = local_path(path)
            return snapshot_of(open_checkpoint(place, stack), place, layers)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise CheckpointError("needs more memory than reading it is given") from error
    except Exception as error:
        if "alloc" in str(error) and isinstance(error, RuntimeError):
            raise CheckpointError("needs more memory than reading it is given") from error
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"cannot be read ({cause[:300]})") from error


def answer(request: Mapping[str, Any]) -> int:
    """Does what a request says, under its limits; 0 when a snapshot was written."""
    out = Path(request["out"])
    rows = request["layers"]
    layers = None if rows is None else {row["name"]: LayerInfo.from_dict(row) for row in rows}
    notes = Limits(**request["limits"]).impose()
    sys.addaudithook(_refuse)
    try:
        snapshot = read_here(request["path"], layers)
        replace(snapshot, notes=(*snapshot.notes, *notes)).save(out / SNAPSHOT)
    except Exception as error:
        is_known = isinstance(error, CheckpointError)
        reason = str(error) if is_known else f"cannot be read ({type(error).__name__}: {error})"[:300]
        (out / ERROR).write_text(json.dumps({"reason": reason}), encoding="ascii")
        return 1
    return 0


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Nothing here asks for these; were a file to find a way to, it would end there."""
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"{event} is not for a process that reads a checkpoint")


def forked(request: Mapping[str, Any]) -> int:
    """Answers in a fork; its exit status, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # only the parent says how it ended
        status = answer(request)
    finally:
        os._exit(status)


def main() -> int:
    """Answers one request after the other; where there is no fork, one."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if sys.platform != "linux":  # elsewhere a fork without a new program may break what libraries rely on
            return answer(request)
        sys.stdout.write(f"{forked(request)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
