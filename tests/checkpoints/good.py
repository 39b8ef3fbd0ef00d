"""One network in every form that a checkpoint of it may have."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import json
import pathlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]


class Color(enum.Enum):
    """A class that the reader does not import."""

    RED = 1


class Settings:
    """Another one."""

    def __init__(self) -> None:
        self.depth = 3


def network() -> nn.Module:
    """A layer of each kind that is inferred."""
    torch.manual_seed(0)
    parts = {
        "stem": nn.Conv2d(3, 8, 3),
        "bn": nn.BatchNorm2d(8),
        "up": nn.ConvTranspose2d(8, 4, 2),
        "embed": nn.Embedding(11, 6),
        "rnn": nn.LSTM(6, 5, bidirectional=True),
        "attention": nn.MultiheadAttention(6, 2),
        "ln": nn.LayerNorm(6),
        "head": nn.Linear(6, 3),
    }
    return nn.ModuleDict(parts)


def state() -> State:
    """Its state, with buffers that have moved."""
    net = network()
    found = dict(net.state_dict())
    found["bn.running_mean"] = torch.arange(8.0)
    found["bn.running_var"] = torch.arange(8.0) + 0.5
    found["bn.num_batches_tracked"] = torch.tensor(41)
    return found


def repacked(path: Path, method: int) -> Path:
    """A zip written anew with another compression."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def _torch(value: Any, name: str = "x.pt", **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(value(), folder / name, **options)
        return folder / name

    return make


def _deflated(folder: Path) -> Path:
    torch.save(state(), folder / "x.pt")
    return repacked(folder / "x.pt", zipfile.ZIP_DEFLATED)


def _on_a_device(folder: Path) -> Path:
    """Storages that say they were on a GPU."""
    buffer = io.BytesIO()
    torch.save(state(), buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    (folder / "x.pth").write_bytes(data)
    return folder / "x.pth"


def _prefixed(*prefixes: str) -> Callable[[], State]:
    return lambda: {"".join(prefixes) + name: tensor for name, tensor in state().items()}


def _turned() -> State:
    """Not contiguous, and slices of a larger one."""
    own = state()
    own["head.weight"] = own["head.weight"].T.contiguous().T
    own["stem.weight"] = torch.cat([own["stem.weight"], own["stem.weight"]])[8:]
    return own


def _parameters() -> dict[str, Any]:
    return {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state().items()}


def _ordered() -> Any:
    return collections.OrderedDict(state())


def _lightning(extra: Any = None) -> Callable[[], Any]:
    return lambda: {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"EarlyStopping{'monitor': 'x'}": {"wait_count": 0, "best_score": torch.tensor(1.0)}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hyper_parameters": {"value": extra() if callable(extra) else extra},
    }


def _safetensors(folder: Path) -> Path:
    save_file(state(), folder / "x.safetensors", metadata={"format": "pt"})
    return folder / "x.safetensors"


def _split() -> list[State]:
    own = list(state().items())
    return [dict(own[::2]), dict(own[1::2])]


def _sharded(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        stem = "model" if suffix == "safetensors" else "pytorch_model"
        places = {}
        for number, part in enumerate(_split(), 1):
            name = f"{stem}-{number:05}-of-00002.{suffix}"
            (save_file if suffix == "safetensors" else torch.save)(part, folder / name)
            places |= dict.fromkeys(part, name)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
        return folder

    return make


def _cache(folder: Path) -> Path:
    """As Hugging Face keeps downloads: links to blobs."""
    home = folder / "models--a--b"
    (home / "blobs").mkdir(parents=True)
    (home / "snapshots" / "1234").mkdir(parents=True)
    _sharded("safetensors")(home / "snapshots" / "1234")
    for number, path in enumerate(sorted((home / "snapshots" / "1234").iterdir())):
        path.rename(home / "blobs" / f"{number}")
        path.symlink_to(f"../../blobs/{number}")
    return home / "snapshots" / "1234"


def _trainer(folder: Path) -> Path:
    save_file(state(), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "trainer_state.json").write_text('{"global_step": 500}')
    return folder


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


HYPERPARAMETERS: dict[str, Any] = {
    "plain": lambda: {"lr": 0.1, "layers": [1, 2]},
    "namespace": lambda: argparse.Namespace(a=1),
    "path": lambda: pathlib.Path("/x"),
    "enum": lambda: Color.RED,
    "object": Settings,
    "class": lambda: nn.ReLU,
    "function": lambda: torch.relu,
    "module": lambda: nn.Linear(2, 2),
    "numpy scalar": lambda: np.float64(3.0),
    "numpy array": lambda: np.ones(3),
    "large numpy array": lambda: np.ones(400_000),
    "defaultdict": lambda: collections.defaultdict(int, a=1),
    "dtype": lambda: torch.bfloat16,
    "device": lambda: torch.device("cpu"),
    "datetime": lambda: datetime.datetime(2020, 1, 1),
    "set": lambda: {1, 2},
    "tuple": lambda: (1, (2, 3)),
    "partial": lambda: functools.partial(torch.relu),
    "numbers": lambda: [
        True,
        False,
        None,
        -1,
        300,
        70_000,
        1 << 80,
        -(1 << 80),
        1.5,
        1j,
        b"a",
        bytearray(b"b"),
        "é",
    ],
    "frozen sets": lambda: frozenset({"a", frozenset({"b"})}),
    "a cycle": _cycle,
}

GOOD: dict[str, Callable[[Path], Path]] = {
    "zip": _torch(state),
    "zip, deflated": _deflated,
    "legacy": _torch(state, _use_new_zipfile_serialization=False),
    "legacy from a GPU": _on_a_device,
    **{f"zip, protocol {n}": _torch(_ordered, pickle_protocol=n) for n in (2, 3, 4, 5)},
    "ordered dict": _torch(_ordered),
    "parameters": _torch(_parameters),
    "turned and sliced": _torch(_turned),
    "turned and sliced, legacy": _torch(_turned, _use_new_zipfile_serialization=False),
    "under model": _torch(lambda: {"model": state(), "iter": 7}),
    "under model_state_dict": _torch(lambda: {"model_state_dict": state(), "epoch": 1}),
    "nested": _torch(lambda: {"net": {"a": {}} | state()}),
    "module.": _torch(_prefixed("module.")),
    "_orig_mod.": _torch(_prefixed("_orig_mod.")),
    "_forward_module.": _torch(_prefixed("_forward_module.")),
    "wrapped twice": _torch(_prefixed("_forward_module.", "module.", "_orig_mod.")),
    "averaged": _torch(lambda: {"n_averaged": torch.tensor(3)} | _prefixed("module.")()),
    "safetensors": _safetensors,
    "safetensors in shards": _sharded("safetensors"),
    "bin in shards": _sharded("bin"),
    "a folder of a trainer": _trainer,
    "a cache": _cache,
    **{f"Lightning, {kind}": _torch(_lightning(make), "x.ckpt") for kind, make in HYPERPARAMETERS.items()},
    "Lightning, legacy": _torch(_lightning(Settings), "x.ckpt", _use_new_zipfile_serialization=False),
}
"""By name; each writes into an empty folder and gives the path to read."""
