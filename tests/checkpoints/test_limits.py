"""A checkpoint takes what its size calls for, and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nndiag import checkpoints
from nndiag.checkpoints import processes, reading
from nndiag.checkpoints.limits import Limits
from nndiag.checkpoints.processes import ReadingProcess
from nndiag.errors import CheckpointError
from nndiag.snapshot import Snapshot


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"fc.weight": torch.rand(300, 300)}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_limits_grow_with_the_file() -> None:
    small, large = Limits.for_size(0), Limits.for_size(10 << 30)
    assert small.memory == 1 << 30
    assert large.memory > 2 * (10 << 30)
    assert large.seconds > small.seconds
    assert small.patience > small.seconds


def test_limits_hold_in_the_process_they_are_imposed_on() -> None:
    code = (
        "import resource; from nndiag.checkpoints.limits import Limits;"
        "notes = Limits(memory=1 << 28, seconds=7, patience=9, output=4096).impose();"
        "print(notes, resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_FSIZE));"
        "exec('try:\\n bytearray(1 << 29)\\nexcept MemoryError: print(1)')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["() (7, 7) (4096, 4096)", "1"]


@pytest.fixture(scope="module")
def process() -> Iterator[ReadingProcess]:
    """It takes longer to start than to read."""
    with ReadingProcess() as process:
        yield process


def test_too_little_memory_is_said(process: ReadingProcess, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(5000, 5000)}, tmp_path / "x.pt")
    limits = replace(Limits.for_size(0), memory=50 << 20)
    with pytest.raises(CheckpointError, match="more memory than reading it is given"):
        checkpoints.read(tmp_path / "x.pt", limits=limits, process=process)


def test_too_little_room_for_output_is_said(process: ReadingProcess, file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pt "):
        checkpoints.read(file, limits=replace(Limits.for_size(0), output=100), process=process)


def test_one_process_reads_several_and_is_none_the_worse_for_a_bad_one(
    process: ReadingProcess, file: Path, tmp_path: Path
) -> None:
    first = checkpoints.read(file, process=process)
    number = process.number
    (tmp_path / "bad.pt").write_bytes(b"P")
    with pytest.raises(CheckpointError, match="of no kind that is known"):
        checkpoints.read(tmp_path / "bad.pt", process=process)
    tight = replace(Limits.for_size(0), output=100)
    with pytest.raises(CheckpointError):
        checkpoints.read(file, limits=tight, process=process)
    assert checkpoints.read(file, process=process).facts == first.facts
    assert (process.number == number) == (sys.platform == "linux")


def test_a_process_that_ended_is_started_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "raise SystemExit(3)")
    with ReadingProcess() as own:
        for _ in range(2):
            with pytest.raises(CheckpointError, match="status 3"):
                checkpoints.read(file, process=own)


def test_a_process_that_talks_nonsense_is_ended(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print('x' * 100, flush=True); import time; time.sleep(60)")
    with pytest.raises(CheckpointError, match="more of this machine"):
        checkpoints.read(file)


def test_patience_has_an_end(file: Path) -> None:
    with pytest.raises(CheckpointError, match="not be read within 0 seconds"):
        checkpoints.read(file, limits=replace(Limits.for_size(0), patience=0))


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """What stands in for the child."""
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-S", "-c", code))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "more processor time"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "more of this machine"),
        ("import os; os.abort()", "broke the process that read it"),
        ("raise SystemExit(3)", r"broke the process that read it \(status 3\)"),
        ("pass", r"broke the process that read it \(status 0\)"),
    ],
)
def test_how_a_child_ends(code: str, text: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, code)
    with pytest.raises(CheckpointError, match=text):
        checkpoints.read(file)


REPLY = "import sys, json; out = json.loads(sys.stdin.readline())['out'];"


@pytest.mark.parametrize(
    "reply",
    [
        "open(out + '/error.json', 'w').write({!r})",
        "open(out + '/snapshot.safetensors', 'w').write({!r}); sys.exit(0)",
    ],
)
@pytest.mark.parametrize("data", ["", "{", "[]", '{"reason": 7}', "x" * (2 << 20), '{"reason": "a\\nb"}'])
def test_what_a_child_says_is_not_believed(
    reply: str, data: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, REPLY + reply.format(data))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def changed(name: str, value: Any, folder: Path) -> Path:
    """A sound snapshot with one thing in its header changed."""
    import struct

    from nndiag.checkpoints.child import read_here

    torch.save({"fc.weight": torch.rand(3, 2)}, folder / "small.pt")
    read_here(folder / "small.pt").save(folder / "sound")
    data = (folder / "sound").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    inner = json.loads(header["__metadata__"]["nndiag"])
    inner[name] = value
    header["__metadata__"]["nndiag"] = json.dumps(inner)
    text = json.dumps(header).encode()
    (folder / "forged").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return folder / "forged"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "live"),
        ("step", -1),
        ("step", "x"),
        ("notes", [7]),
        ("facts", {"a": [1]}),
        ("gaps", [["a", "weight", "weights", 7]]),
        ("gaps", [["a", "elsewhere", "weights", "why"]]),
        ("layers", [{"name": 7, "kind": "Linear", "role": "weight", "depth": 0}]),
        ("layers", [{"name": "a", "kind": "Linear", "role": "king", "depth": 0}]),
        ("keys", []),
    ],
)
def test_forged_snapshots_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    path = changed(name, value, tmp_path)
    with pytest.raises(CheckpointError):
        reading._trusted(path, Limits.for_size(0))


def test_the_snapshot_that_forgeries_are_made_from_is_sound(tmp_path: Path) -> None:
    found = reading._trusted(changed("step", 4, tmp_path), Limits.for_size(0))
    assert isinstance(found, Snapshot)
    assert found.step == 4


def test_nothing_is_left_behind(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "temporary"
    home.mkdir()
    monkeypatch.setattr(reading.tempfile, "tempdir", str(home))
    child(monkeypatch, "raise SystemExit(3)")
    with pytest.raises(CheckpointError):
        checkpoints.read(file)
    assert list(home.iterdir()) == []


PEAK = """
import re, sys
from pathlib import Path
from nndiag.checkpoints.child import read_here
import torch
torch.set_num_threads(1)
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
read_here(sys.argv[2])
before = peak()
read_here(sys.argv[1])
print(peak() - before)
"""


def peak(path: Path, small: Path) -> int:
    """Bytes that reading a checkpoint adds to what reading a small one needs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(path), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "sort", ["random", "alike", "turned", "embedding", "recurrent", "deflated", "safetensors"]
)
def test_memory_is_that_of_the_largest_tensor(kind: str, sort: str, file: Path, tmp_path: Path) -> None:
    """Twice the largest tensor and 200 MB, in a file of three of them."""
    torch.manual_seed(0)
    rows = 8192
    dtype, width = getattr(torch, kind), 8192 * 4096 // rows // (4 if sort == "recurrent" else 1)
    state = {}
    for n in range(3):
        weight = (
            torch.ones(rows, width, dtype=dtype) if sort == "alike" else torch.rand(rows, width).to(dtype)
        )
        name = {"embedding": f"{n}.tok_emb.weight", "recurrent": f"{n}.weight_hh_l0"}.get(sort, f"{n}.weight")
        state[name] = weight.T.contiguous().T if sort == "turned" else weight
        if sort in ("random", "alike"):
            state[f"{n}.bias"] = torch.zeros(rows, dtype=dtype)
    path = tmp_path / ("big.safetensors" if sort == "safetensors" else "big.pt")
    if sort == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)
    if sort == "deflated":
        from .good import repacked

        repacked(path, 8)
    largest = max(tensor.nbytes for tensor in state.values())
    del state, weight
    taken = peak(path, file)
    print(f"{kind} {sort}: {taken >> 20} MB for a tensor of {largest >> 20} MB")  # noqa: T201
    assert taken <= 2 * largest + (200 << 20)
