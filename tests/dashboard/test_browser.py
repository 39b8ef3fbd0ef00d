"""The page in a browser, served by TensorBoard: alone, and inside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dashboard.browsing import NEEDS_CHROMIUM, PAGE, opened, ready, state_of
from dashboard.runs import block_names

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = sync_api.expect

NAMES = block_names(2)
BAD = "blocks.1.attn.qkv"

pytestmark = NEEDS_CHROMIUM


# --- what a person sees ---------------------------------------------------------------------------------------


def test_the_sickest_run_at_a_glance(page: Any) -> None:
    opened(page)
    expect(page.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")
    expect(page.locator(".status")).to_contain_text("10 visits · last step 30 · the run has ended")
    expect(page.locator(".coverage summary")).to_contain_text("1 of 10 pairs of layer and measure were not")
    page.locator(".coverage summary").click()
    expect(page.locator(".coverage")).to_contain_text("compiled (head)")
    expect(page.locator(".resolved summary").first).to_have_text("1 resolved")


def test_a_healthy_run(page: Any) -> None:
    opened(page, run="well")
    expect(page.locator(".headline")).to_have_text("No warnings")
    expect(page.locator("section[aria-label=Findings]")).to_contain_text("Nothing is wrong as far as nndiag")


def test_from_a_finding_to_its_layer_to_the_heat_map(page: Any) -> None:
    opened(page)
    finding = page.locator("details[data-rule=ND201]")
    finding.locator("> summary").click()
    body = finding.locator("> .body")
    expect(body).to_contain_text("Change this by a factor of 2.")
    expect(body).to_contain_text("Look whether nndiag/x/y of this layer falls.")
    expect(body).to_contain_text("step 5 was still clean")
    expect(body.locator("dl").first).to_contain_text("value judged0.81")
    expect(body.locator(".related")).to_contain_text("Effective width")
    assert state_of(page)["finding"] == "ND201"
    body.get_by_role("button", name="Look at the layer").click()
    expect(page.locator(".headline")).to_have_text(BAD)
    expect(page.locator("section[aria-label='Reading over the steps'] h2")).to_have_text(
        "Saturation: saturated"
    )
    expect(page.locator("svg.chart .began-name")).to_have_text("ND201")
    page.get_by_role("button", name="On the heat map", exact=True).click()
    expect(page.locator("canvas.heat")).to_be_visible()
    assert state_of(page) | {"view": "map", "layer": BAD} == state_of(page)


def test_the_units_of_a_layer(page: Any) -> None:
    opened(page, view="layer", layer="blocks.0.attn.proj")
    units = page.locator("section[aria-label=Units]")
    expect(units).to_contain_text("5 units of 16 were never on: 0, 1, 2, 3, 4.")
    opened(page, view="layer", layer="stem")
    expect(units).to_contain_text("4 groups of equal units")
    expect(units).to_contain_text("2 equal: 0, 12")


def test_filters(page: Any) -> None:
    opened(page)
    shown = page.locator("section[aria-label=Findings] > .findings > li")
    expect(shown).to_have_count(3)
    chip = page.get_by_role("button", name=re.compile("^Note"))
    chip.click()
    expect(shown).to_have_count(2)
    expect(chip).to_have_attribute("aria-pressed", "false")
    page.locator("select[data-key=of]").select_option("neuron_symmetry")
    expect(shown).to_have_count(1)  # a cause stays where one of its symptoms is asked for
    page.reload()
    ready(page)
    expect(shown).to_have_count(1)


def test_from_a_strip_to_the_heat_map(page: Any) -> None:
    opened(page)
    page.locator("[data-reading='saturation/saturated']").click()
    expect(page.locator("select[data-key=reading]")).to_have_value("saturation/saturated")
    expect(page.locator(".legend")).to_contain_text("higher is worse")
    expect(page.locator(".legend")).to_contain_text("ND201 from 0.7")
    expect(page.locator(".heatbox")).to_contain_text("1 layer without this reading is left out.")


def test_two_runs_side_by_side(page: Any) -> None:
    opened(page, run="sick", beside="well")
    expect(page.locator(".column .headline")).to_have_text(["1 critical, 1 warning, 1 note", "No warnings"])
    expect(page.locator(".badge").first).to_have_text("only here")
    places = page.locator(".reading[data-reading='saturation/saturated']").all()
    assert len({place.bounding_box()["y"] for place in places}) == 1  # equal readings stand side by side
    page.locator("[data-key=view-map]").click()
    expect(page.locator("canvas.heat")).to_have_count(2)
    page.locator("[data-key=view-layer]").click()
    expect(page.locator(".card > .chartbox path.curve")).to_have_count(2)
    expect(page.locator(".keys .key")).to_have_text(["sick", "well"])


def test_rows_as_modules_open_and_close(page: Any) -> None:
    opened(page, view="map", reading="saturation/saturated")
    page.get_by_role("button", name="Modules").click()
    heat = page.locator("canvas.heat")
    expect(heat).to_have_attribute("aria-label", re.compile("4 rows"))  # stem, two blocks, head
    heat.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(heat).to_have_attribute("aria-label", re.compile("8 rows"))


def test_tables_and_files(page: Any) -> None:
    opened(page, view="map", reading="saturation/saturated")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == '"layer","step","value"'
    assert len(lines) == 1 + len(NAMES) * 10
    assert lines[1].startswith('"stem",0,0.0')
    page.get_by_role("button", name="Show as table").click()
    expect(page.locator("tbody tr")).to_have_count(len(NAMES))
    expect(page.locator("tbody th").first).to_have_text("stem")
    page.locator("[data-key=view-overview]").click()
    page.get_by_role("button", name="Show as table").click()
    expect(page.locator("tbody tr")).to_have_count(len(NAMES) + 1)


# --- keyboard, links, safety ----------------------------------------------------------------------------------


def test_the_keyboard_alone(page: Any) -> None:
    opened(page, view="map", reading="saturation/saturated")
    heat, readout = page.locator("canvas.heat"), page.locator(".heatbox .readout")
    heat.focus()
    page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("stem · step 30")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    expect(readout).to_contain_text("blocks.0.attn.qkv · step 20")
    page.keyboard.press("Home")
    expect(readout).to_contain_text("blocks.0.attn.qkv · step 0")
    page.keyboard.press("Enter")
    expect(page.locator(".headline")).to_have_text("blocks.0.attn.qkv")
    chart = page.locator(".card > .chartbox svg")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".card > .chartbox .readout")).to_contain_text("step 30")


def test_focus_stays_where_it_was(page: Any) -> None:
    opened(page, view="map")
    button = page.locator("[data-key=axis-visits]")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_be_focused()


def test_everything_that_can_be_pressed_has_a_name(page: Any) -> None:
    for view in ("overview", "map", "layer"):
        opened(page)
        page.locator(f"[data-key=view-{view}]").click()
        expect(page.locator(f"[data-key=view-{view}]")).to_have_attribute("aria-current", "page")
        ready(page)
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, select, input, canvas[tabindex], svg[tabindex]')]"
            ".filter((node) => !(node.getAttribute('aria-label') || node.labels?.[0]?.textContent"
            " || node.textContent).trim()).map((node) => node.outerHTML)"
        )
        assert nameless == []


def test_a_link_survives_a_reload(page: Any) -> None:
    opened(page)
    page.locator("[data-key=view-map]").click()
    page.locator("select[data-key=reading]").select_option("gradient_flow/gradient_norm")
    page.locator("[data-key=axis-visits]").click()
    expect(page.locator("[data-key=axis-visits]")).to_have_attribute("aria-pressed", "true")
    before = state_of(page)
    page.reload()
    ready(page)
    assert state_of(page) == before
    expect(page.locator("select[data-key=reading]")).to_have_value("gradient_flow/gradient_norm")
    expect(page.locator("[data-key=axis-visits]")).to_have_attribute("aria-pressed", "true")


def test_a_link_names_a_run_by_its_directory(page: Any) -> None:
    opened(page, dir="logs%2Fwell")
    expect(page.locator(".headline")).to_have_text("No warnings")
    opened(page, dir="logs%2Fgone")
    expect(page.locator(".headline")).to_have_text("1 critical, 1 warning, 1 note")


@pytest.mark.parametrize(
    "state", ["p.nndiag.view=x", "p.nndiag.layer=gone&p.nndiag.view=layer", "%E0%A4%A&p.nndiag.run=%"]
)
def test_links_that_lead_nowhere_do_no_harm(page: Any, state: str) -> None:
    page.goto(f"{PAGE}#{state}")
    ready(page)
    expect(page.locator(".bar h1")).to_have_text("nndiag")


def test_texts_of_others_stay_texts(page: Any) -> None:
    opened(page, finding="ND202")
    expect(page.locator("details[data-rule=ND202] .message")).to_contain_text("<img src=x onerror=")
    assert page.locator(".page img, .page script").count() == 0
    assert page.title() == "nndiag"


def test_dark_mode_changes_the_colors(page: Any) -> None:
    page.emulate_media(color_scheme="dark")
    opened(page, view="map")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    pixel = "document.querySelector('canvas.heat').toDataURL()"
    before = page.evaluate(pixel)
    page.emulate_media(color_scheme="light")
    page.wait_for_function("!document.documentElement.classList.contains('dark')")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert page.evaluate(pixel) != before


def test_a_layer_is_found_by_a_part_of_its_name(page: Any) -> None:
    opened(page)
    search = page.get_by_role("combobox", name="Find a layer")
    search.fill("blocks.1 MLP")
    search.press("Enter")
    expect(page.locator(".headline")).to_have_text("blocks.1.mlp.fc1")
    expect(search).to_have_value("")
    search.fill("nowhere")
    search.press("Enter")
    assert search.evaluate("(node) => node.validationMessage") == "No layer has this in its name."
    expect(page.locator(".headline")).to_have_text("blocks.1.mlp.fc1")


def test_motion_is_for_those_who_want_it(page: Any) -> None:
    opened(page)
    page.evaluate("document.querySelector('main').setAttribute('aria-busy', 'true')")
    moving = "getComputedStyle(document.querySelector('main')).transitionDuration"
    assert page.evaluate(moving) != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == "0s"


def test_an_earlier_visit_of_the_units(page: Any) -> None:
    opened(page, view="layer", layer="blocks.0.attn.proj")
    units = page.locator("section[aria-label=Units]")
    expect(units).to_contain_text("16 units at step 30")
    units.locator("input[type=range]").fill("0")
    expect(units).to_contain_text("16 units at step 8")
    units.get_by_text("Show as table").click()
    expect(units.locator("tbody tr")).to_have_count(16)


def test_the_loss_stands_below_the_series(page: Any) -> None:
    opened(page, view="map", reading="saturation/saturated")
    numbers = page.locator(".numbers")
    expect(numbers).to_contain_text("The run: loss")
    expect(numbers.locator("svg")).to_have_attribute(
        "aria-label", re.compile(r"Loss of the run. sick: 2.3 at step 0")
    )
    opened(page, view="layer", layer="stem", beside="well")
    expect(numbers.locator("path.curve")).to_have_count(2)


def test_the_page_holds_no_way_to_make_text_into_elements() -> None:
    static = Path(__file__).parents[2] / "nndiag" / "page" / "static"
    for path in static.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|\.write\(|\beval\(|new Function", source
        ), path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source), path.name
