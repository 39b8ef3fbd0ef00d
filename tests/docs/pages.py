"""The pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
RULE_PAGES = DOCS / "rules"
"""Written by the build of the site; they need not be there."""

MEASURE_PAGES = DOCS / "measures"
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *DOCS.glob("**/*.md"))
    if "_build" not in page.parts and RULE_PAGES not in page.parents
)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """Test ids."""
    return page.relative_to(ROOT).as_posix()


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as they are on the site and on GitHub."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return [code for found, code in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))
