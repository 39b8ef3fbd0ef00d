"""Models and data named on the command line: what runs the user's own code."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nndiag.checkpoints import find, read
from nndiag.checkpoints.contents import SETTINGS
from nndiag.errors import ConfigurationError
from nndiag.offline.probing import taken
from nndiag.report import plain_text


def model_of(place: str) -> nn.Module:
    """The module at an import path, or what the function there returns.

    Args:
        place: ``package.module:name``.

    Raises:
        ConfigurationError: there is none, or the code there fails.
    """
    found = _made("--model", place, nn.Module)
    if not isinstance(found, nn.Module):
        raise ConfigurationError.expected(
            f"--model {place}", "a torch.nn.Module, or a function of one", found
        )
    return found


def data_of(place: str) -> list[Any]:
    """The batches at an import path, or what the function there returns.

    Args:
        place: ``package.module:name``.

    Raises:
        ConfigurationError: there is nothing to iterate over, or the code there fails.
    """
    found = _made("--data", place, Iterable)
    if not isinstance(found, Iterable):
        raise ConfigurationError.expected(
            f"--data {place}", "an iterable of batches, or a function of one", found
        )
    return taken(found)[0]  # it may be an iterator, which gives them once


def lightning_of(place: str, paths: Sequence[Path]) -> nn.Module:
    """A module of the class at an import path, made with the plain hyperparameters of the first checkpoint.

    Only numbers, texts, booleans and flat lists of them become arguments, and only those that the class takes.
    ``load_from_checkpoint`` is never called.

    Args:
        place: ``package.module:Class`` or ``package.module.Class``.
        paths: Checkpoints, or folders of them.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigurationError: there is no such class, or it cannot be made with these arguments.
    """
    option, place = "--lightning", place if ":" in place else ":".join(place.rsplit(".", 1))
    kind = _found(option, place)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigurationError.expected(f"{option} {place}", "a class of LightningModule", kind)
    arguments = _taken_by(kind, json.loads(str(read(find(paths)[0]).facts.get(SETTINGS, "{}"))))
    try:
        return kind(**arguments)
    except Exception as error:
        reason = plain_text(f"{type(error).__name__}: {error}", 300)
        given = plain_text(", ".join(arguments) or "none", 300)
        raise ConfigurationError(
            f"`{option}`: {plain_text(place, 200)} cannot be made with the plain hyperparameters of the file"
            f" ({given}): {reason}. Use --model with a function that makes it"
        ) from error


def _taken_by(kind: type, settings: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return settings
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {name: value for name, value in settings.items() if name in names}


def _made(option: str, place: str, kind: type) -> Any:
    """What is at an import path, called where it is not of the kind itself."""
    found = _found(option, place)
    if not callable(found) or (isinstance(found, kind) and not isinstance(found, type)):
        return found
    try:
        return found()
    except Exception as error:
        raise _failure(option, place, error) from error


def _found(option: str, place: str) -> Any:
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ConfigurationError.expected(option, "an import path as package.module:name", place)
    here = os.getcwd()
    if here not in sys.path:  # a console script does not look where it is called
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise _failure(option, place, error) from error
    return found


def _failure(option: str, place: str, error: Exception) -> ConfigurationError:
    reason = plain_text(f"{type(error).__name__}: {error}", 300)
    return ConfigurationError(f"`{option}`: {plain_text(place, 200)} fails: {reason}")
