"""Which reader a file needs, told by its first bytes; what else it may be is named, with what to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

from nndiag.checkpoints.contents import Contents, contents_of
from nndiag.checkpoints.files import PlainFile
from nndiag.checkpoints.safetensors_files import read_safetensors
from nndiag.checkpoints.torch_files import Unpickled, read_legacy, read_zip
from nndiag.errors import CheckpointError

ORDER = "the file does not keep the order of layers: they are in the order of their names"
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    (0, b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first"),
    (0, b"BZh", "is compressed with bzip2: unpack it first"),
    (0, b"\xfd7zXZ", "is compressed with xz: unpack it first"),
    (257, b"ustar", "is a tar archive (of PyTorch 0.1, perhaps): save it anew with today's torch.save"),
    (0, b"\x89HDF", "is an HDF5 file (of Keras, perhaps), not a checkpoint of PyTorch"),
    (0, b"GGUF", "is a GGUF file, which holds quantized weights: check the checkpoint it was made from"),
    (0, b"\x93NUMPY", "is an array of NumPy, not a checkpoint of PyTorch"),
    (0, b"<", "is a web page or XML, not a checkpoint: the download may have failed"),
)


def open_file(path: Path, stack: contextlib.ExitStack) -> Contents:
    """A checkpoint that is one file.

    Args:
        path: The file.
        stack: Closes it in the end.

    Raises:
        CheckpointError: it is no checkpoint that can be read.
    """
    file = stack.enter_context(PlainFile(path))
    if _is_safetensors(file):
        return Contents(read_safetensors(file), facts={"format": "safetensors"}, notes=[ORDER])
    root, resolve, kind = unpickled(file)
    contents = contents_of(root, resolve)
    contents.facts["format"] = kind
    return contents


def unpickled(file: PlainFile) -> tuple[*Unpickled, str]:
    """The value of a file of ``torch.save``, what finds its tensors, and the name of the format.

    Raises:
        CheckpointError: it is of another kind.
    """
    head = bytes(file.read(0, min(512, file.size)))
    if not head.strip(b"\0"):
        raise CheckpointError("is empty" if not head else "holds nothing but zeros: was the disk full?")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return *read_zip(file), "torch zip"
    for place, mark, reason in _FOREIGN:
        if head[place : place + len(mark)] == mark:
            raise CheckpointError(reason)
    if head[:1] == b"\x80":
        return *read_legacy(file), "torch legacy"
    raise CheckpointError("is of no kind that is known: expected a file of torch.save or safetensors")


def _is_safetensors(file: PlainFile) -> bool:
    if file.path.suffix == ".safetensors" and file.size:
        head = bytes(file.read(0, min(64, file.size)))
        return not any(head.startswith(mark) for place, mark, _ in _FOREIGN if not place and len(mark) > 3)
    return file.size > 9 and bytes(file.read(7, 2)) == b"\0{"
