"""The wheel holds the package, all of it and nothing else; the source distribution is enough to build it from."""

from __future__ import annotations

import re
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import nndiag

from .building import ROOT, build, names, source_files, unpacked

INFO = f"nndiag-{nndiag.__version__}.dist-info"


def text(wheel: Path, name: str) -> str:
    """One file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode("utf-8")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """What an installer reads."""
    return Parser().parsestr(text(wheel, f"{INFO}/METADATA"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert names(wheel) == source_files() | about | {f"{INFO}/licenses/LICENSE"}


@pytest.mark.parametrize(
    "name",
    [
        *("nndiag/py.typed", "nndiag/page/static/index.js", "nndiag/page/static/style.css"),
        *("nndiag/report/templates/page.html.j2", "nndiag/report/templates/report.css"),
    ],
)
def test_wheel_holds_what_is_no_python(wheel: Path, name: str) -> None:
    assert text(wheel, name) == (ROOT / name).read_text(encoding="utf-8")


def test_wheel_is_for_every_platform_and_small(wheel: Path) -> None:
    assert wheel.name == f"nndiag-{nndiag.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 1_000_000


def test_wheel_has_the_command_and_the_tab(wheel: Path) -> None:
    points = text(wheel, f"{INFO}/entry_points.txt")
    assert "[console_scripts]\nnndiag = nndiag.cli:main\n" in points
    assert "[tensorboard_plugins]\nnndiag = nndiag.dashboard.loader:DashboardLoader\n" in points


def test_wheel_has_the_whole_license(wheel: Path, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert text(wheel, f"{INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_metadata_says_what_it_is(metadata: Message) -> None:
    assert metadata["Name"] == "nndiag"
    assert metadata["Version"] == nndiag.__version__
    assert len(metadata["Summary"]) <= 120
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# nndiag\n" in metadata.get_payload()


def test_classifiers_name_every_python_from_the_oldest_on(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier")
    minors = [int(m) for m in re.findall(r":: Python :: 3\.(\d+)$", "\n".join(classifiers), re.MULTILINE)]
    assert metadata["Requires-Python"] == f">=3.{minors[0]}"
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert "Typing :: Typed" in classifiers


def test_source_distribution_builds_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    tree = unpacked(sdist, tmp_path / "tree")
    again = build(tree, tmp_path / "dist", "wheel")["wheel"]
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert {i.filename: i.CRC for i in first.infolist()} == {i.filename: i.CRC for i in second.infolist()}


def linked() -> set[str]:
    """What the front page and the one for contributors point at in this tree."""
    pages = (ROOT / name for name in ("README.md", "CONTRIBUTING.md"))
    links = [link for page in pages for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))]
    return {link for link in links if "://" not in link}


def test_source_distribution_has_what_its_pages_point_at(sdist: Path, tmp_path: Path) -> None:
    tree = unpacked(sdist, tmp_path)
    assert sorted(link for link in linked() if not (tree / link).exists()) == []
    assert (tree / "CITATION.cff").exists()
