"""The page in one file: its modules as an import map of data addresses, its data as text that nothing runs.

Browsers load no module from a file beside another one, so the modules have to be in the page. They run because
they carry its nonce; whatever else finds its way into the page does not.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nndiag.page.assets import load_assets

ENTRY = "file.js"
"""The module that shows the data of the file."""

STYLE = "style.css"

_IMPORT = re.compile(r"(\bfrom\s+|\bimport\s+)'\./([\w-]+\.js)'")
"""Relative names mean nothing inside a data address; those of an import map do."""


@dataclass(frozen=True)
class Inlined:
    """The parts of a page, each ready to stand inside its element.

    Attributes:
        policy: The content security policy: no request, no script but those with the nonce.
        nonce: Of the two scripts. It comes from the content, so that the same report is the same file; a text
            inside the content cannot hold it.
        import_map: Every module by name.
        start: The script that begins.
        data: JSON without a ``<``, so that it cannot end its element.
        style: The style sheet of the page.
    """

    policy: str
    nonce: str
    import_map: str
    start: str
    data: str
    style: str


def inline(data: Mapping[str, Any], *styles: str) -> Inlined:
    """Makes the parts of a page that holds its data.

    Args:
        data: What ``file.js`` reads; plain types without NaN.
        styles: Other style sheets that the policy should allow.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    import_map, style = _import_map(), load_assets()[STYLE][0].decode()
    nonce = _digest(import_map + style + text)
    sheets = " ".join(f"'sha256-{_digest(sheet)}'" for sheet in (style, *styles))
    rules = (
        "default-src 'none'",
        f"script-src 'nonce-{nonce}'",
        f"style-src {sheets}",
        "base-uri 'none'",
        "form-action 'none'",
    )
    start = f"import {{show}} from '{_name(ENTRY)}'; show();"
    return Inlined("; ".join(rules), nonce, import_map, start, text, style)


@functools.cache
def _import_map() -> str:
    modules = {name: body for name, (body, kind) in load_assets().items() if kind == "text/javascript"}
    return json.dumps({"imports": {_name(name): _address(body.decode()) for name, body in modules.items()}})


def _address(source: str) -> str:
    named = _IMPORT.sub(lambda found: f"{found[1]}'{_name(found[2])}'", source)
    return f"data:text/javascript;base64,{base64.b64encode(named.encode()).decode()}"


def _name(module: str) -> str:
    return f"nndiag/{module}"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
