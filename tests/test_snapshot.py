"""A snapshot comes back from disk as it was; any other file is refused with one line."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nndiag.errors import CheckpointError
from nndiag.layers import discover
from nndiag.snapshot import SCHEMA_VERSION, Gap, Key, Snapshot
from nndiag.statistics import Moments, RowSignature, Statistic, Tails

NETWORK = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LSTM(4, 5), nn.Conv2d(4, 6, 2, groups=2))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def sample() -> Snapshot:
    """One of everything a snapshot holds, odd numbers among them."""
    moments = Moments.of(noise(6, 1, 4))
    return Snapshot(
        step=17,
        source="live",
        layers=discover(NETWORK),
        statistics={
            Key("0", "output", "probe", "moments"): moments,
            Key("0", "output", "stream", "moments"): moments,
            Key("0", "weight", "weights", "signature/"): RowSignature.of(noise(4, 3)),
            Key("2", "weight", "weights", "signature/l0"): RowSignature.of(noise(5, 9), noise(5, 9)),
            Key("1", "input", "probe", "tails"): Tails.of(noise(6, 1, 4), -2.0, None),
        },
        gaps={Gap("1", "input", "stream"): "not called", Gap(None, "grad_output", "probe"): "compiled"},
        facts={
            "loss": math.nan,
            "peak": -math.inf,
            "total_steps": None,
            "n": 3,
            "is_done": True,
            "probe": "exact",
        },
        notes=("A note with\na line break.", "層"),
    )


def same(one: Statistic, other: Statistic) -> bool:
    mine, theirs = one.to_tensors(), other.to_tensors()
    equal = (
        torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        for a, b in zip(mine.values(), theirs.values(), strict=True)
    )
    types = (a.dtype == b.dtype for a, b in zip(mine.values(), theirs.values(), strict=True))
    return type(one) is type(other) and mine.keys() == theirs.keys() and all(equal) and all(types)


def saved(path: Path, snapshot: Snapshot | None = None) -> Path:
    (snapshot or sample()).save(path)
    return path


def test_round_trip(tmp_path):
    before, after = sample(), Snapshot.load(saved(tmp_path / "snapshot"))
    assert (after.step, after.source, after.notes) == (17, "live", before.notes)
    assert after.layers == before.layers
    assert list(after.layers) == list(before.layers), "in order of execution"
    assert after.gaps == before.gaps
    assert repr(after.facts) == repr(before.facts)
    assert list(after.statistics) == list(before.statistics)
    assert all(same(after.statistics[key], value) for key, value in before.statistics.items())


def test_round_trip_of_an_empty_snapshot(tmp_path):
    empty = Snapshot(0, "checkpoint", {}, {})
    assert Snapshot.load(str(saved(tmp_path / "snapshot", empty))) == empty


def test_what_is_loaded_can_be_saved_again(tmp_path):
    once = saved(tmp_path / "once")
    twice = saved(tmp_path / "twice", Snapshot.load(once))
    assert once.read_bytes() == twice.read_bytes()


def test_tensors_that_share_memory_or_skip_in_it(tmp_path):
    base = Moments.of(noise(6, 1, 4))
    fields = base.to_tensors()
    strided = Moments.from_tensors(fields | {"mean": noise(4, 2)[:, 0], "m2": fields["mean"]})
    key = Key("0", "output", "probe", "moments")
    after = Snapshot.load(saved(tmp_path / "snapshot", Snapshot(0, "live", {}, {key: strided})))
    assert same(after.statistics[key], strided)


def test_no_name_can_leave_its_place(tmp_path):
    names = ("../../x", "a/b", "", "nndiag", "層\u202e", "__metadata__")
    statistics = {Key(name, "output", "probe", "moments"): Moments.of(noise(3, 1, 2)) for name in names}
    after = Snapshot.load(saved(tmp_path / "snapshot", Snapshot(0, "live", {}, statistics)))
    assert list(after.statistics) == list(statistics)
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]


def test_questions():
    snapshot = sample()
    key = Key("0", "output", "probe", "moments")
    assert snapshot.get(*key) is snapshot.statistics[key]
    assert snapshot.get("9", "output", "probe", "moments") is None
    assert list(snapshot.parts("2", "weight", "weights", "signature")) == ["l0"]
    assert list(snapshot.parts("0", "weight", "weights", "signature")) == [""]
    assert snapshot.parts("0", "output", "probe", "moments") == {}


# Files that are none


def rewritten(path: Path, change: Any, metadata: str = "nndiag") -> Path:
    """A saved snapshot whose header has been changed."""
    raw = saved(path).read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    outer = json.loads(raw[8 : 8 + size])
    header = json.loads(outer["__metadata__"].pop("nndiag"))
    outer["__metadata__"][metadata] = json.dumps(change(header))
    text = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Snapshot.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


KEYS = ("schema_version", "step", "source", "layers", "keys", "gaps", "facts", "notes")


def test_an_unchanged_header_is_read(tmp_path):
    assert Snapshot.load(rewritten(tmp_path / "snapshot", lambda header: header)).step == 17


@pytest.mark.parametrize("key", KEYS)
def test_a_header_without_a_key_is_refused(tmp_path, key):
    refusal(rewritten(tmp_path / "snapshot", lambda header: {k: v for k, v in header.items() if k != key}))


@pytest.mark.parametrize("header", [[], 3, None, "text", True, {}, [1, 2]])
def test_a_header_that_is_no_mapping_is_refused(tmp_path, header):
    refusal(rewritten(tmp_path / "snapshot", lambda _: header))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("schema_version", value) for value in ("1", None, [])),
        *(("step", value) for value in (None, "x", [])),
        *(("layers", value) for value in (None, 3, [3], [{}], [{"name": "x"}], {"x": 1})),
        *(("keys", value) for value in (None, 3, [3], [[]], [["0", "output", "probe"]])),
        ("keys", [["0", "output", "probe", "no such statistic"]]),
        ("keys", [["0", "output", "probe", "moments", "one more"]]),
        ("keys", [["0", "output", "probe", "tails"]]),
        *(("gaps", value) for value in (None, 3, [3], [[]], [["a", "b"]])),
        *(("facts", value) for value in (None, 3, ["x"])),
        *(("notes", value) for value in (None, 3)),
    ],
)
def test_a_header_with_a_wrong_value_is_refused(tmp_path, key, value):
    refusal(rewritten(tmp_path / "snapshot", lambda header: header | {key: value}))


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99, 1e9])
def test_a_newer_schema_says_what_to_do(tmp_path, version):
    message = refusal(rewritten(tmp_path / "snapshot", lambda header: {"schema_version": version}))
    assert "newer nndiag: upgrade nndiag" in message


def test_a_header_nested_without_end_is_refused(tmp_path):
    path = tmp_path / "snapshot"
    save_file({}, path, metadata={"nndiag": "[" * 100_000})
    refusal(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"nndiag": "no json"}, {"nndiag": ""}])
def test_weights_of_something_else_are_refused(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file({"fc.weight": torch.ones(2, 2)}, path, metadata=metadata)
    refusal(path)


def test_a_tensor_more_is_refused(tmp_path):
    path = tmp_path / "snapshot"
    header = {
        "schema_version": 1,
        "step": 0,
        "source": "live",
        "layers": [],
        "keys": [],
        "gaps": [],
        "facts": {},
        "notes": [],
    }
    save_file({"no number": torch.ones(2)}, path, metadata={"nndiag": json.dumps(header)})
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\0" * 5000,
        b"PK\x03\x04",
        b"{}",
        b"\xff" * 64,
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 2) + b"[]",
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "snapshot"
    path.write_bytes(content)
    refusal(path)


def test_a_torn_file_is_refused_wherever_it_was_torn(tmp_path):
    whole, path = saved(tmp_path / "whole").read_bytes(), tmp_path / "torn"
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refusal(path)


def test_a_damaged_header_is_refused_or_read(tmp_path):
    """A flipped byte may hit a word that means nothing to nndiag; never another exception."""
    whole, path = saved(tmp_path / "whole").read_bytes(), tmp_path / "damaged"
    (size,) = struct.unpack("<Q", whole[:8])
    messages = []
    for at in range(0, 8 + size, 41):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            Snapshot.load(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert not [message for message in messages if "\n" in message]


def test_no_file_and_a_directory_are_refused(tmp_path):
    refusal(tmp_path / "missing")
    refusal(tmp_path)
