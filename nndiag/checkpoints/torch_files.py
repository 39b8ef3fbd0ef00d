"""Files of ``torch.save``: the zip archive, and the single pickle that came before it (PyTorch 1.5 and older)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nndiag.checkpoints.files import PlainFile, Region, Stretch
from nndiag.checkpoints.pickles import ByteReader, Machine
from nndiag.checkpoints.rebuilding import Global, Storage, Stub, TensorRef, storage_dtype
from nndiag.checkpoints.tensors import DTYPES, QUANTIZED, STORAGES, Stored, strided, unread
from nndiag.checkpoints.zip_archive import Archive
from nndiag.errors import CheckpointError

_LEGACY = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LARGEST_PICKLE = 512 << 20
_MOST_STORAGES = 500_000

Unpickled = tuple[Any, Callable[[TensorRef], Stored]]
"""The value of a file, and what finds the bytes of its tensors."""


def read_zip(file: PlainFile) -> Unpickled:
    """What ``torch.save`` wrote.

    Raises:
        CheckpointError: the archive is another one, or damaged.
    """
    archive = Archive(file)
    prefix = _prefix(archive)
    data = archive.region(f"{prefix}data.pkl")
    if data.size > _LARGEST_PICKLE:
        raise CheckpointError("is refused: its pickle is absurdly large")
    if _byte_order(archive, prefix) != b"little":
        raise CheckpointError("was written on a machine of the other byte order")

    def region(storage: Storage) -> Region:
        name = f"{prefix}data/{storage.key}"
        if name not in archive.entries:
            raise CheckpointError("is incomplete: the bytes of a tensor are missing")
        return archive.region(name)

    # A whole read verifies the checksum before the first instruction is believed.
    whole = _Bytes(bytes(data.read(0, data.size)))
    root = Machine(ByteReader(whole), _persistent).read()
    return root, lambda tensor: _resolve(tensor, region, str(file.path))


def _byte_order(archive: Archive, prefix: str) -> bytes:
    """Older files do not say it."""
    if f"{prefix}byteorder" not in archive.entries:
        return b"little"
    region = archive.region(f"{prefix}byteorder")
    return bytes(region.read(0, min(16, region.size))).strip()


class _Bytes:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, start: int, length: int) -> bytearray:
        """Some of them."""
        return bytearray(self._data[start : start + length])


def _prefix(archive: Archive) -> str:
    """The folder inside an archive of ``torch.save``; what else comes as a zip is named."""
    names = archive.entries
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if any(name.rpartition("/")[2] == "constants.pkl" or "/code/" in f"/{name}" for name in names):
        raise CheckpointError(
            "is a TorchScript archive, which holds code: load it with torch.jit.load where you trust it, and save"
            " its state_dict() with torch.save"
        )
    if any("models/" in name and name.endswith(".json") for name in names):
        raise CheckpointError(
            "is an exported program (torch.export), which holds code: save the state_dict() of the model instead"
        )
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError("holds NumPy arrays without a model: save model.state_dict() with torch.save")
    if len(pickles) != 1 or pickles[0].count("/") > 1:
        raise CheckpointError("is a zip archive, but not one that torch.save wrote")
    return pickles[0].removesuffix("data.pkl")


def read_legacy(file: PlainFile) -> Unpickled:
    """What ``torch.save`` of PyTorch 1.5 and older wrote.

    Raises:
        CheckpointError: it is another pickle, or damaged.
    """
    source = ByteReader(file)
    magic = Machine(source, Stub).read()
    if magic != _LEGACY:
        raise CheckpointError(
            f"is a plain pickle ({type(magic).__name__}), which torch.save did not write: save model.state_dict()"
            " with torch.save"
        )
    protocol, system = Machine(source, Stub).read(), Machine(source, Stub).read()
    if protocol != _LEGACY_PROTOCOL:
        raise CheckpointError("is of a version of the format that is not known")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError("was written on a machine of the other byte order")
    widths: dict[str, int] = {}

    def persistent(name: Any) -> Any:
        found = _persistent(name)
        if isinstance(found, Storage):
            widths[found.key] = _width(found)
        return found

    root = Machine(source, persistent).read()
    keys = Machine(source, Stub).read()
    regions = _legacy_regions(file, source.position, keys, widths)

    def region(storage: Storage) -> Region:
        if storage.key not in regions:
            raise CheckpointError("is incomplete: the bytes of a tensor are missing")
        return regions[storage.key]

    return root, lambda tensor: _resolve(tensor, region, str(file.path))


def _legacy_regions(file: PlainFile, at: int, keys: Any, widths: Mapping[str, int]) -> dict[str, Region]:
    """Where the bytes of each storage lie: behind the pickles, each behind the number of its entries."""
    if not isinstance(keys, list) or len(keys) > _MOST_STORAGES:
        raise CheckpointError("is damaged: its list of storages makes no sense")
    regions: dict[str, Region] = {}
    for key in keys:
        if not isinstance(key, str) or key in regions or key not in widths:
            raise CheckpointError("is damaged: its list of storages makes no sense")
        size = int.from_bytes(file.read(at, 8), "little", signed=True) * widths[key]
        regions[key] = Stretch(file, at + 8, size)
        at += 8 + size
    return regions


def _persistent(name: Any) -> Any:
    """The storage that an id names; a stub for other ids (source code of modules, for one)."""
    if not isinstance(name, tuple) or len(name) < 5 or name[0] != "storage":
        return Stub("persistent id")
    kind, key, numel = name[1], name[2], name[4]
    view = name[5] if len(name) > 5 else None
    if not isinstance(kind, Global) or not isinstance(key, (str, int)) or type(numel) is not int or numel < 0:
        raise CheckpointError("is damaged: it names the bytes of a tensor in an unknown way")
    start = 0
    if isinstance(view, tuple) and len(view) == 3 and type(view[1]) is int and view[1] >= 0:
        start = view[1]
    elif view is not None:
        raise CheckpointError("is damaged: it names the bytes of a tensor in an unknown way")
    return Storage(kind.name.rpartition(".")[2], str(key), numel, start)


def _width(storage: Storage) -> int:
    dtype = STORAGES.get(storage.kind)
    if dtype is not None:
        return dtype.itemsize
    return 4 if storage.kind == "QInt32Storage" else 1


def _resolve(tensor: TensorRef, region: Callable[[Storage], Region], path: str) -> Stored:
    storage = tensor.storage
    kind = storage_dtype(storage, tensor.dtype)
    if storage.kind in QUANTIZED:
        return unread(storage.kind, "quantized tensor", tensor.shape)
    dtype = DTYPES.get(kind)
    if dtype is None:
        return unread(kind[:80], f"numbers of an unknown format ({kind[:80]})", tensor.shape)
    found = region(storage)
    if (storage.start + storage.numel) * _width(storage) > found.size:
        raise CheckpointError("holds a tensor that says it has more bytes than there are")
    offset = tensor.offset + storage.start if type(tensor.offset) is int else None
    return strided(found, dtype, offset, tensor.shape, tensor.strides, (path, storage.key))
