"""Building the two files of a release, and environments to install one into."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nndiag"


def run(*command: str | Path, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A command that ends well, in a directory of its own."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build(source: Path, folder: Path, *targets: str) -> dict[str, Path]:
    """The files of a release, by target, from a tree; nothing is downloaded."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    for target in targets:
        command += ["--target", target]
    run(*command, cwd=source)
    ends = {"wheel": ".whl", "sdist": ".tar.gz"}
    return {
        target: next(file for file in folder.iterdir() if file.name.endswith(ends[target]))
        for target in targets
    }


def unpacked(sdist: Path, folder: Path) -> Path:
    """The tree inside a source distribution."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


def names(wheel: Path) -> set[str]:
    """Every file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def source_files() -> set[str]:
    """Every file of the package as it lies in the tree."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


@dataclass(frozen=True)
class Environment:
    """A Python with nothing in it but what is put there."""

    folder: Path

    @classmethod
    def new(cls, folder: Path) -> Environment:
        """An empty one."""
        venv.create(folder, with_pip=False, symlinks=True)
        return cls(folder)

    @property
    def scripts(self) -> Path:
        """Where commands are."""
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.scripts / "python"

    @property
    def packages(self) -> Path:
        """Where packages are."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    def unpack(self, wheel: Path) -> None:
        """Puts a wheel's modules in: what a type checker needs of an installation."""
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.packages)

    def install(self, wheel: Path) -> None:
        """Installs a wheel alone, with its commands; the index of packages is not asked."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet")
        run(*pip, "--no-index", "--no-deps", wheel, cwd=self.folder)

    def borrow(self) -> None:
        """Lets it find what this Python has. Not what is installed in editable form: that has a path file."""
        here = sysconfig.get_path("purelib")
        (self.packages / "borrowed.pth").write_text(f"{here}\n", encoding="utf-8")
