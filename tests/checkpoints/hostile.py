"""Files that are broken, or made to do harm, each by name; every one must end in one clear line."""

from __future__ import annotations

import collections
import json
import os
import pickle
import random
import socket
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .forging import Payload, StorageId, archive, legacy, opcodes, payloads, pickled, safetensors, tensor

Maker = Callable[[Path], Path | str]
GOOD = {"w": tensor((2, 2), (2, 1))}
ROWS = {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]}


def _file(data: bytes, name: str = "x.pt") -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _zip(value: Any, **more: Any) -> Maker:
    return _file(archive(pickled(value), **more))


def _saved(folder: Path, value: Any = None, **options: Any) -> bytes:
    torch.manual_seed(0)
    value = nn.Linear(40, 30).state_dict() if value is None else value
    torch.save(value, folder / "saved.pt", **options)
    return (folder / "saved.pt").read_bytes()


def _cut(share: float, **options: Any) -> Maker:
    def make(folder: Path) -> Path:
        data = _saved(folder, **options)
        return _file(data[: int(len(data) * share)])(folder)

    return make


def _flipped(find: bytes, after: int, count: int = 1, **options: Any) -> Maker:
    """Some bytes behind the last place where ``find`` stands are inverted."""

    def make(folder: Path) -> Path:
        data = bytearray(_saved(folder, **options))
        at = data.rfind(find) + after
        data[at : at + count] = bytes(byte ^ 255 for byte in data[at : at + count])
        return _file(bytes(data))(folder)

    return make


def _patched(
    find: bytes, after: int, value: bytes, *, last: bool = False, data: bytes | None = None
) -> Maker:
    """Some bytes of a zip are overwritten."""
    base = bytearray(archive(pickled(GOOD)) if data is None else data)
    at = (base.rfind(find) if last else base.find(find)) + after
    base[at : at + len(value)] = value
    return _file(bytes(base))


def _payload(name: str, wrap: Callable[[bytes], bytes]) -> Maker:
    return lambda folder: _file(wrap(pickled(payloads(folder)[name])))(folder)


def _opcode(name: str) -> Maker:
    return lambda folder: _file(archive(opcodes(folder)[name]))(folder)


def _executable() -> dict[str, Maker]:
    found: dict[str, Maker] = {}
    for name in payloads(Path()):
        found[f"payload {name}, zip"] = _payload(name, archive)
        found[f"payload {name}, legacy"] = _payload(name, legacy)
        found[f"payload {name}, plain"] = _payload(name, lambda data: data)
    return found | {f"opcode {name}": _opcode(name) for name in opcodes(Path())}


LIES: dict[str, Any] = {
    "size beyond storage": tensor((1000,), (1,)),
    "offset beyond storage": tensor((1,), (1,), 99),
    "offset of 2^62": tensor((1,), (1,), 1 << 62),
    "negative offset": tensor((1,), (1,), -1),
    "offset in words": tensor((1,), (1,), "0"),
    "negative stride": tensor((4,), (-1,)),
    "stride of 2^61": tensor((2, 2), (1 << 61, 1)),
    "stride 0 for 2^40 entries": tensor((1 << 40,), (0,)),
    "stride 0 for 2^60 entries": tensor((1 << 30, 1 << 30), (0, 0)),
    "overflowing size": tensor((1 << 62, 4), (0, 0)),
    "negative size": tensor((-4,), (1,)),
    "size of booleans": tensor((True, True), (1, 1)),
    "size of floats": tensor((2.0,), (1,)),
    "size of 65 axes": tensor((1,) * 65, (1,) * 65),
    "size that is a text": tensor("22", (2, 1)),
    "size without end": tensor(tuple(range(100_000)), (1,)),
    "more strides than axes": tensor((2,), (1, 1)),
    "no strides": tensor((2, 2), None),
    "storage that says 2^40 entries": tensor((4,), (1,), numel=1 << 40),
    "storage of -1 entries": tensor((4,), (1,), numel=-1),
    "storage of a text of entries": tensor((4,), (1,), numel="4"),
    "storage that is missing": tensor((4,), (1,), key="17"),
    "storage by a path": tensor((4,), (1,), key="../../data.pkl"),
    "storage by an absolute path": tensor((4,), (1,), key="/etc/passwd"),
    "storage by a list": tensor((4,), (1,), key=[1]),
    "storage of another width": tensor((4,), (1,), kind=torch.DoubleStorage),
    "storage of a foreign class": tensor((4,), (1,), kind=os.system),
    "quantized alone": tensor((4,), (1,), kind=torch.QInt8Storage, numel=4),
    "integers alone": tensor((4,), (1,), kind=torch.IntStorage),
    "tensor of nothing": Payload(torch._utils._rebuild_tensor_v2),
    "tensor of numbers": Payload(torch._utils._rebuild_tensor_v2, 1, 2, 3, 4),
    "untyped without a format": Payload(
        torch._utils._rebuild_tensor_v3,
        StorageId(torch.UntypedStorage, "0", "cpu", 16),
        0,
        (4,),
        (1,),
        False,
        None,
    ),
    "meta of 2^40 entries": Payload(
        torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (1 << 40,), (1,), False
    ),
    "sparse of 2^60 entries": Payload(
        torch._utils._rebuild_sparse_tensor, "sparse_coo", (GOOD["w"], GOOD["w"], (1 << 30, 1 << 30), True)
    ),
    "subclass": Payload(
        torch._tensor._rebuild_from_type_v2, torch._utils._rebuild_tensor_v2, os.system, (1,), {}
    ),
}

