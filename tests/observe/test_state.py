"""What a forward pass may change is found wherever a model may keep it, and put back as it was."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nndiag.observe.state import State, install


class Note:
    """An object of the user's."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slots:
    """Without a ``__dict__``."""

    __slots__ = ("count", "never_set")

    def __init__(self) -> None:
        self.count = 0


class Both(Slots):
    """With slots of its base, and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.more = 0


class Talking(dict):  # type: ignore[type-arg]
    """A dictionary none of whose methods may be asked."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError

    __setitem__ = __iter__ = items = keys = values = get = clear = update = pop = copy = __len__ = (  # type: ignore[assignment]
        __getitem__
    )


class Grumpy(list):  # type: ignore[type-arg]
    """A list of the same kind."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError

    __setitem__ = __iter__ = clear = extend = append = copy = __len__ = __getitem__  # type: ignore[assignment]


def model_with(**attributes: Any) -> nn.Module:
    """A module that holds something."""
    model = nn.Linear(2, 2)
    model.__dict__.update(attributes)
    return model


def closure(value: Any) -> Any:
    def function() -> Any:
        return value

    return function


PLACES = {
    "attribute": (lambda held: model_with(held=held), lambda m: m.held),
    "list": (lambda held: model_with(held=[held]), lambda m: m.held[0]),
    "tuple": (lambda held: model_with(held=(1, held)), lambda m: m.held[1]),
    "dict": (lambda held: model_with(held={"k": held}), lambda m: m.held["k"]),
    "ordered": (lambda held: model_with(held=collections.OrderedDict(k=held)), lambda m: m.held["k"]),
    "deque": (lambda held: model_with(held=collections.deque([held])), lambda m: m.held[0]),
    "namespace": (lambda held: model_with(held=types.SimpleNamespace(k=held)), lambda m: m.held.k),
    "object": (lambda held: model_with(held=Note(k=held)), lambda m: m.held.k),
    "nested": (lambda held: model_with(held=Note(k=[{"a": held}])), lambda m: m.held.k[0]["a"]),
    "closure": (lambda held: model_with(held=closure(held)), lambda m: m.held()),
    "partial": (lambda held: model_with(held=functools.partial(closure, held)), lambda m: m.held.args[0]),
    "bound method": (
        lambda held: model_with(held=types.MethodType(lambda self: self, Note(k=held))),
        lambda m: m.held.__self__.k,
    ),
}

KINDS: dict[str, tuple[Any, Any, Any]] = {
    "list": (lambda: [1, 2], lambda box: box.append(3), list),
    "dict": (lambda: {"a": 1}, lambda box: box.update(a=2, b=3), dict),
    "set": (lambda: {1, 2}, lambda box: box.discard(1), set),
    "deque": (lambda: collections.deque([1, 2], maxlen=2), lambda box: box.append(3), list),
    "bytearray": (lambda: bytearray(b"ab"), lambda box: box.extend(b"c"), bytes),
    "array": (lambda: np.array([1.0, np.nan]), lambda box: box.fill(2.0), lambda a: a.tobytes()),
    "tensor": (lambda: torch.ones(2), lambda box: box.add_(1), lambda t: t.tolist()),
    "object": (lambda: Note(a=1), lambda note: setattr(note, "a", 2), lambda note: dict(vars(note))),
    "slots": (Slots, lambda slots: setattr(slots, "count", 5), lambda slots: slots.count),
    "slots of a base": (Both, lambda both: setattr(both, "count", 5), lambda both: (both.count, both.more)),
    "counter": (lambda: collections.Counter("aab"), lambda box: box.update("c"), dict),
    "own dict": (
        lambda: dict.__new__(Talking),
        lambda box: dict.__setitem__(box, "a", 1),
        lambda box: list(dict.items(box)),
    ),
    "own list": (
        lambda: list.__new__(Grumpy),
        lambda box: list.append(box, 1),
        lambda box: list(list.__iter__(box)),
    ),
}


@pytest.mark.parametrize(("make", "change", "read"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize(("place", "find"), PLACES.values(), ids=PLACES.keys())
def test_changes_are_found_and_put_back(place: Any, find: Any, make: Any, change: Any, read: Any) -> None:
    held = make()
    model = place(held)
    before = read(held)
    state = State(model, parameters=False)
    change(held)
    after = read(held)
    assert after != before, "control"
    changed, pins = state.restore()
    assert find(model) is held
    assert read(held) == before
    assert len(changed) >= 1
    change(held)
    install(pins)
    assert read(held) == before, "pins hold what was put back"


def test_untouched_state_is_no_change() -> None:
    model = model_with(
        a=[1], b={"x": Note(k=np.zeros(2))}, c=torch.full((2,), torch.nan), d=np.array([np.nan])
    )
    assert State(model, parameters=True).restore() == ([], [])


def test_order_of_an_ordered_dictionary() -> None:
    """Its order is not that of insertion."""
    cache = collections.OrderedDict(a=1, b=2, c=3)
    cache.move_to_end("a")
    model = model_with(cache=cache)
    state = State(model, parameters=False)
    cache.move_to_end("b")
    cache["d"] = 4
    state.restore()
    assert list(cache) == ["b", "c", "a"]
    cache.move_to_end("c")
    assert list(cache) == ["b", "a", "c"], "its links are whole"


def test_keys_need_not_be_comparable() -> None:
    """Two tensors are neither equal nor unequal."""
    keys = torch.zeros(2), torch.zeros(2)
    cache = {keys[0]: 1}
    model = model_with(cache=cache)
    state = State(model, parameters=False)
    del cache[keys[0]]
    cache[keys[1]] = 1
    state.restore()
    assert [key is keys[0] for key in cache] == [True]


def test_attributes_come_and_go() -> None:
    model = model_with(kept=1)
    state = State(model, parameters=False)
    del model.kept
    model.__dict__["new"] = 2
    changed, pins = state.restore()
    assert vars(model)["kept"] == 1
    assert "new" not in vars(model)
    assert changed == ["new", "kept"]
    model.__dict__["new"] = 3
    install(pins)
    assert "new" not in vars(model)


def test_cycles_end() -> None:
    note = Note()
    note.me, note.pair = note, [note]  # type: ignore[attr-defined]
    box: list[Any] = [note]
    box.append(box)
    model = model_with(note=note, box=box)
    note.model = model  # type: ignore[attr-defined]
    state = State(model, parameters=False)
    note.extra = 1  # type: ignore[attr-defined]
    assert state.restore()[0] == ["note.extra"]


@pytest.mark.parametrize(
    "held",
    [
        threading.Lock(),
        threading.RLock(),
        threading.Event(),
        threading.local(),
        weakref.ref(Note),
        weakref.proxy(Note),
        weakref.WeakValueDictionary(),
        weakref.WeakKeyDictionary(),
        memoryview(b"ab"),
        object(),
        NotImplemented,
        torch.Size([1]),
        torch.device("cpu"),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        nn.UninitializedParameter(),
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_cannot_be_copied_is_passed_over(held: Any) -> None:
    state = State(model_with(held=held), parameters=True)
    assert state.iterators == []
    assert state.restore() == ([], [])


def test_dead_proxy_is_passed_over() -> None:
    note = Note()
    model = model_with(held=weakref.proxy(note))
    del note
    assert State(model, parameters=False).restore() == ([], [])


@pytest.mark.parametrize(
    "held",
    [iter([1]), iter({}), (x for x in (1,)), map(str, [1]), zip([1], [2], strict=True), enumerate([1])],
    ids=lambda held: type(held).__name__,
)
def test_iterators_are_told(held: Any) -> None:
    assert State(model_with(held={"k": [held]}), parameters=False).iterators == ["held[k][]"]


@contextlib.contextmanager
def entering(note: Note) -> Iterator[None]:
    """Counts how often it was entered."""
    note.count += 1  # type: ignore[attr-defined]
    yield


def test_manager_that_decorates_is_made_anew_at_each_call() -> None:
    """The generator it holds is never run; what it is made of is walked."""
    note = Note(count=0)
    model = model_with(held=entering(note)(lambda: None))
    state = State(model, parameters=False)
    assert state.iterators == []
    model.held()
    assert note.count == 1  # type: ignore[attr-defined]
    assert len(state.restore()[1]) == 1
    assert note.count == 0  # type: ignore[attr-defined]


def test_manager_that_is_held_can_be_entered_once() -> None:
    assert State(model_with(held=entering(Note(count=0))), parameters=False).iterators == ["held.gen"]


def test_frameworks_are_not_walked() -> None:
    """A trainer, a logger: not the model's state."""
    trainer = Note(count=0)
    model = model_with(_trainer=trainer, trainer=trainer)
    state = State(model, parameters=False)
    trainer.count = 1  # type: ignore[attr-defined]
    assert state.restore() == ([], [])
    assert trainer.count == 1  # type: ignore[attr-defined]


