"""A machine that reads pickles and can do nothing else: no name in a file is ever imported or called.

It knows plain containers and numbers. What a file wants called goes by its name to ``rebuilding``; what that does
not know becomes a ``Stub`` that swallows whatever is put into it.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from nndiag.checkpoints.files import CHUNK, Region
from nndiag.checkpoints.rebuilding import Global, Stub, as_key, build
from nndiag.errors import CheckpointError

MOST_OPERATIONS = 5_000_000
"""Of one pickle: a network of 100,000 tensors with optimizer state needs fewer."""

_LONGEST_NUMBER = 4096
_LONGEST_LINE = 1 << 16
_KEPT = 1 << 20
"""Bytes from which a value written out in the pickle is passed over: no tensor's name is as long."""

_MARK = object()


class ByteReader:
    """Bytes of a region in order.

    Args:
        region: The region.
        start: Where to begin.
    """

    def __init__(self, region: Region, start: int = 0) -> None:
        self._region, self._next = region, start
        self._buffer, self._at = b"", 0

    @property
    def position(self) -> int:
        """Where the next byte lies in the region."""
        return self._next - len(self._buffer) + self._at

    def take(self, length: int) -> bytes:
        """The next bytes."""
        end = self._at + length
        if end > len(self._buffer):
            self._fill(length)
            end = length
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    def skip(self, length: int) -> None:
        """Passes over bytes, unread."""
        target = self.position + length
        if length < 0 or target > self._region.size:
            raise CheckpointError("is cut off: its pickle has no end")
        self._buffer, self._at, self._next = b"", 0, target

    def line(self) -> bytes:
        """The bytes before the next line feed, which is passed over."""
        end = self._buffer.find(b"\n", self._at)
        if end < 0:
            self._fill(min(_LONGEST_LINE, self._region.size - self.position))
            end = self._buffer.find(b"\n", self._at)
        if not 0 <= end - self._at < _LONGEST_LINE:
            raise CheckpointError("is damaged: its pickle holds a line without an end")
        piece = self._buffer[self._at : end]
        self._at = end + 1
        return piece

    def _fill(self, wanted: int) -> None:
        """Puts the next bytes to the front of the buffer: as many as are wanted, and more where there are."""
        here = self.position
        left = self._region.size - here
        if wanted > left:
            raise CheckpointError("is cut off: its pickle has no end")
        length = min(left, max(wanted, CHUNK))
        self._buffer, self._at = bytes(self._region.read(here, length)), 0
        self._next = here + length