STRUCTURES: dict[str, bytes] = {
    "a list": pickled([1, 2]),
    "a number": pickled(7),
    "nothing": pickled(None),
    "a text": pickled("state_dict"),
    "a dict of numbers": pickled({"a": 1}),
    "an empty dict": pickled({}),
    "an empty state dict": pickled({"state_dict": {}, "global_step": 3}),
    "a whole module": pickled(nn.Linear),
    "a class as the model": pickled(
        {"model": nn.Linear(2, 2).__class__() if False else Payload(nn.Linear, 2, 2)}
    ),
    "a bytearray of 10^11": b"\x80\x02cbuiltins\nbytearray\n\x8a\x05"
    + (10**11).to_bytes(5, "little")
    + b"\x85R.",
    "a range of 10^18": b"\x80\x02cbuiltins\nrange\n\x8a\x08" + (10**18).to_bytes(8, "little") + b"\x85R.",
    "a number of 64 MB": b"\x80\x02\x8b" + struct.pack("<I", 1 << 26) + b"\x7f" * 100 + b".",
    "a decimal number without end": b"I" + b"9" * 60_000 + b"\n.",
    "a line without end": b"c" + b"a" * 200_000,
    "a text that says 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
    "bytes that say 2^63": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 63) + b"a.",
    "a text that is no UTF-8": b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
    "a list inside itself 200,000 deep": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "dicts 100,000 deep": b"\x80\x02" + b"}U\x01a" * 100_000 + b"N" + b"s" * 100_000 + b".",
    "a key of tuples 100,000 deep": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "a set of tuples 100,000 deep": b"\x80\x04\x8f()" + b"\x85" * 100_000 + b"\x90.",
    "2^27 lists": b"\x80\x02]q\x00"
    + b"".join(b"]q%c(h%ch%ce" % (i, i - 1, i - 1) for i in range(1, 9))
    + b".",
    "2^40 dicts": b"\x80\x02}q\x00"
    + b"".join(
        b"}q%c(U\x01ah%cU\x01bh%cu" % (i, i - 1, i - 1) for i in (*range(1, 10), *range(11, 46))
    ).replace(b"h\x0a", b"h\x09")
    + b".",
    "a dict inside itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "a long memo": b"\x80\x02N"
    + b"".join(b"r" + struct.pack("<I", 0xFFFFFFFF - i) for i in range(50_000))
    + b".",
    "a memo that is empty": b"\x80\x02h\x05.",
    "an empty stack": b"\x80\x02.",
    "a mark without end": b"\x80\x02(.",
    "items without a mark": b"\x80\x02u.",
    "an odd number of items": b"\x80\x02}(Nu.",
    "an unknown instruction": b"\x80\x02\xff.",
    "no end": b"\x80\x02}",
    "no bytes": b"",
    "a frame that lies": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "a call of a dict with 2": b"\x80\x02ccollections\nOrderedDict\nK\x02R.",
    "a dict from numbers": b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02e\x85R.",
    "a codec": b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x04\x00\x00\x00hex_\x86R.",
    "a buffer that is not there": b"\x80\x05\x97.",
    "an id of nothing": b"\x80\x02NQ.",
    "an id that is too short": b"\x80\x02U\x07storage\x85Q.",
    "a quotation without end": b"S'abc\n.",
    "lists copied again and again": b"\x80\x02]("
    + b"N" * 3000
    + b"eq\x00"
    + b"0cbuiltins\nset\nh\x00\x85R" * 3000
    + b".",
}


