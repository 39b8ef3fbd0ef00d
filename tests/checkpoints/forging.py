"""Builds files of checkpoints byte by byte, so that they can lie; payloads only ever create one marker file."""

from __future__ import annotations

import collections
import importlib
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

MARKER = "EXECUTED"


class Payload:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class StorageId:
    """Pickled as the id of a storage."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", *value.parts) if isinstance(value, StorageId) else None


def pickled(value: Any, protocol: int = 2) -> bytes:
    """With storages as ids."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(
    size: Any, stride: Any, offset: Any = 0, *, numel: Any = 4, key: Any = "0", kind: Any = torch.FloatStorage
) -> Payload:
    """A tensor as ``torch.save`` describes it, with whatever numbers."""
    storage = StorageId(kind, key, "cpu", numel)
    arguments = (storage, offset, size, stride, False, collections.OrderedDict())
    return Payload(torch._utils._rebuild_tensor_v2, *arguments)


def archive(
    pickle_: bytes,
    entries: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> bytes:
    """A zip as ``torch.save`` writes it, with one storage of four floats."""
    files = {
        "data.pkl": pickle_,
        "byteorder": b"little",
        "data/0": struct.pack("<4f", 1, 2, 3, 4),
        "version": b"3\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in (files | (entries or {})).items():
            file.writestr(f"{root}/{name}", data)
    return buffer.getvalue()


def legacy(pickle_: bytes, *, keys: Any = ("0",), storages: bytes | None = None, system: Any = None) -> bytes:
    """A file as PyTorch 1.5 wrote it."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    info = {"protocol_version": 1001, "little_endian": True} | (system or {})
    tail = struct.pack("<q4f", 4, 1, 2, 3, 4) if storages is None else storages
    return head + pickle.dumps(info, 2) + pickle_ + pickle.dumps(list(keys), 2) + tail


def safetensors(header: Any, data: bytes = b"\0" * 40, length: int | None = None) -> bytes:
    """A file of safetensors with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def payloads(folder: Path) -> dict[str, Any]:
    """What would run if a name in a file were called."""
    marker = folder / MARKER
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch '{marker}'"),
        "exec": Payload(exec, code),
        "eval": Payload(eval, code),
        "open": Payload(open, str(marker), "w"),
        "touch": Payload(Path.touch, marker),
        "mkdir": Payload(os.mkdir, str(marker)),
        "getattr": Payload(getattr, Payload(importlib.import_module, "os"), "system"),
        "popen": Payload(importlib.import_module("subprocess").getoutput, f"touch '{marker}'"),
        "runpy": Payload(importlib.import_module("runpy").run_path, str(marker)),
        "torch.load": Payload(torch.load, str(marker)),
        "torch.hub": Payload(torch.hub.load, "x/y", "z"),
        "numpy.load": Payload(importlib.import_module("numpy").load, str(marker)),
        "load from bytes": Payload(torch.storage._load_from_bytes, pickle.dumps(Payload(exec, code))),
        "partial": Payload(importlib.import_module("functools").reduce, os.system, [f"touch '{marker}'"]),
    }


def opcodes(folder: Path) -> dict[str, bytes]:
    """The same by every instruction that calls something."""
    marker = str(folder / MARKER).encode()
    short = b"\x8c" + bytes([len(marker)]) + marker
    text = b"X" + struct.pack("<I", len(marker)) + marker
    mode = b"\x8c\x01w"
    return {
        "GLOBAL REDUCE": b"\x80\x02cio\nopen\n" + text + b"X\x01\x00\x00\x00w\x86R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02io\x8c\x04open\x93" + short + mode + b"\x86R.",
        "INST": b"(S'" + marker + b"'\nS'w'\niio\nopen\n.",
        "OBJ": b"(cio\nopen\nS'" + marker + b"'\nS'w'\no.",
        "NEWOBJ": b"\x80\x02cio\nopen\n" + text + b"X\x01\x00\x00\x00w\x86\x81.",
        "NEWOBJ_EX": b"\x80\x04\x8c\x02io\x8c\x04open\x93" + short + mode + b"\x86}\x92.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "BUILD": b"\x80\x02cio\nopen\n)\x81}X\x01\x00\x00\x00a" + text + b"sb.",
        "PERSID": b"Pposix.system\n.",
        "BINPERSID": b"\x80\x02cio\nopen\n" + text + b"\x85RQ.",
        "dotted": b"\x80\x04\x8c\x02os\x8c\x0bpath.exists\x93" + short + b"\x85R.",
    }
