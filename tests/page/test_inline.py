"""The page in one file: modules that find each other, data that cannot leave their element."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

import nndiag.page
from nndiag.page.assets import TYPES, load_assets
from nndiag.page.inline import ENTRY, STYLE, Inlined, inline

PAGE = Path(nndiag.page.__file__).parent


def modules(page: Inlined) -> dict[str, str]:
    """Source of each module in the import map."""
    found = json.loads(page.import_map)
    assert list(found) == ["imports"]
    prefix = "data:text/javascript;base64,"
    assert all(address.startswith(prefix) for address in found["imports"].values())
    return {
        name: base64.b64decode(address.removeprefix(prefix)).decode()
        for name, address in found["imports"].items()
    }


def test_every_module_is_in_the_map() -> None:
    names = {f"nndiag/{path.name}" for path in (PAGE / "static").glob("*.js")}
    assert set(modules(inline({}))) == names


def test_every_import_is_answered_by_the_map() -> None:
    found = modules(inline({}))
    asked = {
        name for source in found.values() for name in re.findall(r"(?:from|import)\s*\(?'([^']+)'", source)
    }
    assert len(asked) > 5
    assert asked <= set(found)


def test_nothing_else_of_a_module_is_changed() -> None:
    for name, source in modules(inline({})).items():
        file = (PAGE / "static" / name.removeprefix("nndiag/")).read_text(encoding="utf-8")
        assert source.replace("'nndiag/", "'./") == file.replace("'nndiag/", "'./")


@pytest.mark.parametrize("text", ["</script><script>", "<!--", "]]>", "\u2028", "\ud800", "' \" & \\"])
def test_data_stay_in_their_element(text: str) -> None:
    page = inline({text: [text]})
    assert "<" not in page.data
    assert page.data.isascii()
    assert json.loads(page.data) == {text: [text]}


def test_numbers_that_json_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        inline({"x": float("nan")})


def test_the_nonce_comes_from_the_content() -> None:
    assert inline({"x": 1}) == inline({"x": 1})
    assert inline({"x": 1}).nonce != inline({"x": 2}).nonce
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", inline({}).nonce)


def test_the_policy() -> None:
    page = inline({}, "p { margin: 0 }")
    digests = (
        base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
        for sheet in (page.style, "p { margin: 0 }")
    )
    assert page.policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'nonce-{page.nonce}'",
        "style-src " + " ".join(f"'sha256-{digest}'" for digest in digests),
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_the_start_shows_the_entry() -> None:
    page = inline({})
    assert page.start == f"import {{show}} from 'nndiag/{ENTRY}'; show();"
    assert "export async function show()" in modules(page)[f"nndiag/{ENTRY}"]


def test_assets_are_a_closed_set_of_known_types() -> None:
    assets = load_assets()
    assert STYLE in assets
    assert all("/" not in name and kind in TYPES.values() for name, (_, kind) in assets.items())


def test_no_asset_could_end_the_element_it_stands_in() -> None:
    assert "</" not in inline({}).import_map
    assert "</" not in load_assets()[STYLE][0].decode()


def test_the_page_knows_nothing_of_the_rest() -> None:
    for path in PAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nndiag"):
                assert str(node.module).startswith("nndiag.page"), path.name
