"""The report as a file: the same page, offline, from ``file://``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.samples import HOSTILE, full_report, hostile_report

from dashboard.browsing import NEEDS_CHROMIUM, Seen, ready, state_of
from dashboard.runs import block_names, coverage_of, findings_at, infos, readings_at
from nndiag.diagnosis import Update
from nndiag.report import Report
from nndiag.sinks import HtmlSink, RecordSink

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = sync_api.expect

NAMES = block_names(2)
STEPS = (0, 1, 2, 3, 5, 8, 12, 16, 20, 30)

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a recorded run."""
    directory = tmp_path_factory.mktemp("runs") / "sick"
    record = RecordSink(directory)
    for step in STEPS:
        findings = findings_at(NAMES, step) if step >= 8 else ()
        readings = tuple(readings_at(NAMES, step, STEPS[-1]))
        record.write(Update(step, infos(NAMES), readings, findings, coverage_of(NAMES), changed=True))
    report = Report(findings, readings, coverage_of(NAMES), {"last_step": 30, "visits": 10})
    record.close(report)
    HtmlSink(None, directory).close(report)
    return directory / "nndiag.html"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not complain, nor ask anybody for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    seen = Seen(page)
    yield page
    context.close()
    assert seen.errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in seen.requests)
    assert len({url.partition("#")[0] for url in seen.requests if url.startswith("file:")}) <= 1


def opened(page: Any, file: Path, **state: str) -> Any:
    """The file in some state."""
    page.goto("about:blank")
    page.goto(f"{file.as_uri()}#{'&'.join(f'p.nndiag.{key}={value}' for key, value in state.items())}")
    ready(page)
    return page


def saved(report: Report, directory: Path) -> Path:
    """The page of a report alone."""
    report.to_html(directory / "report.html")
    return directory / "report.html"


def test_a_recorded_run(page: Any, file: Path) -> None:
    opened(page, file)
    expect(page.locator(".run-name")).to_have_text("sick")
    expect(page.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")
    expect(page.locator(".status")).to_contain_text(
        "11 layers · 10 visits · last step 30 · the run has ended"
    )
    page.locator("details[data-rule=ND201] > summary").click()
    page.get_by_role("button", name="Show on the heat map").first.click()
    expect(page.locator("select[data-key=reading]")).to_have_value("saturation/saturated")
    expect(page.locator("canvas.heat")).to_have_attribute("aria-label", re.compile("10 rows by 10 visits"))
    numbers = page.locator(".numbers svg")
    expect(numbers).to_have_attribute("aria-label", re.compile("sick: 2.3 at step 0, 0.8461 at step 30"))
    assert state_of(page) | {"view": "map", "reading": "saturation/saturated"} == state_of(page)


def test_values_of_the_record_reach_the_curve(page: Any, file: Path) -> None:
    opened(page, file, view="layer", layer="stem", reading="saturation/saturated", table="curve")
    cells = page.locator("section[aria-label='Reading over the steps'] tbody td")
    own = [
        reading.value
        for step in STEPS
        for reading in readings_at(NAMES, step, STEPS[-1])
        if (reading.name, reading.layer) == ("saturated", "stem")
    ]
    assert [float(text) for text in cells.all_text_contents()] == pytest.approx(own, rel=2e-3)


def test_units_of_the_record(page: Any, file: Path) -> None:
    opened(page, file, view="layer", layer="blocks.0.attn.proj")
    expect(page.locator("section[aria-label=Units]")).to_contain_text(
        "5 units of 16 were never on: 0, 1, 2, 3, 4."
    )
    expect(page.locator("input[type=range]")).to_have_attribute("max", "9")


def test_a_report_alone_has_no_heat_map(page: Any, tmp_path: Path) -> None:
    opened(page, saved(full_report(), tmp_path), view="map")
    expect(page.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")
    expect(page.locator("[data-key=view-map]")).to_have_count(0)
    page.locator("details[data-rule=ND201] > summary").click()
    body = page.locator("details[data-rule=ND201] > .body")
    expect(body).to_contain_text("value judged0.875")
    expect(body).to_contain_text("Shrink the weights with torch.nn.init.xavier_normal_.")
    expect(page.get_by_role("button", name="Show on the heat map")).to_have_count(0)
    body.get_by_role("button", name="Look at the layer").click()
    expect(page.locator("section[aria-label='Other readings']")).to_contain_text("Saturation0.875saturated")
    expect(page.locator("svg.chart")).to_have_count(0)


def test_an_empty_report(page: Any, tmp_path: Path) -> None:
    opened(page, saved(Report.empty(), tmp_path))
    expect(page.locator(".headline")).to_have_text("Nothing was measured")
    page.locator("[data-key=view-layer]").click()
    expect(page.locator("main")).to_contain_text("No layers yet")


def test_texts_of_others_stay_texts(page: Any, tmp_path: Path) -> None:
    for kind in ("script", "attribute", "closes its elements", "comment", "template", "lone surrogate"):
        opened(page, saved(hostile_report(HOSTILE[kind]), tmp_path))
        expect(page.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")
        page.locator("[data-key=view-layer]").click()
        ready(page)
        tags = page.evaluate(
            "[...new Set([...document.body.querySelectorAll('*')].map((node) => node.localName))]"
        )
        assert not {"script", "img", "iframe", "object", "style"} & set(tags)


def test_the_policy_stops_what_is_not_the_pages(browser: Any, file: Path) -> None:
    context = browser.new_context()
    page = opened(context.new_page(), file)
    blocked = page.evaluate(
        """async () => {
          const seen = [];
          document.addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
          const script = document.createElement('script');
          script.textContent = 'window.owned = true';
          document.body.append(script);
          await fetch('data:text/plain,x').catch(() => null);
          await new Promise((done) => setTimeout(done));
          return [seen, window.owned ?? null];
        }"""
    )
    context.close()
    assert blocked == [["script-src-elem", "connect-src"], None]


def test_without_javascript_the_findings_are_there(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    for part in ("1 critical, 1 warning, 1 note", "saturated-activation", "What to do", "value judged"):
        expect(page.locator("main")).to_contain_text(part)
    assert page.locator("#nndiag-style").get_attribute("media") == "not all"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(page: Any, file: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page.emulate_media(color_scheme=scheme)
    for state in (
        {"finding": "ND201"},
        {"table": "strips"},
        {"view": "map", "reading": "saturation/saturated"},
        {"view": "layer", "layer": "blocks.0.attn.proj"},
    ):
        opened(page, file, **state)
        found = axe.Axe().run(page).response
        said = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found["violations"]]
        assert len(found["passes"]) > 10
        assert said == [], json.dumps(said, indent=1)


def test_a_narrow_window_needs_no_scrolling_sideways(page: Any, file: Path) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    for view in ("overview", "map", "layer"):
        opened(page, file, view=view, finding="ND201")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
