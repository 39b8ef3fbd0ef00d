"""The process that reads one checkpoint: ``python -m nndiag.checkpoints.child``.

It takes a request as JSON on standard input (where the checkpoint is, where the snapshot goes, the layers of the
model if they are known, the limits), and leaves a snapshot or one line about why there is none.
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


def main() -> int:
    """Does what the request says; 0 when a snapshot was written."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    request = json.loads(sys.stdin.buffer.read())
    out = Path(request["out"])
    rows = request["layers"]
    layers = None if rows is None else {row["name"]: LayerInfo.from_dict(row) for row in rows}
    notes = Limits(**request["limits"]).impose()
    try:
        snapshot = read_here(request["path"], layers)
        replace(snapshot, notes=(*snapshot.notes, *notes)).save(out / SNAPSHOT)
    except Exception as error:
        is_known = isinstance(error, CheckpointError)
        reason = str(error) if is_known else f"cannot be read ({type(error).__name__}: {error})"[:300]
        (out / ERROR).write_text(json.dumps({"reason": reason}), encoding="ascii")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
