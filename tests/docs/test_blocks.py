"""Python blocks run as they are, given what they leave to the reader; shell commands are real."""

from __future__ import annotations

import itertools
import logging
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from typer.main import get_command

import nndiag
from nndiag.cli import app

from .pages import DOCS, PAGES, README, ROOT, blocks, name_of

START = DOCS / "start.md"
MIGRATION = DOCS / "migration.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


class Module(pl.LightningModule):
    """What a reader has already."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def readers_names() -> dict[str, Any]:
    """The names that blocks take for granted."""
    torch.manual_seed(0)
    module = Module()
    loader = DataLoader(TensorDataset(torch.randn(32, 4), torch.randint(3, (32,))), batch_size=8)
    optimizer = torch.optim.SGD(module.net.parameters(), lr=0.1)
    names = {"module": module, "model": module.net, "loader": loader, "optimizer": optimizer}
    return names | {"nndiag": nndiag, "pl": pl, "loss_function": F.cross_entropy}


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a block writes stays here; Lightning keeps its notices to itself."""
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.filterwarnings(r"error::Warning:nndiag\..*")
@pytest.mark.parametrize("page", [README, START], ids=name_of)
@pytest.mark.parametrize("number", [0, 1])
def test_python_block_runs(page: Path, number: int) -> None:
    assert len(blocks(page, "python")) == 2
    names = readers_names()
    exec(blocks(page, "python")[number], names)  # noqa: S102
    assert names["monitor"].report.coverage.entries
    assert names["monitor"].report.status == "ok"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.filterwarnings(r"error::Warning:nndiag\..*")
@pytest.mark.parametrize("number", range(len(blocks(MIGRATION, "python"))))
def test_block_to_migrate_to_runs(number: int) -> None:
    names = readers_names()
    exec(blocks(MIGRATION, "python")[number], names)  # noqa: S102
    assert names["monitor"].report.coverage.entries


def commands() -> list[list[str]]:
    """Every command of every shell block, as words."""
    shell = [block.replace("\\\n", " ") for page in PAGES for block in blocks(page, "bash")]
    lines = [line for block in shell for line in block.splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def test_readme_installs_and_tries_in_one_command_each() -> None:
    shell = "\n".join(blocks(README, "bash"))
    assert 'pip install ".[demo]" && nndiag demo' in shell
    assert 'pip install -e ".[test]" && pytest\n' in shell


def test_extras_exist() -> None:
    asked = [word for words in commands() for word in re.findall(r"\[([a-z,]+)\]", " ".join(words))]
    known = set(PROJECT["project"]["optional-dependencies"])
    assert asked
    assert {extra for group in asked for extra in group.split(",")} <= known


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "nndiag"], ids=" ".join)
def test_command_and_its_options_exist(words: list[str]) -> None:
    command = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("words", [w for w in commands() if w[0] in ("python", "pytest")], ids=" ".join)
def test_file_that_is_run_exists(words: list[str]) -> None:
    own = ("docs/", "examples/", "tests/")
    run = [word for word in words if word.startswith(own)]
    modules = [word.replace(".", "/") for word in words if word.startswith("tests.")]
    assert [file for file in run if not (ROOT / file).exists()] == []
    homes = [(ROOT / f"{module}.py", ROOT / module / "__main__.py") for module in modules]
    assert [
        module for module, home in zip(modules, homes, strict=True) if not any(map(Path.exists, home))
    ] == []


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "pytest"], ids=" ".join)
def test_markers_exist(words: list[str]) -> None:
    markers = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    asked = {after for word, after in itertools.pairwise(words) if word == "-m"}
    assert asked <= markers


def test_every_command_of_the_shell_is_documented() -> None:
    text = START.read_text(encoding="utf-8")
    assert all(f"`nndiag {name}" in text for name in get_command(app).commands)  # type: ignore[attr-defined]


def test_every_option_is_documented() -> None:
    text = START.read_text(encoding="utf-8")
    options = nndiag.DiagnosticsMonitor.__init__.__kwdefaults__
    assert all(f"`{option}`" in text for option in options)
