"""Broken and hostile files end in one clear line, and nothing in them runs."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nndiag import checkpoints
from nndiag.checkpoints import processes
from nndiag.checkpoints.child import read_here
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.errors import CheckpointError

from .__main__ import WATCHED, Trials
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


@pytest.fixture(scope="module")
def process() -> Iterator[ReadingProcess]:
    """It takes longer to start than all of the sample take."""
    with ReadingProcess() as process:
        yield process


@pytest.mark.parametrize("name", SAMPLE)
def test_child_refuses_too(name: str, process: ReadingProcess, tmp_path: Path) -> None:
    path = HOSTILE[name](tmp_path)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(path, process=process)
    text = str(caught.value)
    check(text)
    assert not (tmp_path / MARKER).exists()
    assert text.startswith(str(tmp_path)), "the path comes first"
    assert "broke the process" not in text


def test_the_witness_sees_what_a_loader_that_executes_does(tmp_path: Path) -> None:
    """Else its zeros prove nothing: in a process of its own, a payload runs and a socket is opened."""
    code = (
        "import pickle, socket, sys; from tests.checkpoints import watched;"
        "sys.addaudithook(watched.witness); pickle.load(open(sys.argv[1], 'rb')); socket.socket().close();"
        "print(watched.seen['code'] > 1, watched.seen['sockets'] > 0)"
    )
    (tmp_path / "x.pkl").write_bytes(pickled(payloads(tmp_path)["os.system"]))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path / "x.pkl")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
    assert (tmp_path / MARKER).exists()


FORBIDDEN = """
import os, pickle, socket, sys
from nndiag.checkpoints import child
sys.addaudithook(child._refuse)
calls = (socket.socket, os.fork, lambda: os.system("true"), lambda: pickle.loads(b"cos\\nsystem\\n."))
for call in calls:
    try:
        call()
    except PermissionError as error:
        print(error)
"""


def test_the_child_may_not_do_what_no_reader_does() -> None:
    done = subprocess.run([sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, check=True)
    names = [
        line.removesuffix(" is not for a process that reads a checkpoint")
        for line in done.stdout.splitlines()
    ]
    assert names == ["socket.__new__", "os.fork", "os.system", "pickle.find_class"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_hostile_file_through_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", WATCHED)
    monkeypatch.setenv("NNDIAG_WITNESS", "")
    with ReadingProcess() as process:
        trials = Trials(tmp_path).of(HOSTILE, process)
    assert [trial for trial in trials if not trial.is_well] == []
    for trial in trials:
        check(trial.said)
        assert "broke the process" not in trial.said, trial.name
