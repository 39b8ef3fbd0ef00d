"""Links from the report under Text into the dashboard: they lead to a finding, and from there to its layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from nndiag.events import PLUGIN_NAME
from nndiag.findings import Finding

_PARTS = 3
"""Parts of a run's directory that tell it from others; TensorBoard names runs by the end of their paths."""

_MOST = 12
_RULE = re.compile(r"[A-Za-z0-9_-]{1,20}")


def with_links(markdown: str, findings: Iterable[Finding], directory: str | None) -> str:
    """The report with a line of links below its heading; without a directory they name no run."""
    heading, _, rest = markdown.partition("\n\n")
    where = {} if directory is None else {"dir": "/".join(Path(directory).parts[-_PARTS:])}
    rules = [finding.rule for finding in findings if finding.is_active and _RULE.fullmatch(finding.rule)]
    links = [_link(rule, {**where, "finding": rule}) for rule in dict.fromkeys(rules[:_MOST])]
    line = f"Look at it in {_link('the nndiag tab', where)}" + "".join(f", {link}" for link in links)
    return f"{heading}\n\n{line}\n\n{rest}"


def _link(text: str, state: Mapping[str, str]) -> str:
    """A link that TensorBoard follows to another of its tabs."""
    query = "".join(
        f"&p.{PLUGIN_NAME}.{key}={quote(value, safe='', errors='replace')}" for key, value in state.items()
    )
    return f"[{text}](#{PLUGIN_NAME}{query})"
