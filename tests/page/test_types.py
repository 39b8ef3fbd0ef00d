"""The page's modules agree about what they hand each other: TypeScript reads their comments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import nndiag.page

STATIC = Path(nndiag.page.__file__).parent / "static"
TSC = os.environ.get("TSC") or shutil.which("tsc")
OPTIONS = {
    "allowJs": True,
    "checkJs": True,
    "noEmit": True,
    "strict": False,
    "target": "es2022",
    "module": "es2022",
    "moduleResolution": "bundler",
    "lib": ["es2023", "dom", "dom.iterable"],
    "types": [],
}


@pytest.mark.skipif(TSC is None, reason="needs TypeScript: npm install --global typescript, or set TSC")
def test_the_modules_agree_about_their_types(tmp_path: Path) -> None:
    """Beside the modules stands a copy with a misspelled field: the only thing that may be complained about."""
    copy = tmp_path / "copy"
    shutil.copytree(STATIC, copy)
    order = (copy / "order.js").read_text(encoding="utf-8")
    (copy / "order.js").write_text(order.replace("finding.status", "finding.state"), encoding="utf-8")
    project = tmp_path / "tsconfig.json"
    files = [str(path) for directory in (STATIC, copy) for path in sorted(directory.glob("*.js"))]
    project.write_text(json.dumps({"compilerOptions": OPTIONS, "files": files}), encoding="utf-8")
    done = subprocess.run(
        [str(TSC), "--project", str(project)], check=False, capture_output=True, text=True, timeout=240
    )
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == [
        "error TS2339: Property 'state' does not exist on type 'Finding'."
    ], done.stdout
