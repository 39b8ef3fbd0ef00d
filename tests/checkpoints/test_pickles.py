"""The machine reads plain pickles as Python does, and looks nothing up."""

from __future__ import annotations

import collections
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nndiag.checkpoints.files import CHUNK
from nndiag.checkpoints.pickles import MOST_OPERATIONS, ByteReader, Machine
from nndiag.checkpoints.rebuilding import Global, Stub, as_key
from nndiag.errors import CheckpointError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner) | st.sets(KEYS),
    max_leaves=20,
)


class Memory:
    """Bytes as a region."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, start: int, length: int) -> bytearray:
        """Some of them."""
        return bytearray(self.data[start : start + length])


def loads(data: bytes) -> Any:
    return Machine(ByteReader(Memory(data)), Stub).read()


@given(value=VALUES, protocol=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_plain_values_are_read_as_python_reads_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    if protocol < 3 and any(op.name == "GLOBAL" for op, _, _ in pickletools.genops(data)):
        return  # bytes of older protocols may be spelled by calls of str.encode
    assert loads(data) == pickle.loads(data)  # noqa: S301


def test_every_instruction_of_every_protocol_is_known() -> None:
    from nndiag.checkpoints.pickles import _ACTIONS

    known = {code.encode("latin-1") for code in (op.code for op in pickletools.opcodes)}
    assert known - _ACTIONS.keys() == {b"."}


def test_shared_values_stay_shared() -> None:
    inner = [1]
    first, second = loads(pickle.dumps([inner, inner]))
    assert first is second


def test_values_inside_themselves() -> None:
    value: list[Any] = []
    value.append(value)
    found = loads(pickle.dumps(value))
    assert found[0] is found


@pytest.mark.parametrize(
    "value", [collections.OrderedDict(a=1), collections.Counter("aab"), {1, 2}, frozenset({1})]
)
@pytest.mark.parametrize("protocol", range(6))
def test_containers_of_the_library(value: Any, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


def test_default_dicts_lose_their_factory() -> None:
    assert loads(pickle.dumps(collections.defaultdict(int, a=1))) == {"a": 1}


@pytest.mark.parametrize("protocol", range(6))
def test_names_are_kept_not_looked_up(protocol: int) -> None:
    assert loads(pickle.dumps(Machine, protocol)) == Global("nndiag.checkpoints.pickles.Machine")
    assert loads(b"cno.such.module\nname\n.") == Global("no.such.module.name")


def test_stub_swallows_items_and_state() -> None:
    found = loads(b"\x80\x02cposix\nsystem\n)R(K\x01K\x02e(K\x01K\x02u}b.")
    assert isinstance(found, Stub)
    assert found.name == "posix.system"
    assert Stub.__slots__ == ("name",)


def test_calling_a_stub_gives_a_stub() -> None:
    assert isinstance(loads(b"\x80\x02cposix\nsystem\n)R)R."), Stub)


def test_unhashable_keys_become_stubs() -> None:
    (key,) = loads(b"\x80\x02}]Ns.")
    assert isinstance(key, Stub)


@pytest.mark.parametrize("key", [None, True, 1, 1.5, "a", b"a", (1, "a"), ()])
def test_plain_keys_stay(key: Any) -> None:
    assert as_key(key) == key


def test_long_and_nested_tuples_are_no_keys() -> None:
    assert isinstance(as_key(tuple(range(17))), Stub)
    assert isinstance(as_key(((),)), Stub)


def test_work_has_an_end() -> None:
    with pytest.raises(CheckpointError, match="more work"):
        loads(b"N0" * (MOST_OPERATIONS // 2 + 1) + b".")


def test_what_is_behind_a_pickle_stays() -> None:
    source = ByteReader(Memory(pickle.dumps([1], 2) + pickle.dumps("b", 2) + b"rest"))
    assert [Machine(source, Stub).read() for _ in range(2)] == [[1], "b"]
    assert source.take(4) == b"rest"


@pytest.mark.parametrize("size", [CHUNK - 20, CHUNK - 1, CHUNK, CHUNK + 1])
def test_values_across_the_ends_of_blocks(size: int) -> None:
    data = pickle.dumps(["a" * size, "b" * 300, 7], 4)
    first, *rest = loads(data)
    assert first == "a" * size if size <= CHUNK else first == ""
    assert rest == ["b" * 300, 7]


@pytest.mark.parametrize("line", [b"I7\n.", b"L7L\n.", b"I" + b"0" * 60 + b"7\n."])
def test_lines(line: bytes) -> None:
    assert loads(line) == 7
