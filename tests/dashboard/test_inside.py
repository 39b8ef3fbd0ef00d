"""The tab inside TensorBoard, and over a very large run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dashboard.browsing import NEEDS_CHROMIUM, Seen, answering, opened, serve
from dashboard.runs import ROUTE, block_names, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = sync_api.expect

pytestmark = NEEDS_CHROMIUM


def test_inside_tensorboard(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    seen = Seen(page)
    page.goto("/#nndiag&p.nndiag.run=sick&p.nndiag.view=layer&p.nndiag.layer=stem")
    frame = page.frame_locator("iframe[src*='name=nndiag']")
    expect(frame.locator(".headline")).to_have_text(
        "stem", timeout=40_000
    )  # the link of the outer page counts
    frame.locator("[data-key=view-overview]").click()
    expect(frame.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")
    assert "p.nndiag.view=overview" in page.url
    page.evaluate("location.hash = '#nndiag&p.nndiag.run=well'")
    expect(frame.locator(".headline")).to_have_text("No warnings")
    page.evaluate("document.body.classList.add('dark-mode')")
    expect(frame.locator("html")).to_have_class("dark")
    with page.expect_request(re.compile(f"{ROUTE}/runs$")):
        page.locator("app-header-reload button").click()
    expect(frame.locator("main:not([aria-busy]) .headline")).to_have_text("No warnings")
    assert all(url.startswith((address, "data:", "blob:")) for url in seen.requests)
    context.close()


def test_the_run_in_front_stays_when_another_becomes_sicker(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    row = {"name": "well", "is_newer": False, "step": 8, "visits": 5, "findings": []}
    answering(page, "runs", json={"runs": [row]})
    page.goto("/#nndiag")
    frame = page.frame_locator("iframe[src*='name=nndiag']")
    expect(frame.locator(".bar .run-name")).to_have_text("well", timeout=40_000)
    page.unroute_all()
    page.locator("app-header-reload button").click()
    expect(frame.locator("select[data-key=run] option")).to_have_count(2)
    expect(frame.locator("select[data-key=run] option:checked")).to_contain_text("well")
    expect(frame.locator(".headline")).to_have_text("No warnings")
    context.close()


def test_from_the_text_report_to_the_finding(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto("/#text")
    page.locator("tf-text-loader a", has_text="ND202").first.click(timeout=40_000)
    frame = page.frame_locator("iframe[src*='name=nndiag']")
    expect(frame.locator("details[data-rule=ND202][open]")).to_be_visible(timeout=40_000)
    expect(frame.locator("select[data-key=run] option:checked")).to_contain_text("sick")
    context.close()


@pytest.mark.slow
def test_five_hundred_layers_and_a_thousand_steps(browser: Any, tmp_path: Path) -> None:
    names = block_names(125)[:500]
    write_run(tmp_path / "big", names=names, steps=range(0, 20_000, 20))
    for address in serve(tmp_path, 1, 19_980):
        context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        seen = Seen(page)
        opened(page, view="map", reading="saturation/saturated")
        heat = page.locator("canvas.heat")
        expect(heat).to_have_attribute("aria-label", re.compile("500 rows by"))
        assert heat.bounding_box()["height"] < 700  # all at once
        page.locator("[data-key=rows-full]").click()
        page.wait_for_function("document.querySelector('.heatwindow').scrollHeight > 7000")
        assert heat.bounding_box()["height"] < 800  # what the window shows, and no more
        page.locator("[data-key=rows-groups]").click()
        expect(heat).to_have_attribute("aria-label", re.compile("126 rows"))
        page.locator("[data-key=view-layer]").click()
        expect(page.locator(".headline")).to_have_text("blocks.62.attn.proj")
        page.locator("[data-key=view-overview]").click()
        expect(page.locator(".status")).to_contain_text("501 layers · 1,000 visits")
        assert seen.errors == []
        context.close()
