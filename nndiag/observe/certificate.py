"""The certificate: which axis of which layer holds the samples, measured, never guessed by shape.

The tape is played once whole, and once on a reversed three fifths of the rows. The axis whose size followed is
the sample axis; reversing catches causal and time axes; a subset catches layers that mix samples.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from nndiag import compat
from nndiag.observe.tape import Operation, Tape
from nndiag.observe.values import Slot, leaves
from nndiag.observe.watch import Call
from nndiag.observe.wiring import first_tensor
from nndiag.statistics import Rows
from nndiag.statistics.sizes import is_on_host, peak

Match = Rows | Literal["fixed", "mixed", "ragged"]
_TOLERANCE = 2e-3
_SUBSETS = 9


@dataclass(frozen=True)
class Digest:
    """What of a tensor is compared: shape, mean and mean square along each axis, sum."""

    shape: tuple[int, ...]
    along: Mapping[int, Tensor]
    total: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> Digest:
        """Magnitudes are cut at 1e15, so that squares stay finite."""
        x = (tensor.abs() if tensor.is_complex() else tensor).float()
        if not x.numel() or not is_on_host(x) or not float(peak(x)) < 1e15:
            x = x.nan_to_num(0.0, 1e15, -1e15).clamp(-1e15, 1e15)
        square = x.square()
        along = {}
        for axis in range(x.dim()):
            rest = [other for other in range(x.dim()) if other != axis]
            pair = [x.mean(rest), square.mean(rest)] if rest else [x, square]
            along[axis] = torch.stack(pair)
        return cls(tuple(tensor.shape), along if x.numel() else {}, x.sum())


class Digester:
    """A listener that digests every output."""

    def __init__(self) -> None:
        self.digests: dict[str, Digest] = {}

    def before(self, call: Call) -> None:
        """Nothing to read yet."""

    def after(self, call: Call, output: Any) -> None:
        """Digests the first tensor of the output."""
        tensor = first_tensor(output)
        if tensor is not None and tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_nested):
            with compat.undispatched() if type(tensor) is Tensor else contextlib.nullcontext():
                self.digests[call.key] = Digest.of(tensor)


@dataclass(frozen=True)
class Certificate:
    """Which leaves can be cut along which axis, and where the samples of each call's output then are."""

    axis: int
    leaves: frozenset[int]
    rows: int
    found: Mapping[str, Match]

    def where(self, key: str) -> Rows | None:
        """The samples of a call's output; None when they are not separable."""
        match = self.found.get(key)
        return match if isinstance(match, Rows) else None


def certify(
    tape: Tape,
    whole: Mapping[str, Digest],
    replay: Callable[[Callable[[int, Tensor], Tensor]], Mapping[str, Digest]],
) -> Certificate | None:
    """Looks for an axis along which every top-level output falls into samples.

    Args:
        tape: The recorded step.
        whole: Digests of a replay on all rows.
        replay: Plays the tape on selected rows and returns the digests.
    """
    tops = set(tape.calls)
    for axis, chosen, count in _candidates(tape):
        kept = torch.arange(count - 1, -1, -1)[: max(1, 3 * count // 5)]

        def select(
            number: int, value: Tensor, axis: int = axis, kept: Tensor = kept, chosen: frozenset[int] = chosen
        ) -> Tensor:
            return value.index_select(axis, kept.to(value.device)) if number in chosen else value

        try:
            part = replay(select)
        except Exception:  # a subset that does not run is no candidate
            continue
        found = {key: compare(whole[key], part[key], kept, count) for key in whole if key in part}
        bad = [
            key
            for key, match in found.items()
            if match in ("mixed", "ragged") and key.partition("#")[0] in tops and whole[key].shape
        ]
        follows = any(isinstance(match, Rows) for match in found.values())
        if follows and not bad and not _leaves_data_behind(tape, chosen, found):
            return Certificate(axis, chosen, count, found)
    return None


def _leaves_data_behind(tape: Tape, chosen: frozenset[int], found: Mapping[str, Match]) -> bool:
    """Whether a call reads data that was not cut and gives all of it: then what was cut are but indices."""
    for operation in tape.operations:
        data = [tape.leaves[n].value for n in _roots(tape, operation) if n in tape.leaves and n not in chosen]
        reads = any(value.dim() > 1 and value.is_floating_point() for value in data)
        matches = [match for key, match in found.items() if key.partition("#")[0] == operation.name]
        if operation.kind == "call" and reads and "fixed" in matches:
            return True
    return False


def _candidates(tape: Tape) -> list[tuple[int, frozenset[int], int]]:
    """For each axis and each size along it: all leaves of that size, then fewer (a mask may only look so)."""
    candidates = []
    for axis in (0, 1):
        by_size: dict[int, list[int]] = defaultdict(list)
        for number in _in_order_of_use(tape):
            value = tape.leaves[number].value
            if value.dim() > axis and value.layout == torch.strided and value.shape[axis] > 1:
                by_size[value.shape[axis]].append(number)
        choices = [
            [(axis, frozenset(subset), size) for subset in itertools.islice(_subsets(numbers), _SUBSETS)]
            for size, numbers in by_size.items()
        ]
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*choices))
        candidates += [choice for choice in rounds if choice is not None][:_SUBSETS]
    return candidates


def _in_order_of_use(tape: Tape) -> list[int]:
    """The leaves that calls take first come first: an input, before a mask that was made before it."""
    used = dict.fromkeys(number for operation in tape.operations for number in _roots(tape, operation))
    return [number for number in used if number in tape.leaves]


def _roots(tape: Tape, operation: Operation) -> Iterator[int]:
    """The slots of an operation's inputs, in order; of views what they are views of."""
    for slot in leaves(operation.inputs, Slot):
        number = slot.number
        while number in tape.views:
            number = tape.views[number].base
        yield number


def _subsets(numbers: list[int]) -> Iterator[tuple[int, ...]]:
    """With the first of them, the largest first."""
    for size in range(len(numbers) - 1, -1, -1):
        for rest in itertools.combinations(numbers[1:], size):
            yield (numbers[0], *rest)


def compare(whole: Digest, part: Digest, kept: Tensor, count: int) -> Match:
    """How an output followed when only the rows ``kept`` of ``count`` were played."""
    if len(whole.shape) != len(part.shape):
        return "ragged"
    moved = [axis for axis, size in enumerate(whole.shape) if size != part.shape[axis]]
    if not moved:
        same = all(_close(whole.along[axis], part.along[axis]) for axis in whole.along)
        return "fixed" if same else "mixed"
    axis = moved[0]
    positions = whole.shape[axis] // count
    if len(moved) > 1 or whole.shape[axis] % count or part.shape[axis] != positions * len(kept):
        return "ragged"
    by_sample = whole.along[axis].view(2, count, positions)[:, kept].reshape(2, -1)
    if _close(by_sample, part.along[axis]):
        return Rows(axis, positions, "sample")
    by_position = whole.along[axis].view(2, positions, count)[:, :, kept].reshape(2, -1)
    if _close(by_position, part.along[axis]):
        return Rows(axis, positions, "position")
    return "mixed"


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return not a.numel() or float((a - b).abs().max()) <= _TOLERANCE * float(a.abs().max()) + 1e-12
