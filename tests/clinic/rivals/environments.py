"""An environment of its own for each tool, outside the repository; torch and the rest are shared with this one."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

VERSIONS: Mapping[str, str] = {
    "torchmortem": "0.1.1",
    "neural-observatory": "0.5.1",
    "torch-audit": "0.3.0",
    "traintools": "0.6.2",
}
"""The tools that are installed, and the versions compared with."""


def interpreter(tool: str, directory: Path | None) -> Path | None:
    """The Python that has the tool; this one for what needs no installation, None where it is not installed."""
    if tool not in VERSIONS:
        return Path(sys.executable)
    found = directory / tool / "bin" / "python" if directory else None
    return found if found and found.exists() else None


def install(tool: str, directory: Path) -> str:
    """Makes the environment of a tool; returns why that failed, or nothing."""
    home = directory / tool
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    folder = next(home.glob("lib/python*/site-packages"))
    (folder / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    package = f"{tool}=={VERSIONS[tool]}"
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", package]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode == 0:
        return ""
    (home / "bin" / "python").unlink()
    return made.stderr.strip().splitlines()[-1]
