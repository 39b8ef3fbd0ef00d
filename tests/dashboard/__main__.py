"""``python -m tests.dashboard``: how long the tab takes for very large networks, in a browser without a window.

It writes runs through the real sink, starts TensorBoard on each with both of its loaders, and takes the times from
the browser's own clock: until the first cards are painted, until another reading is painted, and the longest task
in between, in which the page answers nobody.
"""

from __future__ import annotations

import argparse
import math
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.table import Table

from .browsing import CHROMIUM, FLAGS, ready
from .runs import ROUTE, block_names, write_run

OWN = 3
"""Readings that ``write_run`` gives every layer."""

READINGS = (
    "saturation/saturated",
    "gradient_flow/gradient_norm",
    "data/extra_3",
    "neuron_symmetry/distinct_share",
)
PRESSED = (
    ("all rows", "[data-key=rows-full]", None),
    ("a row a module", "[data-key=rows-groups]", None),
    ("heat map as table", "[data-key=map-table]", None),
    ("to the overview", "[data-key=view-overview]", None),
    ("a finding opened", "details[data-rule=ND201] > summary", None),
    ("strips as table", "[data-key=strips-table]", None),
    ("to a layer", "[data-key=view-layer]", None),
)
TIMES = 3

WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  const own = list.getEntries().filter((task) => task.name !== 'same-origin-ancestor');
  window.longest = Math.max(window.longest, ...own.map((task) => task.duration));
}).observe({type: 'longtask', buffered: true});
window.onPainted = (tell) => {
  const look = () => (document.querySelector('main:not([aria-busy]) .card')
    ? requestAnimationFrame(() => setTimeout(() => tell(performance.now()))) : requestAnimationFrame(look));
  look();
};
"""
"""Runs before the page: keeps its longest task (not TensorBoard's own); tells when what is shown is painted."""

PAINTED = "() => new Promise((tell) => window.onPainted(tell))"
CHANGE = """([selector, value]) => new Promise((tell) => {
  const node = document.querySelector(selector), begin = performance.now();
  window.longest = 0;
  if (value === null) node.click();
  else { node.value = value; node.dispatchEvent(new Event('change', {bubbles: true})); }
  window.onPainted((end) => tell(end - begin));
})"""
"""Presses a button, or chooses a value; milliseconds until what follows has been painted."""


class Size(NamedTuple):
    """How large a run is."""

    layers: int
    readings: int
    steps: int

    def __str__(self) -> str:
        return f"{self.layers:,} layers x {self.readings} readings x {self.steps:,} steps"


SIZES = (Size(500, 20, 1_000), Size(4_000, 20, 100))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.dashboard", description=__doc__)
    parser.add_argument("--loader", action="append", choices=("true", "false"), help="only this --load_fast")
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="keep the runs in DIR, and take those that are there"
    )
    options = parser.parse_args(arguments)
    loaders = options.loader or ["true", "false"]
    console = Console() if sys.stdout.isatty() else Console(width=130)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        for size in SIZES:
            logdir = (options.runs or Path(scratch)) / str(size.layers)
            console.print(written(logdir, size))
            for loader in loaders:
                console.print(figures(browser, logdir, size, loader))
        browser.close()


def written(logdir: Path, size: Size) -> str:
    """Writes a run unless it is there; how large its files are."""
    if not logdir.exists():
        names = block_names(math.ceil(size.layers / 4))[: size.layers]
        steps = range(0, 20 * size.steps, 20)
        write_run(logdir / "big", names=names, steps=steps, extra=size.readings - OWN)
    weight = sum(path.stat().st_size for path in logdir.rglob("*tfevents*"))
    return f"\n{size}: event file {weight / 1e6:.1f} MB"


