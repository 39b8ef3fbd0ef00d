"""A copy of a checkpoint with running statistics taken anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nndiag.checkpoints.inference import plain_names
from nndiag.errors import CheckpointError, ConfigurationError
from nndiag.offline.probing import Subject
from nndiag.report import plain_text


def repair(subject: Subject, path: Path, out: Path) -> int:
    """Writes a copy of a checkpoint whose running statistics are those of the data; the original stays.

    Args:
        subject: The model and the data.
        path: The checkpoint: a file of ``torch.save``, or safetensors.
        out: A file that does not exist.

    Returns:
        The number of tensors that were replaced.

    Raises:
        ConfigurationError: there is a file already.
        CheckpointError: the checkpoint cannot be read or does not fit.
    """
    check_free(out)
    if path.is_dir():
        raise CheckpointError(
            f"{plain_text(path, 500)} is a folder: only a checkpoint of one file can be repaired"
        )
    fresh = subject.refreshed(path)
    count = (
        _of_safetensors(path, out, fresh) if path.suffix == ".safetensors" else _of_torch(path, out, fresh)
    )
    if not count:
        raise CheckpointError(
            f"{plain_text(path, 500)} holds no running statistics under the names of the model"
        )
    return count


def check_free(out: Path) -> None:
    """Checks, before anything is computed, that nothing would be overwritten.

    Raises:
        ConfigurationError: there is a file already.
    """
    if out.exists() or out.is_symlink():
        raise ConfigurationError(f"{plain_text(out, 500)} exists already: give the name of a new file.")


def _of_safetensors(path: Path, out: Path, fresh: Mapping[str, Tensor]) -> int:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    count = _replace(tensors, fresh)
    if count:
        save_file(tensors, str(out), metadata=metadata)
    return count


def _of_torch(path: Path, out: Path, fresh: Mapping[str, Tensor]) -> int:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = plain_text(f"{type(error).__name__}: {error}", 200)
        raise CheckpointError(
            f"{plain_text(path, 500)} holds more than tensors and plain values, and cannot be copied: {reason}"
        ) from error
    count = sum(_replace(state, fresh) for state in _states(content))
    if count:
        with contextlib.ExitStack() as stack:
            torch.save(content, stack.enter_context(out.open("xb")))
    return count


def _states(content: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The dicts of a checkpoint that hold tensors by name, outermost first."""
    if not isinstance(content, dict) or depth > 8:
        return
    if any(isinstance(value, Tensor) for value in content.values()):
        yield content
    for value in content.values():
        yield from _states(value, depth + 1)


def _replace(state: dict[str, Any], fresh: Mapping[str, Tensor]) -> int:
    """Puts fresh statistics in the place of those of the same name and shape; the number of them."""
    plain, _ = plain_names(name for name in state if isinstance(name, str))
    count = 0
    for name, known in plain.items():
        old, new = state[name], fresh.get(known)
        if new is not None and isinstance(old, Tensor) and old.shape == new.shape:
            state[name] = new.to(old.dtype)
            count += 1
    return count
