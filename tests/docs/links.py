"""Where a link leads, on disk or among the pages that the build writes."""

from __future__ import annotations

import re
from pathlib import Path

from .generated import rule_pages
from .pages import RULE_PAGES, slugs

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def broken(text: str, page: Path) -> list[str]:
    """The links of a page, local ones, that lead nowhere."""
    links = [link for link in _LINK.findall(text) if "://" not in link]
    return [link for link in links if not _leads_somewhere(link, text, page)]


def _leads_somewhere(link: str, text: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve()
    if target.parent == RULE_PAGES:
        return target.name in rule_pages() and (not anchor or anchor in slugs(rule_pages()[target.name]))
    if not path:
        return anchor in slugs(text)
    if not target.exists():
        return False
    return not anchor or target.suffix != ".md" or anchor in slugs(target.read_text(encoding="utf-8"))