def figures(browser: Browser, logdir: Path, size: Size, loader: str) -> Table:
    """The times of one run with one loader."""
    table = Table(
        "what", "time", "longest task", "answer", title=f"--load_fast={loader}", title_justify="left"
    )
    with served(logdir, 20 * (size.steps - 1), loader) as (address, seconds):
        table.add_row("TensorBoard has read all", f"{seconds:.1f} s")
        for name, path in requests(size):
            table.add_row(f"request: {name}", *asked(address + path))
        for name, path in pages():
            table.add_row(f"first paint: {name}", *first_paint(browser, address, path))
        for row in changes(browser, address):
            table.add_row(*row)
    return table


@contextmanager
def served(logdir: Path, last: int, loader: str) -> Iterator[tuple[str, float]]:
    """The address of a TensorBoard that has read the run up to a step, and how long that took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--load_fast", loader]
    begin, address = time.perf_counter(), f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as board:
        try:
            while f'"step": {last + 1}' not in answer(address) and f'"step": {last}' not in answer(address):
                time.sleep(0.2)
            yield address, time.perf_counter() - begin
        finally:
            board.terminate()


def answer(address: str) -> str:
    """What TensorBoard says of its runs; nothing as long as it does not listen."""
    try:
        with urlopen(f"{address}{ROUTE}/runs") as reply:
            return str(reply.read().decode())
    except URLError:
        return ""


def requests(size: Size) -> Iterator[tuple[str, str]]:
    """What the page asks for."""
    yield "runs", f"{ROUTE}/runs"
    yield "one run", f"{ROUTE}/run?run=big"
    yield "heat map", f"{ROUTE}/matrix?{urlencode({'run': 'big', 'tag': f'nndiag/row/{READINGS[0]}'})}"
    yield "curves of a layer", f"{ROUTE}/curves?{urlencode({'run': 'big', 'layer': size.layers // 2})}"
    yield "numbers of the run", f"{ROUTE}/numbers?run=big"


def asked(address: str) -> tuple[str, str, str]:
    """Median time of a request, and the size of its answer."""
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        with urlopen(address) as reply:
            body = reply.read()
        times.append(time.perf_counter() - begin)
    return f"{1000 * statistics.median(times):.0f} ms", "", f"{len(body) / 1000:,.0f} kB"


def pages() -> Iterator[tuple[str, str]]:
    """Views of the page, and how TensorBoard opens it."""
    for view in ("overview", "map", "layer"):
        yield f"{view}, the page alone", f"/data/plugin_entry.html?name=nndiag#p.nndiag.view={view}"
    yield "overview, inside TensorBoard", "/#nndiag"


def first_paint(browser: Browser, address: str, path: str) -> tuple[str, str]:
    """Median time until the first cards are painted, and the longest task of all tries."""
    times, longest = [], 0.0
    for _ in range(TIMES):
        with opened(browser) as page:
            begin = time.perf_counter()
            page.goto(address + path, wait_until="commit")
            frame: Any = page
            if path.startswith("/#"):
                frame = page.wait_for_selector("iframe[src*='name=nndiag']", state="attached").content_frame()
            frame.wait_for_function("window.onPainted !== undefined")
            frame.evaluate(PAINTED)
            times.append(time.perf_counter() - begin)
            longest = max(longest, frame.evaluate("window.longest"))
    return f"{statistics.median(times):.2f} s", f"{longest:.0f} ms"


def changes(browser: Browser, address: str) -> Iterator[tuple[str, str, str]]:
    """What a person does next: other readings, other rows, tables, an opened finding."""
    with opened(browser) as page:
        page.goto(
            f"{address}/data/plugin_entry.html?name=nndiag#p.nndiag.view=map&p.nndiag.reading={READINGS[0]}"
        )
        ready(page)
        steps = [(f"reading switch: {name}", "select[data-key=reading]", name) for name in READINGS[1:]]
        for name, selector, value in (*steps, *PRESSED):
            took = page.evaluate(CHANGE, [selector, value])
            page.wait_for_timeout(50)  # a long task is told of after it has ended
            yield name, f"{took:.0f} ms", f"{page.evaluate('window.longest'):.0f} ms"


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page of a new visitor."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(WATCH)
    yield page
    context.close()


if __name__ == "__main__":
    main()
