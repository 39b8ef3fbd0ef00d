"""What tests of the page in a browser share. They are skipped where there is no Chromium or Playwright."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"

NEEDS_CHROMIUM = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium, or set CHROMIUM"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


class Seen:
    """What a page asked for and complained about."""

    def __init__(self, page: Any) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.hear)

    def hear(self, said: Any) -> None:
        """Keeps errors; TensorBoard's frame has no icon."""
        if said.type == "error" and not said.location["url"].endswith("/favicon.ico"):
            self.errors.append(said.text)


def ready(page: Any) -> None:
    """Waits until nothing is loading any more."""
    page.locator("main:not([aria-busy]) .card").first.wait_for()


def state_of(page: Any) -> dict[str, str]:
    """What the address says."""
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries(location.hash.slice(1).split('&').filter(Boolean)"
        ".map((part) => part.split('=').map(decodeURIComponent)))"
    )
    return {key.removeprefix("p.nndiag."): value for key, value in found.items()}
