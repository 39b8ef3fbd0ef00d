"""The report as markdown, read by two readers: CommonMark with tables, and TensorBoard's own."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Iterator

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nndiag.findings import Coverage, CoverageEntry
from nndiag.report import Report, plain_text
from nndiag.report.inert import plain_name
from report.page import Page
from report.samples import HOSTILE, finding, full_report, healthy_report, hostile_report, is_inert, reading

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the HTML cleaner inside TensorBoard
    from tensorboard.plugin_util import markdown_to_safe_html

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])

MEANT = {
    *("heading_open", "heading_close", "paragraph_open", "paragraph_close", "strong_open", "strong_close"),
    *("table_open", "table_close", "thead_open", "thead_close", "tbody_open", "tbody_close"),
    *("tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close", "inline", "text", "code_inline"),
    *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"),
}

WORDS = {"text", "code_inline"}

NAMED = [kind for kind in HOSTILE if kind not in ("nothing", "spaces")]


def tokens(markdown: str) -> Iterator[Token]:
    """Every token, also those inside lines."""
    for token in READER.parse(markdown):
        yield token
        yield from token.children or ()


def skeleton(markdown: str) -> list[str]:
    """What is built; which of the words are code is left out."""
    return [token.type for token in tokens(markdown) if token.type not in WORDS]


def words(markdown: str) -> str:
    """What a person reads."""
    return " ".join("".join(t.content for t in tokens(markdown) if t.type in WORDS).split())


@pytest.mark.parametrize("make", [full_report, healthy_report, Report.empty])
def test_only_what_is_meant(make: type[Report]) -> None:
    text = make().to_markdown()
    assert {token.type for token in tokens(text)} <= MEANT
    assert text.startswith("# nndiag: ")
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "://" not in text


def test_it_says_everything() -> None:
    text = full_report().to_markdown()
    for line in (
        "# nndiag: 1 critical, 1 warning, 1 note",
        "3 layers, 7 visits, last step 12,345, probe exact, 2.1% of the time",
        "## ■ critical: saturated-activation (ND201)",
        "**Where:** `fc1`",
        "**When:** since step 3 (never seen clean), last seen at step 12,345",
        "**What:** 88% of the inputs of tanh behind fc1 lie in its tails.",
        "**What to do:** Shrink the weights with `torch.nn.init.xavier_normal_`.",
        "**How to see that it worked:** It stays low.",
        "| evidence | value |",
        "| value judged | 0.875 |",
        "| samples | 512 |",
        "## ▲ warning: dead-units (ND202)",
        "**Where:** `fc4`, `fc5`",
        "## ● info: init-law (ND313)",
        "**Where:** the run",
        "## Resolved",
        "## Coverage",
        "| `saturation` | 1 | 1 | 1 |",
        "- `saturation` of `fc2`: not called in the observed steps",
        "- note: Only `rank 0` was watched.",
    ):
        assert line in text.splitlines()
    assert any(
        line.startswith("- follows from it: ▲ warning signal-vanishes (ND311)") for line in text.splitlines()
    )
    assert any(line.startswith("- ✓ units-locked (ND301) at `fc6`") for line in text.splitlines())


def test_an_empty_report_says_so() -> None:
    assert Report.empty().to_markdown().startswith("# nndiag: nothing was measured\n")
    assert "## ■" not in Report.empty().to_markdown()


def test_a_healthy_report_says_so() -> None:
    text = healthy_report().to_markdown()
    assert text.startswith("# nndiag: no warnings\n\n1 layer, 3 visits, last step 20\n")
    assert text.count("## ") == 1  # coverage


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_is_inert(kind: str) -> None:
    text = hostile_report(HOSTILE[kind]).to_markdown()
    assert all(is_inert(line) for line in text.split("\n"))
    assert {token.type for token in tokens(text)} <= MEANT
    assert not re.search(r"(?i)\b(https?|ftp)://|www\.|\]\(|<[a-z!/?]", text.replace("`", ""))


@pytest.mark.parametrize("kind", NAMED)
def test_hostile_text_changes_no_structure(kind: str) -> None:
    assert skeleton(hostile_report(HOSTILE[kind]).to_markdown()) == skeleton(
        hostile_report("fc7").to_markdown()
    )


@pytest.mark.parametrize("kind", HOSTILE)
def test_tables_keep_their_columns(kind: str) -> None:
    wide: list[int] = []
    for token in READER.parse(hostile_report(HOSTILE[kind]).to_markdown()):
        if token.type == "tr_open":
            wide.append(0)
        elif token.type in ("th_open", "td_open"):
            wide[-1] += 1
    assert set(wide) == {2, 4}


@pytest.mark.parametrize("kind", NAMED)
def test_hostile_text_is_readable(kind: str) -> None:
    name = HOSTILE[kind]
    coverage = Coverage((CoverageEntry(name, "saturation", "not observed", name),))
    read = words(Report((finding((name,), evidence={"x": name}),), coverage=coverage).to_markdown())
    assert read.count(plain_name(name)) >= 2
    assert plain_text(name, 300) in read


@pytest.mark.parametrize("kind", NAMED)
def test_hostile_text_in_tensorboard(kind: str) -> None:
    """Its reader knows other rules than CommonMark, and cleans what it makes."""
    report, tame = hostile_report(HOSTILE[kind]), hostile_report("fc7")
    page = Page(markdown_to_safe_html(report.to_markdown()))
    allowed = {"h1", "h2", "p", "strong", "code", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert {tag for tag, _ in page.tags} <= allowed
    assert page.attributes == []
    tame_page = Page(markdown_to_safe_html(tame.to_markdown()))
    assert [t for t, _ in page.tags if t != "code"] == [t for t, _ in tame_page.tags if t != "code"]


@pytest.mark.parametrize("kind", NAMED)
def test_hostile_text_is_readable_in_tensorboard(kind: str) -> None:
    page = Page(markdown_to_safe_html(Report((finding((HOSTILE[kind],)),)).to_markdown()))
    assert " ".join(html.unescape(plain_name(HOSTILE[kind])).split()) in html.unescape(page.words)


def test_ordinary_names_are_code() -> None:
    names = ("blocks.0.mlp:relu#1", "a_b.c-d", "x/y", "_x")
    text = Report((finding(names),)).to_markdown()
    assert "**Where:** `blocks.0.mlp:relu#1`, `a_b.c-d`, `x/y`, `_x`" in text


def test_lists_are_cut_and_counted() -> None:
    entries = [CoverageEntry(f"x{i}", "saturation", "not observed", "same") for i in range(9)]
    entries += [CoverageEntry(f"y{i}", "saturation", "not observed", f"reason {i}") for i in range(30)]
    notes = tuple(f"note {i}" for i in range(30))
    text = Report(readings=(reading(),), coverage=Coverage(tuple(entries), notes)).to_markdown()
    assert "of `x0`, `x1`, `x2`, `x3`, `x4` and 4 more: same" in text
    assert "- and 11 more reasons" in text
    assert "note 19" in text
    assert "note 20" not in text
