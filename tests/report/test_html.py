"""The report as HTML: nothing in it acts but its own modules, whatever the names of layers are."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nndiag.errors import CheckpointError
from nndiag.findings import Coverage, CoverageEntry
from nndiag.report import Report, plain_text
from nndiag.report.figures import figures
from nndiag.report.html import render_fragment, render_html
from nndiag.report.inert import plain_name
from report.page import ATTRIBUTES, TAGS, Page
from report.samples import HOSTILE, finding, full_report, healthy_report, hostile_report, is_inert, reading

FACES: dict[str, Callable[[Report], str]] = {"page": render_html, "fragment": render_fragment}
REPORTS = {"full": full_report, "healthy": healthy_report, "empty": Report.empty}


SCRIPTS = {"type", "nonce", "id", "media"}
"""Attributes of the page's own scripts and of the style sheet that they turn on."""

FROM_CONTENT = {"nonce", "content"}
"""Attributes that hold a digest of what the page says."""


def skeleton(page: Page) -> list[object]:
    """Elements and attributes; code is left out, because words may mark some of theirs."""
    tags = ((tag, tuple(pair for pair in pairs if pair[0] not in FROM_CONTENT)) for tag, pairs in page.tags)
    return [tag for tag in tags if tag != ("code", ())]


def allowed(face: Callable[[Report], str]) -> tuple[set[str], set[str]]:
    """Elements and attributes that a face may have."""
    return (TAGS | {"script"}, ATTRIBUTES | SCRIPTS) if face is render_html else (TAGS, ATTRIBUTES)


def policy_of(page: Page) -> dict[str, str]:
    """The rules of the page's content security policy."""
    [policy] = [dict(attrs)["content"] for tag, attrs in page.tags if dict(attrs).get("http-equiv")]
    assert policy is not None
    return dict(rule.strip().split(" ", 1) for rule in policy.split(";"))  # type: ignore[misc]


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Callable[[Report], str]:
    """Page and fragment."""
    return FACES[request.param]


@pytest.mark.parametrize("name", REPORTS)
def test_only_plain_elements_properly_nested(face: Callable[[Report], str], name: str) -> None:
    page = Page(face(REPORTS[name]()))
    tags, attributes = allowed(face)
    assert {tag for tag, _ in page.tags} <= tags
    assert {key for key, _ in page.attributes} <= attributes
    assert page.comments == []


def test_evidence_is_open_for_what_is_grave(face: Callable[[Report], str]) -> None:
    source = face(full_report())
    assert "<detailsopen" not in source
    assert source.count("<details open>") == 2


def test_layers_are_apart(face: Callable[[Report], str]) -> None:
    unseen = tuple(CoverageEntry(name, "saturation", "not observed", "why") for name in ("fc7", "fc8"))
    source = face(Report((finding(("fc4", "fc5")),), coverage=Coverage(unseen)))
    assert "</code><code>" not in source
    assert "<code>fc4</code> <code>fc5</code>" in source
    assert "<code>fc7</code>, <code>fc8</code>" in source


@pytest.mark.parametrize("name", REPORTS)
def test_a_fragment_has_no_script_and_makes_no_request(name: str) -> None:
    source = render_fragment(REPORTS[name]()).lower()
    for word in ("<script", "javascript:", "http:", "https:", "url(", "@import", "src=", "href=", "<iframe"):
        assert word not in source
    assert "//" not in source
    assert not re.search(r"\son\w+\s*=", source)


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_has_its_own_scripts_and_makes_no_request(name: str) -> None:
    page = Page(render_html(REPORTS[name]()))
    assert page.values("script", "type") == ["importmap", "application/json", "module"]
    assert len(set(page.values("script", "nonce"))) == 1
    keys = {key for key, _ in page.attributes}
    assert not keys & {"src", "href", "style", "srcset", "action"}
    assert not [key for key in keys if key.startswith("on")]
    [policy] = {policy_of(page)["default-src"]}
    assert policy == "'none'"
    for style in page.styles:
        assert not re.search(r"url\(|@import|//", style)


def test_policy_allows_the_own_modules_and_style_sheets_only() -> None:
    page = Page(render_html(full_report()))
    assert page.values("meta", "http-equiv") == ["Content-Security-Policy"]
    rules = policy_of(page)
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert not any("unsafe" in rule for rule in rules.values())
    digests = [base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in page.styles]
    assert set(rules["style-src"].split()) == {f"'sha256-{digest}'" for digest in digests}
    [nonce] = set(page.values("script", "nonce"))
    assert rules["script-src"] == f"'nonce-{nonce}'"
    tags = [tag for tag, _ in page.tags]
    assert tags.index("meta") < min(tags.index("style"), tags.index("script"))  # it holds for what follows


def test_a_text_cannot_hold_the_nonce() -> None:
    [nonce] = set(Page(render_html(full_report())).values("script", "nonce"))
    assert nonce is not None
    [other] = set(Page(render_html(hostile_report(nonce))).values("script", "nonce"))
    assert other != nonce


@pytest.mark.parametrize("kind", HOSTILE)
def test_data_of_the_page_say_what_the_report_says(kind: str) -> None:
    report = hostile_report(HOSTILE[kind])
    source = render_html(report)
    _, data, _ = Page(source).scripts
    assert "<" not in data
    assert json.loads(data) == figures(report)


