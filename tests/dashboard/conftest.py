"""One browser, and one TensorBoard, for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboard.browsing import CHROMIUM, FLAGS, Seen, serve
from dashboard.runs import write_run


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield found
        found.close()


@pytest.fixture(scope="package")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one sick, one not."""
    root = tmp_path_factory.mktemp("logs")
    write_run(root / "sick")
    write_run(root / "well", is_sick=False, shift=0.01)
    return root


@pytest.fixture(scope="package")
def address(logdir: Path) -> Iterator[str]:
    """TensorBoard over the two runs."""
    yield from serve(logdir, 2)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that must not complain, nor ask anybody but TensorBoard."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    seen = Seen(page)
    yield page
    context.close()
    assert seen.errors == []
    assert all(url.startswith((address, "data:", "blob:")) for url in seen.requests)
