"""Models and data named on the command line: what runs the user's own code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

from torch import nn

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


def _made(option: str, place: str, kind: type) -> Any:
    """What is at an import path, called where it is not of the kind itself."""
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
        return (
            found() if callable(found) and (isinstance(found, type) or not isinstance(found, kind)) else found
        )
    except Exception as error:
        reason = plain_text(f"{type(error).__name__}: {error}", 300)
        raise ConfigurationError(f"`{option}`: {plain_text(place, 200)} fails: {reason}") from error