def _bomb(folder: Path) -> Path:
    """30 million instructions in 60 kB."""
    data = archive(b"\x80\x02]" + b"]0" * 15_000_000 + b".", method=zipfile.ZIP_DEFLATED)
    return _file(data)(folder)


def _torchscript(folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(folder / "x.pt"))
    return folder / "x.pt"


def _two(first: str, second: str) -> bytes:
    data = archive(pickled(GOOD), {first: b"1234", second: b"1234"})
    return data.replace(second.encode(), first.encode())


END = b"PK\x05\x06"
CENTRAL = b"PK\x01\x02"
ZIPS: dict[str, Maker] = {
    **{f"zip cut at {n}/8": _cut(n / 8) for n in range(1, 8)},
    "zip without its last byte": _cut(0.9999),
    "zip with a flipped weight": _flipped(b"archive/data/1", -300),
    "zip with a flipped pickle": _flipped(b"_rebuild_tensor_v2", 2),
    "zip with a flipped directory": _flipped(CENTRAL, 1),
    "zip with a flipped local header": _patched(b"PK\x03\x04", 1, b"X"),
    "zip without an end": _flipped(END, 0, 4),
    "zip whose directory is elsewhere": _patched(END, 16, b"\xff\xff\xff\x7f"),
    "zip whose directory is huge": _patched(END, 12, b"\xff\xff\xff\x7f"),
    "zip of 65,535 entries that are not there": _patched(END, 10, b"\xff\xff"),
    "zip with an entry elsewhere": _patched(CENTRAL, 42, b"\xff\xff\xff\x7f", last=True),
    "zip that is encrypted": _patched(CENTRAL, 8, b"\x01\x00"),
    "zip of an unknown compression": _patched(CENTRAL, 10, b"\x63\x00"),
    "zip with sizes that disagree": _patched(CENTRAL, 24, b"\xff\xff\x00\x00"),
    "zip with a wrong checksum": _patched(CENTRAL, 16, b"\x00\x00\x00\x00"),
    "zip with a name beyond its end": _patched(CENTRAL, 28, b"\xff\xff", last=True),
    "zip with two entries of one name": _file(_two("data/a", "data/b")),
    "zip with overlapping entries": _patched(CENTRAL, 42, b"\x01\x00\x00\x00", last=True),
    "zip that unpacks to more than it says": _patched(
        *(CENTRAL, 24, b"\x01\x00\x00\x00"), data=archive(pickled(GOOD), method=zipfile.ZIP_DEFLATED)
    ),
    "zip that unpacks to less than it says": _patched(
        *(CENTRAL, 24, b"\xff\xff\x00\x00"), data=archive(pickled(GOOD), method=zipfile.ZIP_DEFLATED)
    ),
    "zip that says it unpacks to 4 GB": _patched(
        *(CENTRAL, 24, b"\xfe\xff\xff\xff"), data=archive(pickled(GOOD), method=zipfile.ZIP_DEFLATED)
    ),
    "zip with a damaged stream": _patched(
        *(b"PK\x03\x04", 46, b"\xff" * 8), data=archive(pickled(GOOD), method=zipfile.ZIP_DEFLATED)
    ),
    "zip of other files": _file(archive(b"x").replace(b"data.pkl", b"data.txt")),
    "zip with two pickles": _file(archive(pickled(GOOD), {"more/data.pkl": pickled(GOOD)})),
    "zip of the other byte order": _file(archive(pickled(GOOD), {"byteorder": b"big"})),
    "zip of arrays": _file(archive(b"x", root="a").replace(b"data.pkl", b"data.npy")),
    "zip that is empty": _file(b"PK\x05\x06" + b"\0" * 18),
    "TorchScript": _torchscript,
    "TorchScript by its constants": _file(archive(pickled(GOOD), {"constants.pkl": b"."})),
    "exported program": _file(archive(pickled(GOOD), {"models/model.json": b"{}"})),
    "15 million instructions in 60 kB": _bomb,
}

