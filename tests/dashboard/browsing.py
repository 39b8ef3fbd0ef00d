"""What tests of the page in a browser share. They are skipped where there is no Chromium or Playwright."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .runs import ROUTE, client_of, get, wait_for

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PAGE = "/data/plugin_entry.html?name=nndiag"
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


def serve(logdir: Path, runs: int, last: int = 30) -> Iterator[str]:
    """The address of a TensorBoard that has loaded so many runs up to a step, until the test is over."""
    from werkzeug.serving import make_server

    client, _kept = client_of(logdir)
    wait_for(lambda: sum(row["step"] == last for row in get(client, "runs")["runs"]) >= runs)
    server = make_server("127.0.0.1", 0, client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def opened(page: Any, **state: str) -> Any:
    """The page alone, in some state."""
    page.goto(f"{PAGE}#{'&'.join(f'p.nndiag.{key}={value}' for key, value in state.items())}")
    ready(page)
    return page


def answering(page: Any, path: str, **answer: Any) -> None:
    """Another answer to the page's questions."""
    page.route(re.compile(f"{ROUTE}/{path}"), lambda route: route.fulfill(**answer))