def test_parameters_are_followed_not_held() -> None:
    model = nn.Linear(2, 2)
    state = State(model, parameters=True)
    before = model.weight.detach().clone()
    model.weight.data.mul_(3)
    _, pins = state.restore()
    assert torch.equal(model.weight, before)
    assert pins == []


def test_parameters_that_were_given_other_memory() -> None:
    model = nn.Linear(2, 2)
    pointer, version = model.weight.data_ptr(), model.weight._version
    state = State(model, parameters=False)
    model.weight.data = torch.zeros(2, 2)
    changed, pins = state.restore()
    assert (model.weight.data_ptr(), model.weight._version) == (pointer, version)
    assert changed == ["weight was given other memory"]
    assert pins == []


@pytest.mark.parametrize("gradient", [None, torch.ones(2, 2)], ids=["none", "some"])
def test_gradients_are_the_same_objects(gradient: Any) -> None:
    model = nn.Linear(2, 2)
    model.weight.grad = gradient
    state = State(model, parameters=False)
    model.weight.grad = torch.zeros(2, 2)
    assert state.restore() == ([], [])
    assert model.weight.grad is gradient


def test_writes_that_a_barrier_takes_back_are_changes_too() -> None:
    """Otherwise a queue that the training fills would drift from visit to visit."""
    model = nn.Linear(2, 2)
    queue = torch.zeros(3)
    model.register_buffer("queue", queue)
    state = State(model, parameters=False)
    queue.add_(1)
    state.note_writes({queue.untyped_storage()._cdata})
    queue.sub_(1)
    changed, pins = state.restore()
    assert changed == ["queue"]
    assert torch.equal(pins[0].value, torch.zeros(3))
