"""Untrusted text made inert.

Names of layers come from models and checkpoints, messages hold such names: no terminal, browser or markdown
reader may act upon them.
"""

from __future__ import annotations

import re
import unicodedata

_ACTIVE = ("Cc", "Cf", "Co", "Cs")
"""Unicode categories: control, format (direction marks, zero widths), private use, lone surrogates."""

_CODE = re.compile(r"`([A-Za-z0-9_./=<>()#:'\" -]{1,120})`")

NAME_LIMIT = 120
TEXT_LIMIT = 2000


def plain_text(text: object, limit: int = TEXT_LIMIT) -> str:
    r"""One line of visible characters: white space joined, control and direction marks spelled (``\x1b``).

    A longer text keeps its beginning and its end.
    """
    return _shorten(_visible(text).strip(), limit)


def plain_part(text: str) -> str:
    """The same for a part of a line: a space at either end stays."""
    return _shorten(_visible(text), TEXT_LIMIT)


def plain_name(name: str | None) -> str:
    """The name of a layer, short enough for a line; the run as a whole has no name, and a model an empty one."""
    return "the run" if name is None else plain_text(name, NAME_LIMIT) or "the model"


def spans(text: str) -> list[tuple[str, bool]]:
    """Splits a sentence into parts and says of each whether it is code, as `code` in the words of a rule.

    Between backticks only characters pass that mean nothing to markdown readers inside code.
    """
    parts = _CODE.split(plain_text(text))
    return [(part, bool(index % 2)) for index, part in enumerate(parts) if part]


def _visible(text: object) -> str:
    return "".join(map(_spell, re.sub(r"\s+", " ", str(text))))


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def _spell(char: str) -> str:
    if unicodedata.category(char) not in _ACTIVE:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
