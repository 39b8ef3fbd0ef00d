"""The page over answers made up for it: states with one thing to say, and what is very long."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np
import pytest

from dashboard.browsing import NEEDS_CHROMIUM, PAGE, answering, opened
from dashboard.runs import ROUTE
from nndiag.events import SCHEMA_VERSION

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = sync_api.expect

pytestmark = NEEDS_CHROMIUM


def test_nothing_here_yet(page: Any) -> None:
    answering(page, "runs", json={"runs": []})
    opened(page)
    expect(page.locator(".message")).to_contain_text("Nothing from nndiag here yet")
    expect(page.locator(".message pre")).to_contain_text("DiagnosticsMonitor")


def test_a_run_of_a_newer_version(page: Any) -> None:
    row = {"name": "sick", "is_newer": True, "step": None, "visits": None, "findings": []}
    answering(page, "runs", json={"runs": [row]})
    run = {key: [] for key in ("layers", "findings", "coverage", "notes", "readings", "numbers", "units")}
    answering(page, r"run\?", json={"name": "sick", "is_newer": True, "facts": {}, **run})
    opened(page)
    expect(page.locator(".message")).to_contain_text("pip install --upgrade nndiag")
    assert SCHEMA_VERSION == 1


def test_as_long_as_nothing_has_come(page: Any) -> None:
    page.route(re.compile(f"{ROUTE}/runs"), lambda route: None)  # asked, and never answered
    page.goto(PAGE)
    expect(page.locator("main[aria-busy=true] .message")).to_contain_text("Loading")


def test_a_run_without_a_single_value(page: Any) -> None:
    run = {key: [] for key in ("layers", "findings", "coverage", "notes", "readings", "numbers", "units")}
    answering(page, r"run\?", json=run | {"name": "sick", "is_newer": False, "facts": {}, "step": None})
    opened(page)
    expect(page.locator(".headline")).to_have_text("Nothing was measured")
    for view, said in (("map", "No readings yet"), ("layer", "No layers yet")):
        page.locator(f"[data-key=view-{view}]").click()
        expect(page.locator("main")).to_contain_text(said)


def test_a_server_that_is_gone_and_back(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address)
    page = context.new_page()
    answering(page, "runs", status=503, body="")
    opened(page)
    expect(page.locator(".message")).to_contain_text("TensorBoard did not answer")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")
    context.close()


def test_the_rows_scroll_to_where_the_keys_lead(page: Any) -> None:
    names = [f"blocks.{k}.fc" for k in range(120)]
    run = {"name": "sick", "is_newer": False, "facts": {}, "findings": [], "coverage": [], "notes": []}
    run |= {"step": 1, "visits": 2, "numbers": [], "units": [], "is_complete": True}
    run["layers"] = [{"name": name, "depth": depth} for depth, name in enumerate(names)]
    facts = {"tag": "t", "measure": "saturation", "reading": "saturated", "range": [0, 1], "samples": 2}
    run["readings"] = [facts | {"values": [0.5] * 120, "steps": [1] * 120}]
    header = json.dumps(facts | {"steps": [0, 1]}).encode()
    header += b" " * (-len(header) % 4)
    answering(page, r"run\?", json=run)
    answering(page, "numbers", json={"curves": []})
    body = struct.pack("<I", len(header)) + header + np.full((120, 2), 0.5, "<f4").tobytes()
    answering(page, "matrix", body=body, content_type="application/octet-stream")
    opened(page, view="map", rows="full", layer="blocks.60.fc")
    window, heat = page.locator(".heatwindow"), page.locator("canvas.heat")
    shown = "(node) => [node.scrollTop, node.scrollTop + node.clientHeight]"
    top, bottom = window.evaluate(shown)
    assert top < 60 * 16 < bottom  # the layer of the link is in the window
    heat.focus()
    for _ in range(5):
        page.keyboard.press("Shift+ArrowDown")
    expect(page.locator(".heatbox .readout")).to_contain_text("blocks.119.fc · step 1 · 0.5")
    top, bottom = window.evaluate(shown)
    assert top < 119 * 16 < bottom
    page.locator("[data-key=axis-visits]").click()
    expect(page.locator("[data-key=axis-visits]")).to_have_attribute("aria-pressed", "true")
    assert window.evaluate(shown)[0] == top  # what is drawn anew stays where it was


def test_a_long_table_grows_as_it_is_scrolled(page: Any) -> None:
    run = {"name": "sick", "is_newer": False, "facts": {}, "findings": [], "coverage": [], "notes": []}
    run |= {"step": 1, "visits": 2, "numbers": [], "units": [], "is_complete": True}
    run["layers"] = [{"name": f"layer {k}"} for k in range(1500)]
    facts = {"tag": "t", "measure": "saturation", "reading": "saturated"}
    run["readings"] = [facts | {"values": [0.5] * 1500, "steps": [1] * 1500}]
    answering(page, r"run\?", json=run)
    opened(page, table="strips")
    rows, box = page.locator("tbody tr"), page.locator(".scroll")
    expect(page.locator("caption")).to_contain_text("1,500 rows")
    first = rows.count()
    assert first <= 1000
    box.evaluate("(node) => { node.scrollTop = node.scrollHeight; }")
    expect(rows).to_have_count(1500)
