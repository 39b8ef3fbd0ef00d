"""The examples run, and say what they promise."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings(r"error::Warning:nndiag\..*"),
    pytest.mark.filterwarnings(r"error::Warning:example_.*"),
]


def example(name: str) -> ModuleType:
    """The module of an example, as ``python examples/<name>.py`` would load it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What an example writes stays here; Lightning keeps its notices to itself."""
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    yield tmp_path
    log.setLevel(level)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        *("lightning_digits", "plain_loop"),
        *("accelerate_loop", "fabric_loop", "huggingface_trainer"),
    }


@pytest.mark.parametrize("name", ["fabric", "accelerate"])
def test_loops_under_a_framework_name_the_layer_that_is_off(name: str, own_directory: Path) -> None:
    pytest.importorskip("accelerate" if name == "accelerate" else "lightning", reason=f"needs {name}")
    report = example(f"{name}_loop").main(epochs=1)
    found = next(f for top in report.findings for f in top.walk() if f.rule == "ND202")
    assert "2" in found.layers
    assert (own_directory / "runs" / name / "nndiag.jsonl").exists()


@pytest.mark.slow
def test_huggingface_trainer_names_the_layer_that_starts_badly(own_directory: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers: pip install 'transformers[torch]'")
    report = example("huggingface_trainer").main(steps=20)
    found = next(f for top in report.findings for f in top.walk() if f.rule == "ND201")
    assert found.layer is not None
    assert found.layer.startswith("bert.pooler")
    assert (own_directory / "runs" / "huggingface" / "nndiag.jsonl").exists()


def test_lightning_digits_names_the_layer_that_starts_badly(own_directory: Path) -> None:
    report = example("lightning_digits").main(epochs=1)
    assert {f.layer for f in report.findings if f.rule == "ND201" and f.is_active} == {"net.2"}
    assert list(own_directory.glob("runs/**/nndiag.jsonl"))
    assert list(own_directory.glob("runs/**/events.out.tfevents.*"))


def test_plain_loop_names_the_layer_whose_units_are_equal(own_directory: Path) -> None:
    report = example("plain_loop").main(steps=20)
    found = next(f for f in report.findings if f.rule == "ND301")
    assert found.is_active
    assert found.severity == "critical"
    assert "0" in found.layers
    assert (own_directory / "runs" / "plain" / "nndiag.jsonl").exists()
