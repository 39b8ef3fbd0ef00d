"""Broken and hostile files end in one clear line, and nothing in them runs."""

from __future__ import annotations

import pickle
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nndiag import checkpoints
from nndiag.checkpoints.child import read_here
from nndiag.errors import CheckpointError

from .forging import MARKER, archive, legacy, opcodes, payloads, pickled
from .hostile import GOOD, HOSTILE


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """A gigabyte more than the process has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check(text: str) -> None:
    """One line for a person, and no advice to be careless."""
    assert text
    assert "\n" not in text
    assert "weights_only" not in text
    assert "Traceback" not in text
    assert len(text) < 2000


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 120


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    path = HOSTILE[name](tmp_path)
    with pytest.raises(CheckpointError) as caught:
        read_here(path)
    check(str(caught.value))
    assert "cannot be read (" not in str(caught.value), "a fault of the reader's own"
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", payloads(Path()))
def test_payload_beside_weights_is_inert(name: str, form: str, tmp_path: Path) -> None:
    """The weights are read all the same."""
    data = pickled({"state_dict": GOOD, "hyper_parameters": payloads(tmp_path)[name]})
    (tmp_path / "x.pt").write_bytes(archive(data) if form == "zip" else legacy(data))
    snapshot = read_here(tmp_path / "x.pt")
    assert {key.statistic for key in snapshot.statistics} >= {"flow/w"}
    assert not (tmp_path / MARKER).exists()


def test_payloads_would_run(tmp_path: Path) -> None:
    """Else the marker proves nothing."""
    for data in (pickled(payloads(tmp_path)["open"]), opcodes(tmp_path)["STACK_GLOBAL"]):
        pickle.loads(data).close()  # noqa: S301
        assert (tmp_path / MARKER).exists()
        (tmp_path / MARKER).unlink()


SAMPLE = [
    *("payload os.system, zip", "payload exec, legacy", "opcode STACK_GLOBAL", "zip cut at 4/8"),
    *("zip with a flipped weight", "tensor: stride 0 for 2^40 entries", "safetensors: header 100,000 deep"),
    *("15 million instructions in 60 kB", "pipe", "index names 'pipe.bin'"),
]


def refused_by_the_child(name: str, folder: Path) -> str:
    """What a person is told."""
    path = HOSTILE[name](folder)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(path)
    text = str(caught.value)
    check(text)
    assert not (folder / MARKER).exists()
    return text


@pytest.mark.parametrize("name", SAMPLE)
def test_child_refuses_too(name: str, tmp_path: Path) -> None:
    text = refused_by_the_child(name, tmp_path)
    assert text.startswith(str(tmp_path)), "the path comes first"
    assert "broke the process" not in text


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_hostile_file_through_the_child(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slowest, worst = (0.0, ""), 0
    for number, name in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        folder.mkdir()
        begin = time.monotonic()
        text = refused_by_the_child(name, folder)
        slowest = max(slowest, (time.monotonic() - begin, name))
        worst = max(worst, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        assert "broke the process" not in text, name
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{len(HOSTILE)} files; slowest {slowest[0]:.1f} s ({slowest[1]}); most memory {worst / 1024:.0f} MB"
        )