def test_page_is_a_document_and_fragment_is_not() -> None:
    page, fragment = Page(render_html(full_report())), Page(render_fragment(full_report()))
    assert page.declarations == ["doctype html"]
    assert page.values("meta", "charset") == ["utf-8"]
    assert page.values("html", "lang") == ["en"]
    tags = [tag for tag, _ in fragment.tags]
    assert tags[0] == "style"
    assert tags[1:].count("main") == 1
    assert not {"html", "head", "body", "title", "meta"} & set(tags)
    assert fragment.declarations == []


def test_style_of_the_fragment_touches_nothing_outside() -> None:
    [style] = Page(render_fragment(full_report())).styles
    flat = re.sub(r"@media[^{]*\{", "", style)
    for selectors in re.findall(r"([^{}]+)\{", flat):
        assert all(each.strip().startswith(".nndiag") for each in selectors.split(","))


def test_it_says_everything(face: Callable[[Report], str]) -> None:
    words = Page(face(full_report())).words
    for part in (
        "1 critical, 1 warning, 1 note",
        "3 layers, 7 visits, last step 12,345, probe exact, 2.1% of the time",
        "critical saturated-activation ND201 fc1 since step 3 (never seen clean)",
        "What to do Shrink the weights with torch.nn.init.xavier_normal_ .",
        "How to see that it worked It stays low.",
        "Follows from it",
        "signal-vanishes ND311 at fc2",
        "vanishing-gradient ND601 at fc3",
        "value judged 0.875 threshold 0.7 saturated 0.875 samples 512 activation tanh trainable yes",
        "info init-law ND313 the run",
        "1 resolved units-locked ND301 at fc6",
        "saturation 1 1 1",
        "Not observed never means dead",
        "not called in the observed steps fc2",
        "Only rank 0 was watched.",
        "fc2 NaN",
        "fc3 -infinite",
    ):
        assert part in words


def test_an_empty_report_says_so(face: Callable[[Report], str]) -> None:
    page = Page(face(Report.empty()))
    assert "nothing was measured" in page.words
    assert "There is nothing to judge yet." in page.words
    assert "article" not in {tag for tag, _ in page.tags}


def test_a_healthy_report_says_so(face: Callable[[Report], str]) -> None:
    page = Page(face(healthy_report()))
    assert "no warnings" in page.words
    assert "No finding is active." in page.words
    assert "article" not in {tag for tag, _ in page.tags}
    assert "mark ok" in page.values("svg", "class")


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_inert(face: Callable[[Report], str], kind: str) -> None:
    source = face(hostile_report(HOSTILE[kind]))
    page = Page(source)
    assert all(is_inert(line) for line in source.split("\n"))
    tags, attributes = allowed(face)
    assert {tag for tag, _ in page.tags} <= tags
    assert {key for key, _ in page.attributes} <= attributes
    assert page.comments == []
    assert source.lower().count("<script") == (3 if face is render_html else 0)


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind not in ("nothing", "spaces")])
def test_hostile_text_changes_no_structure(face: Callable[[Report], str], kind: str) -> None:
    page, tame = (Page(face(hostile_report(text))) for text in (HOSTILE[kind], "fc7"))
    assert skeleton(page) == skeleton(tame)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_readable(face: Callable[[Report], str], kind: str) -> None:
    page = Page(face(Report((finding((HOSTILE[kind],)),), (reading(HOSTILE[kind]),))))
    assert page.words.count(plain_name(HOSTILE[kind])) >= 2
    page = Page(face(Report(run={"note": HOSTILE[kind]})))
    assert plain_text(HOSTILE[kind], 300) in page.words


def test_classes_come_from_the_program_alone(face: Callable[[Report], str]) -> None:
    values = (
        {value for key, value in Page(face(report)).attributes if key not in FROM_CONTENT}
        for report in (full_report(), hostile_report('x" onclick="y'))
    )
    known, odd = values
    assert odd - known <= {"step 12345"}


def test_readings_are_a_table_by_measure_and_layer() -> None:
    readings = (
        reading("fc1", value=0.25),
        reading("fc2", value=0.5),
        reading("fc2", name="lower_tail", value=0.125),
        reading("fc1", measure="initialization", name="gain", value=3.0),
    )
    words = Page(render_html(Report(readings=readings))).words
    assert "saturation layer saturated lower tail fc1 0.25 fc2 0.5 0.125" in words
    assert "initialization layer gain fc1 3" in words


@pytest.mark.parametrize("names", [("a b", "a  b"), ("x" * 150 + "1" + "y" * 50, "x" * 150 + "2" + "y" * 50)])
def test_layers_with_like_names_keep_their_readings(names: tuple[str, str]) -> None:
    words = Page(
        render_html(Report(readings=(reading(names[0], value=0.25), reading(names[1], value=0.5))))
    ).words
    assert "0.25" in words
    assert "0.5" in words


def test_deeply_nested_symptoms_are_shown_or_refused() -> None:
    record = finding().to_dict()
    for _ in range(300):
        record = finding().to_dict() | {"related": [record]}
    try:
        report = Report.from_json(json.dumps(Report().to_dict() | {"findings": [record]}))
    except CheckpointError:
        return
    assert Page(render_html(report))


def test_files_and_notebooks_get_the_same(tmp_path: Path) -> None:
    report, path = full_report(), tmp_path / "report.html"
    assert report.to_html(path) == report.to_html(str(path)) == render_html(report)
    assert path.read_text(encoding="utf-8") == render_html(report)
    assert report._repr_html_() == render_fragment(report)
    assert render_html(report) == render_html(report)
