"""Makes the pictures of ``dashboard.md`` from the sick networks of ``nndiag demo``.

Run ``python docs/tour.py`` to train them first, or ``python docs/tour.py DIR`` with what the demo wrote. It needs
playwright (with Chromium) and pillow.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from tensorboard import program

from nndiag import demo

IMAGES = Path(__file__).parent / "images"
RUNS = 5
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


class Shot(NamedTuple):
    """One picture: a state of the tab, the size of the window."""

    name: str
    state: dict[str, str]
    size: tuple[int, int] = (1280, 800)
    is_dark: bool = False


SHOTS = (
    Shot("dashboard.png", {"run": "hasty"}, (1280, 1120)),
    Shot("dashboard-finding.png", {"run": "hasty", "finding": "ND101"}, (1280, 860)),
    Shot("dashboard-map.png", {"run": "hasty", "view": "map"}, (1280, 690)),
    Shot("dashboard-layer.png", {"run": "hasty", "view": "layer", "layer": "net.norm"}, (1280, 1210)),
    Shot(
        "dashboard-beside.png", {"run": "hasty", "beside": "twin", "view": "map"}, (1280, 690), is_dark=True
    ),
)


def main() -> None:
    """Trains, serves, takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=Path, help="what the demo wrote")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        runs = parser.parse_args().runs or Path(scratch)
        if not runs.is_dir() or not any(runs.iterdir()):
            demo.run(runs, Console())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        address = serve(runs)
        for shot in SHOTS:
            with page_of(browser, shot) as page:
                take_tab(page, shot, address)
        with page_of(browser, Shot("report.png", {}, (1280, 900))) as page:
            page.goto((runs / "hasty" / "nndiag.html").resolve().as_uri())
            page.locator("details[data-rule=ND101] > summary").click()
            save(page, "report.png")
        browser.close()


def serve(runs: Path) -> str:
    """The address of a TensorBoard that has loaded every run to its end."""
    board = program.TensorBoard()
    board.configure(argv=["tensorboard", "--logdir", str(runs), "--port", "0", "--load_fast", "false"])
    address = board.launch()
    while True:
        with urlopen(f"{address}data/plugin/nndiag/runs") as answer:
            rows = json.load(answer)["runs"]
        if sum(row["step"] is not None for row in rows) >= RUNS:
            return address
        time.sleep(0.5)


@contextmanager
def page_of(browser: Browser, shot: Shot) -> Iterator[Page]:
    """A page of the size of a shot."""
    width, height = shot.size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if shot.is_dark else "light"
    )
    yield context.new_page()
    context.close()


def take_tab(page: Page, shot: Shot, address: str) -> None:
    """The tab inside TensorBoard."""
    state = urlencode({f"p.nndiag.{key}": value for key, value in shot.state.items()})
    page.goto(f"{address}{'?darkMode=true' if shot.is_dark else ''}#nndiag&{state}")
    frame: Any = page.frame_locator("iframe[src*='name=nndiag']")
    frame.locator("main:not([aria-busy]) .card").first.wait_for(timeout=60_000)
    save(page, shot.name)


def save(page: Page, name: str) -> None:
    """What the window shows, in as many colors as one byte can tell apart."""
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(300)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    packed = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    packed.save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