VIEW = Payload(torch._utils._rebuild_tensor, StorageId(torch.FloatStorage, "0", "", 4, 7), 0, (4,), (1,))
LEGACY: dict[str, Maker] = {
    **{f"legacy cut at {n}/6": _cut(n / 6, _use_new_zipfile_serialization=False) for n in range(1, 6)},
    "legacy of an unknown version": _file(legacy(pickled(GOOD)).replace(b"M\xe9\x03.", b"M\xea\x03.")),
    "legacy of the other byte order": _file(legacy(pickled(GOOD), system={"little_endian": False})),
    "legacy with storages of -1 bytes": _file(legacy(pickled(GOOD), storages=struct.pack("<q", -1))),
    "legacy with storages of 2^62 bytes": _file(legacy(pickled(GOOD), storages=struct.pack("<q", 1 << 62))),
    "legacy without storages": _file(legacy(pickled(GOOD), keys=(), storages=b"")),
    "legacy with a storage nobody named": _file(legacy(pickled(GOOD), keys=("0", "1"))),
    "legacy with a storage twice": _file(legacy(pickled(GOOD), keys=("0", "0"))),
    "legacy with numbers for storages": _file(legacy(pickled(GOOD), keys=(1, 2))),
    "legacy with a view of nothing": _file(legacy(pickled({"w": VIEW}))),
    "legacy with a module's source": _file(legacy(b"\x80\x02(U\x06moduleU\x01aNNtQ.")),
}

SAFETENSORS: dict[str, bytes] = {
    "no bytes": b"",
    "7 bytes": b"1234567",
    "header of 2^63": safetensors({"w": ROWS}, length=1 << 63),
    "header of 200 MB": safetensors({"w": ROWS}, length=200_000_000),
    "header beyond the end": safetensors({"w": ROWS}, length=10_000),
    "header that is not JSON": safetensors(b"{not json"),
    "header that is a list": safetensors([1, 2]),
    "header 100,000 deep": safetensors(b'{"a":' * 100_000),
    "header that is no UTF-8": safetensors(b'{"\xff": 1}'),
    "header of nothing": safetensors({}, data=b""),
    "two tensors of one name": safetensors(
        b'{"w":{"dtype":"F32","shape":[10],"data_offsets":[0,40]},"w":{"dtype":"F32","shape":[10],"data_offsets":[0,40]}}'
    ),
    "overlap": safetensors({"a": ROWS, "b": ROWS}),
    "hole": safetensors({"w": ROWS | {"data_offsets": [4, 44]}}, data=b"\0" * 44),
    "offsets beyond the end": safetensors({"w": ROWS | {"shape": [1000], "data_offsets": [0, 4000]}}),
    "offsets in reverse": safetensors({"w": ROWS | {"data_offsets": [40, 0]}}),
    "offsets in words": safetensors({"w": ROWS | {"data_offsets": ["0", "40"]}}),
    "three offsets": safetensors({"w": ROWS | {"data_offsets": [0, 20, 40]}}),
    "shape that does not fit": safetensors({"w": ROWS | {"shape": [11]}}),
    "negative shape": safetensors({"w": ROWS | {"shape": [-10]}}),
    "overflowing shape": safetensors({"w": ROWS | {"shape": [1 << 40, 1 << 40]}}),
    "shape of booleans": safetensors({"w": ROWS | {"shape": [True]}}),
    "shape of floats": safetensors({"w": ROWS | {"shape": [10.0]}}),
    "shape of an infinite number": safetensors(
        b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,40]}}'
    ),
    "unknown format alone": safetensors({"w": ROWS | {"dtype": "F13"}}),
    "format that is a number": safetensors({"w": ROWS | {"dtype": 32}}),
    "half a byte alone": safetensors({"w": ROWS | {"dtype": "F4", "shape": [80]}}),
    "half a byte that does not fit": safetensors({"w": ROWS | {"dtype": "F4"}}),
    "entry that is a number": safetensors({"w": 7}),
    "cut data": safetensors({"w": ROWS})[:-8],
    "bytes behind the end": safetensors({"w": ROWS}) + b"junk",
    "a zip by that name": archive(pickled([1])),
    "integers alone": safetensors({"w": ROWS | {"dtype": "I32"}}),
}

NO_FILES = {
    "one byte": b"P",
    "text": b"hello\n" * 20,
    "web page": b"<html>404</html>",
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
    "gzip": b"\x1f\x8b" + b"\0" * 100,
    "zeros": b"\0" * 5000,
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "GGUF": b"GGUF\x03\0\0\0" + b"\0" * 100,
    "NumPy": b"\x93NUMPY\x01\x00" + b"\0" * 100,
    "tar": b"a" * 257 + b"ustar\0" + b"\0" * 300,
    "random bytes": random.Random(0).randbytes(3000),
    "pickled numbers": pickle.dumps({"w": [1.0, 2.0]}),
    "pickled by protocol 0": pickle.dumps(collections.OrderedDict(w=[1.0]), 0),
    "pickled by protocol 5": pickle.dumps({"w": [1.0]}, 5),
}


