"""Folders: one checkpoint in several files, or several checkpoints in a row."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path
from typing import Any

from nndiag.checkpoints.contents import Contents, contents_of, optimizer_of
from nndiag.checkpoints.files import PlainFile
from nndiag.checkpoints.formats import ORDER, open_file, unpickled
from nndiag.checkpoints.safetensors_files import natural, read_json, read_safetensors
from nndiag.checkpoints.tensors import Stored
from nndiag.errors import CheckpointError

_STEMS = ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
_WHOLE = tuple(f"{stem}.{ending}" for ending in ("safetensors", "bin") for stem in _STEMS)
_INDEXES = tuple(f"{name}.index.json" for name in _WHOLE)
_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
_NOT_A_MODEL = re.compile(
    r"^(optimizer|scheduler|scaler|training_args|rng_state\w*|random_states\w*|sampler\w*)\."
)
_SHARD = re.compile(r"-\d+-of-\d+\.")
_STEP = re.compile(
    r"(?:^|[^a-z])(?:global_?step|step|iter|iteration|checkpoint|ckpt)s?[=_-]?(\d{1,15})(?!\d)"
)
_MOST_NAMES = 100_000
_MOST_SHARDS = 2_000


def open_checkpoint(path: Path, stack: contextlib.ExitStack) -> Contents:
    """A checkpoint: a file, or a folder with the files of one.

    Args:
        path: Where it is.
        stack: Closes its files in the end.

    Raises:
        CheckpointError: there is none that can be read.
    """
    if not path.is_dir():
        return open_file(path, stack)
    names = _names(path)
    index = next((name for name in _INDEXES if name in names), None)
    if index is not None:
        contents = _sharded(path, index, stack)
    elif (whole := next((name for name in _WHOLE if name in names), None)) is not None:
        contents = open_file(path / whole, stack)
    else:
        found = checkpoints_in(path)
        if len(found) > 1:
            raise CheckpointError(f"holds {len(found)} checkpoints: read them as a series")
        return open_checkpoint(found[0], stack)
    _read_state(path, names, contents, stack)
    return contents


def _hint(path: Path, names: set[str]) -> str:
    """Where Lightning has put the checkpoints of a run, or what the folder holds instead."""
    if "checkpoints" in names and (path / "checkpoints").is_dir():
        return ": those of the run are in its folder checkpoints"
    return ": it holds the record of a run, which nndiag report reads" if "nndiag.jsonl" in names else ""


def checkpoints_in(path: Path) -> tuple[Path, ...]:
    """The checkpoints at a path: itself where it is one, else those in the folder, by the numbers in their names.

    Raises:
        CheckpointError: there is none, or the folder is of a kind that cannot be read.
    """
    if not path.is_dir():
        return (path,)
    names = _names(path)
    if names & {*_INDEXES, *_WHOLE}:
        return (path,)
    found = [path / name for name in names if _is_checkpoint(path / name)]
    if not found:
        if any(_SHARD.search(name) for name in names):
            raise CheckpointError(
                "holds parts of a checkpoint without the index that says how they belong together"
            )
        raise CheckpointError(f"is a folder without a checkpoint in it{_hint(path, names)}")
    return tuple(sorted(found, key=lambda each: natural(each.name)))


def step_in_name(path: Path) -> int | None:
    """The step that a path's name gives, as ``epoch=3-step=400.ckpt`` or ``checkpoint-400`` do."""
    found = _STEP.findall(path.name.lower())
    return int(found[-1]) if found else None


def _names(folder: Path) -> set[str]:
    """Names in a folder that is not of a kind that runs code when it is read."""
    with os.scandir(folder) as entries:
        names = {entry.name for entry in itertools.islice(entries, _MOST_NAMES + 1)}
    if len(names) > _MOST_NAMES:
        raise CheckpointError("is a folder with more files than are looked through")
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            "is a torch.distributed.checkpoint folder, whose metadata run code when they are read: where you trust"
            " it, convert it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
        )
    if "zero_to_fp32.py" in names or any(name.startswith("mp_rank_") for name in names):
        raise CheckpointError(
            "is a DeepSpeed folder: where you trust it, join its parts with its zero_to_fp32.py and check the result"
        )
    return names


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return not path.name.startswith(".") and bool(_names(path) & {*_INDEXES, *_WHOLE})
    has_name = path.suffix in _SUFFIXES and not _NOT_A_MODEL.match(path.name) and not _SHARD.search(path.name)
    return has_name and path.is_file()


def _sharded(folder: Path, index: str, stack: contextlib.ExitStack) -> Contents:
    with PlainFile(folder / index) as file:
        places = read_json(file, "its index").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError("is damaged: its index says of no tensor where it is")
    shards: dict[str, dict[str, Stored]] = {}
    tensors: dict[str, Stored] = {}
    for name, place in sorted(places.items(), key=lambda item: natural(item[0])):
        file_name = plain_name(folder, place)
        if file_name not in shards:
            if len(shards) >= _MOST_SHARDS:
                raise CheckpointError("is a folder with more parts than are read")
            shards[file_name] = _shard(folder / file_name, stack)
        if name not in shards[file_name]:
            raise CheckpointError("is incomplete: its index names a tensor that is not in its file")
        tensors[name] = shards[file_name][name]
    return Contents(tensors, facts={"format": f"{len(shards)} shards"}, notes=[ORDER])


def _shard(path: Path, stack: contextlib.ExitStack) -> dict[str, Stored]:
    file = stack.enter_context(PlainFile(path))
    if path.suffix == ".safetensors":
        return read_safetensors(file)
    root, resolve, _ = unpickled(file)
    return contents_of(root, resolve).tensors


def plain_name(folder: Path, name: Any) -> str:
    """The name of a file in a folder, as an index gives it.

    Raises:
        CheckpointError: it leads anywhere else. Links into the ``blobs`` folder of a Hugging Face cache may.
    """
    is_plain = isinstance(name, str) and 0 < len(name) < 256 and not set(name) & set("/\\\0:")
    if not is_plain or name in (".", ".."):
        raise CheckpointError("is refused: its index names a file that is not beside it")
    base = folder.resolve()
    target = (base / name).resolve()
    if target.parent not in (base, base.parent.parent / "blobs"):
        raise CheckpointError("is refused: its index names a link that leads out of its folder")
    return str(name)


def _read_state(folder: Path, names: set[str], contents: Contents, stack: contextlib.ExitStack) -> None:
    """What a Hugging Face trainer leaves beside the weights."""
    if "trainer_state.json" in names:
        with PlainFile(folder / "trainer_state.json") as file:
            step = read_json(file, "its trainer_state.json").get("global_step")
        if contents.step is None and type(step) is int and 0 <= step < 1 << 53:
            contents.step = step
    if "optimizer.pt" in names and not contents.optimizers:
        root, resolve, _ = unpickled(stack.enter_context(PlainFile(folder / "optimizer.pt")))
        found = optimizer_of(root, resolve)
        contents.optimizers += [] if found is None else [found]


def largest_file(path: Path) -> int:
    """Bytes of the largest file that reading a checkpoint may touch; 0 where there is none."""
    below = itertools.islice(path.iterdir(), _MOST_NAMES) if path.is_dir() else (path,)
    return max((each.stat().st_size for each in below if each.is_file()), default=0)