class Machine:
    """Reads one pickle.

    Args:
        source: Where its bytes come from; left behind its end.
        persistent: What stands for an id of something outside the pickle.
    """

    def __init__(self, source: ByteReader, persistent: Callable[[Any], Any]) -> None:
        self._source, self._persistent = source, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._left = MOST_OPERATIONS

    def read(self) -> Any:
        """The value of the pickle.

        Raises:
            CheckpointError: it is damaged, or made to take for ever.
        """
        try:
            while True:
                code = self._source.take(1)
                if code == b".":
                    return self._pop()
                action = _ACTIONS.get(code)
                if action is None:
                    raise CheckpointError("is no pickle, or a damaged one: it holds an unknown instruction")
                self.charge(1)
                action(self)
        except (LookupError, ValueError, TypeError, OverflowError, struct.error) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError("is damaged: its pickle makes no sense") from error

    def charge(self, operations: int) -> None:
        """Counts work; there is an end to it."""
        self._left -= operations
        if self._left < 0:
            raise CheckpointError("is refused: its pickle asks for more work than any checkpoint needs")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise CheckpointError("is damaged: its pickle makes no sense")
        return value

    def _top(self) -> Any:
        value = self._stack[-1]
        if value is _MARK:
            raise CheckpointError("is damaged: its pickle makes no sense")
        return value

    def _since_mark(self) -> list[Any]:
        """Everything above the newest mark, which goes too."""
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise CheckpointError("is damaged: its pickle makes no sense")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _unsigned(self, width: int) -> int:
        return int.from_bytes(self._source.take(width), "little")

    def _bytes(self, length: int) -> bytes:
        """A value of so many bytes; a large one is passed over."""
        if length <= _KEPT:
            return self._source.take(length)
        self._source.skip(length)
        return b""

    def _number(self, length: int) -> int:
        if length > _LONGEST_NUMBER:
            raise CheckpointError("is refused: its pickle holds an absurdly large number")
        return int.from_bytes(self._source.take(length), "little", signed=True)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _push_tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _global(self, module: str, name: str) -> None:
        self._push(Global(f"{module}.{name}"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise CheckpointError("is damaged: its pickle makes no sense")
        self._global(module, name)

    def _call(self, function: Any, args: Any) -> None:
        self._push(build(function, args, self.charge))

    def _inst(self) -> None:
        module, name = self._source.line(), self._source.line()
        self._call(Global(f"{_text(module)}.{_text(name)}"), tuple(self._since_mark()))

    def _obj(self) -> None:
        kind, *args = self._since_mark()
        self._call(kind, tuple(args))

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self._call(function, args)

    def _newobj_ex(self) -> None:
        self._pop()
        self._reduce()

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if len(items) % 2:
            raise CheckpointError("is damaged: its pickle makes no sense")
        if isinstance(target, dict):
            target.update(_pairs(items))

    def _add(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, set):
            target.update(map(as_key, items))

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _put(self, place: int) -> None:
        self._memo[place] = self._top()

    def _external(self, name: Any) -> None:
        self._push(self._persistent(name))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _quoted(line: bytes) -> str:
    """A string of the first protocol, between quotation marks; escapes are left as they are."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise CheckpointError("is damaged: its pickle makes no sense")
    return line[1:-1].decode("latin-1")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(as_key, items[::2]), items[1::2], strict=True))


def _integer(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.rstrip(b"L"))


_ACTIONS: dict[bytes, Callable[[Machine], Any]] = {
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._stack.pop(),
    b"1": lambda m: m._since_mark(),
    b"2": lambda m: m._push(m._top()),
    b"F": lambda m: m._push(float(m._source.line())),
    b"I": lambda m: m._push(_integer(m._source.line())),
    b"J": lambda m: m._push(int.from_bytes(m._source.take(4), "little", signed=True)),
    b"K": lambda m: m._push(m._unsigned(1)),
    b"L": lambda m: m._push(_integer(m._source.line())),
    b"M": lambda m: m._push(m._unsigned(2)),
    b"N": lambda m: m._push(None),
    b"P": lambda m: m._external(_text(m._source.line())),
    b"Q": lambda m: m._external(m._pop()),
    b"R": Machine._reduce,
    b"S": lambda m: m._push(_quoted(m._source.line())),
    b"T": lambda m: m._push(m._bytes(m._unsigned(4)).decode("latin-1")),
    b"U": lambda m: m._push(m._bytes(m._unsigned(1)).decode("latin-1")),
    b"V": lambda m: m._push(codecs.decode(m._source.line(), "raw_unicode_escape")),
    b"X": lambda m: m._push(_text(m._bytes(m._unsigned(4)))),
    b"a": lambda m: m._append([m._pop()]),
    b"b": lambda m: m._pop(),  # the state of an object: nothing of it is wanted
    b"c": lambda m: m._global(_text(m._source.line()), _text(m._source.line())),
    b"d": lambda m: m._push(_pairs(m._since_mark())),
    b"}": lambda m: m._push({}),
    b"e": lambda m: m._append(m._since_mark()),
    b"g": lambda m: m._push(m._memo[int(m._source.line())]),
    b"h": lambda m: m._push(m._memo[m._unsigned(1)]),
    b"i": Machine._inst,
    b"j": lambda m: m._push(m._memo[m._unsigned(4)]),
    b"l": lambda m: m._push(m._since_mark()),
    b"]": lambda m: m._push([]),
    b"o": Machine._obj,
    b"p": lambda m: m._put(int(m._source.line())),
    b"q": lambda m: m._put(m._unsigned(1)),
    b"r": lambda m: m._put(m._unsigned(4)),
    b"s": Machine._set_item,
    b"t": lambda m: m._push(tuple(m._since_mark())),
    b")": lambda m: m._push(()),
    b"u": lambda m: m._set(m._since_mark()),
    b"G": lambda m: m._push(struct.unpack(">d", m._source.take(8))[0]),
    b"B": lambda m: m._push(m._bytes(m._unsigned(4))),
    b"C": lambda m: m._push(m._bytes(m._unsigned(1))),
    b"\x80": lambda m: m._source.take(1),
    b"\x81": Machine._reduce,
    b"\x82": lambda m: m._push(Stub(f"copyreg extension {m._unsigned(1)}")),
    b"\x83": lambda m: m._push(Stub(f"copyreg extension {m._unsigned(2)}")),
    b"\x84": lambda m: m._push(Stub(f"copyreg extension {m._unsigned(4)}")),
    b"\x85": lambda m: m._push_tuple(1),
    b"\x86": lambda m: m._push_tuple(2),
    b"\x87": lambda m: m._push_tuple(3),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"\x8a": lambda m: m._push(m._number(m._unsigned(1))),
    b"\x8b": lambda m: m._push(m._number(m._unsigned(4))),
    b"\x8c": lambda m: m._push(_text(m._bytes(m._unsigned(1)))),
    b"\x8d": lambda m: m._push(_text(m._bytes(m._unsigned(8)))),
    b"\x8e": lambda m: m._push(m._bytes(m._unsigned(8))),
    b"\x8f": lambda m: m._push(set()),
    b"\x90": lambda m: m._add(m._since_mark()),
    b"\x91": lambda m: m._push(frozenset(map(as_key, m._since_mark()))),
    b"\x92": Machine._newobj_ex,
    b"\x93": Machine._stack_global,
    b"\x94": lambda m: m._put(len(m._memo)),
    b"\x95": lambda m: m._source.take(8),
    b"\x96": lambda m: m._push(m._bytes(m._unsigned(8))),
    b"\x97": lambda m: m._push(Stub("out-of-band buffer")),
    b"\x98": lambda m: None,
}
"""What each instruction does, protocols 0 to 5."""
