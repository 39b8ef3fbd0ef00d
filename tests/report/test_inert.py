"""Untrusted text is made visible, short and one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiag.report import plain_text
from nndiag.report.inert import NAME_LIMIT, plain_name, spans
from report.samples import HOSTILE, is_inert

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text(kind: str) -> None:
    assert is_inert(plain_text(HOSTILE[kind]))
    assert is_inert(plain_name(HOSTILE[kind]))
    assert len(plain_name(HOSTILE[kind])) <= NAME_LIMIT


@given(ANY_TEXT)
def test_any_text(text: str) -> None:
    plain = plain_text(text)
    assert is_inert(plain)
    assert plain_text(plain) == plain
    assert "".join(part for part, _ in spans(text)).replace("`", "") == plain.replace("`", "")


@given(ANY_TEXT, st.integers(8, 50))
def test_any_limit(text: str, limit: int) -> None:
    assert len(plain_text(text, limit)) <= limit


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("blocks.0.mlp:relu#1", "blocks.0.mlp:relu#1"),
        ("層.重み é", "層.重み é"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u202eb", "a\\u202eb"),
        ("a\U000e0041", "a\\U000e0041"),
        ("a\ud800", "a\\ud800"),
        ("a\x00b", "a\\x00b"),
        (" a \r\n\t b\u2028c ", "a b c"),
        ("", ""),
        (3.5, "3.5"),
        (None, "None"),
    ],
)
def test_spelling(text: object, plain: str) -> None:
    assert plain_text(text) == plain


def test_long_text_keeps_both_ends() -> None:
    plain = plain_text("begin" + "x" * 500 + "end", 40)
    assert len(plain) == 40
    assert plain.startswith("beginxxx")
    assert plain.endswith("xxxend")
    assert plain.count("…") == 1
    assert plain_text("x" * 40, 40) == "x" * 40


def test_the_run_has_no_name() -> None:
    assert plain_name(None) == "the run"
    assert plain_name("None") == "None"


@pytest.mark.parametrize("name", ["", "  \t"])
def test_every_name_shows(name: str) -> None:
    assert plain_name(name).strip()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("use `a.b(c)` now", [("use ", False), ("a.b(c)", True), (" now", False)]),
        ("`a` `b`", [("a", True), (" ", False), ("b", True)]),
        ("plain", [("plain", False)]),
        ("", []),
        ("an `unclosed tick", [("an `unclosed tick", False)]),
        ("``", [("``", False)]),
        ("`a|b`", [("`a|b`", False)]),
        ("`{{x}}`", [("`{{x}}`", False)]),
        ("`[y]`", [("`[y]`", False)]),
        ("`a\\b`", [("`a\\b`", False)]),
        ("`a\x00b`", [("`a\\x00b`", False)]),
    ],
)
def test_spans(text: str, parts: list[tuple[str, bool]]) -> None:
    assert spans(text) == parts
