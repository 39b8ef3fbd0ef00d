"""The extension that writes the pages of rules; it lies beside the pages, outside any package."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from .pages import DOCS


@cache
def extension() -> ModuleType:
    """``docs/rule_pages.py``, loaded."""
    spec = importlib.util.spec_from_file_location("rule_pages", DOCS / "rule_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def rule_pages() -> dict[str, str]:
    """The text of each by its file."""
    pages: dict[str, str] = extension().pages(DOCS)
    return pages