def _index(place: Any, name: str = "pytorch_model.bin.index.json") -> Maker:
    def make(folder: Path) -> Path:
        is_text = isinstance(place, str) and place.startswith("\1")
        data = place[1:] if is_text else json.dumps({"weight_map": {"w": place}})
        (folder / "model").mkdir()
        (folder / "model" / name).write_text(data, encoding="utf-8")
        (folder / "outside.bin").write_bytes(archive(pickled(GOOD)))
        (folder / "model" / "link.bin").symlink_to(folder / "outside.bin")
        (folder / "model" / "own.bin").write_bytes(archive(pickled({"other": GOOD["w"]})))
        os.mkfifo(folder / "model" / "pipe.bin")
        return folder / "model"

    return make


def _folder(*names: str, data: bytes = b"") -> Maker:
    def make(folder: Path) -> Path:
        (folder / "model").mkdir()
        for name in names:
            (folder / "model" / name).parent.mkdir(exist_ok=True)
            (folder / "model" / name).write_bytes(data)
        return folder / "model"

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "x.pt")
    return folder / "x.pt"


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as plug:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        try:
            plug.bind("x.pt")
        finally:
            os.chdir(here)
    return folder / "x.pt"


def _circle(folder: Path) -> Path:
    (folder / "x.pt").symlink_to(folder / "y.pt")
    (folder / "y.pt").symlink_to(folder / "x.pt")
    return folder / "x.pt"


PLACES: dict[str, Maker] = {
    "path that does not exist": lambda folder: folder / "nothing.pt",
    "path with a zero": lambda folder: f"{folder}/x\0.pt",
    "empty path": lambda folder: "",
    "path that is too long": lambda folder: folder / ("x" * 5000),
    "address": lambda folder: "https://example.invalid/model.pt",
    "address of a bucket": lambda folder: "s3://bucket/model.pt",
    "address of a file": lambda folder: f"file://{folder}/x.pt",
    "pipe": _pipe,
    "socket": _socket,
    "device": lambda folder: "/dev/zero",
    "terminal": lambda folder: "/dev/tty",
    "links in a circle": _circle,
    "empty folder": _folder(),
    "folder of other files": _folder("readme.md", "train.py"),
    "folder of torch.distributed.checkpoint": _folder(".metadata", "__0_0.distcp", data=b"cos\nsystem\n."),
    "folder of DeepSpeed": _folder("zero_to_fp32.py", "latest"),
    "parts without an index": _folder("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    "folder of several": _folder("a.pt", "b.pt"),
    "folder with a broken model": _folder("model.safetensors", data=b"12345"),
    **{
        f"index names {place!r}": _index(place)
        for place in (
            *("../outside.bin", "/etc/passwd", "sub/../../outside.bin", "http://x/y", "link.bin", "a\0.bin"),
            *(
                "C:\\x",
                "pipe:cat",
                "pipe.bin",
                "..",
                ".",
                "",
                "x" * 300,
                "missing.bin",
                "own.bin",
                ["a"],
                None,
                7,
            ),
        )
    },
    "index that is not JSON": _index("\1{"),
    "index that is a list": _index("\1[]"),
    "index of nothing": _index('\1{"weight_map": {}}'),
    "index 100,000 deep": _index("\1" + '{"weight_map":' * 100_000),
    "index with one name twice": _index('\1{"weight_map": {"a": "own.bin", "a": "own.bin"}}'),
}

KINDS: dict[str, dict[str, Maker]] = {
    "pickles that call something": _executable(),
    "tensors that lie": {f"tensor: {name}": _zip({"w": lie}) for name, lie in LIES.items()},
    "pickles that are damaged or run away": {
        **{f"pickle: {name}": _file(archive(data)) for name, data in STRUCTURES.items()},
        **{f"legacy pickle: {name}": _file(legacy(data)) for name, data in list(STRUCTURES.items())[::4]},
    },
    "zip archives": ZIPS,
    "legacy files": LEGACY,
    "safetensors": {f"safetensors: {name}": _file(d, "x.safetensors") for name, d in SAFETENSORS.items()},
    "other files": {f"no file: {name}": _file(data) for name, data in NO_FILES.items()},
    "paths, folders and indexes": PLACES,
}
HOSTILE: dict[str, Maker] = {name: make for kind in KINDS.values() for name, make in kind.items()}
"""By name; each writes into an empty folder and gives the path to read."""
