"""What a checkpoint holds: the model's tensors by name, the step, what is known of the optimizer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nndiag.checkpoints.rebuilding import Global, Stub, TensorRef
from nndiag.checkpoints.tensors import Stored
from nndiag.errors import CheckpointError
from nndiag.findings import Scalar

Resolve = Callable[[TensorRef], Stored]

_MODELS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "generator"),
    *("weights", "params", "ema_state_dict", "model_ema"),
)
_OPTIMIZERS = ("optimizer_states", "optimizer_state_dict", "optimizer_state", "optimizer", "optim", "opt")
_STEPS = ("global_step", "global_steps", "step", "steps", "iteration", "iter", "iter_num", "num_updates")
_NOT_OF_THE_MODEL = re.compile(r"optim|^opt$|sched|scaler|callback|loop|rng|hyper_|^args$|config|ema|best")
SETTINGS = "hyper_parameters"
"""The fact that holds the plain hyperparameters of a Lightning checkpoint, as JSON."""

_LONGEST_NAME = 1000
_DEEPEST = 32
_MOST_TENSORS = 200_000
_MOST_NODES = 2_000_000
_PARAMETERS = 4_000
_MOST_SETTINGS, _LONGEST_SETTING = 500, 1000


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """What is known of an optimizer.

    Attributes:
        lr: Largest learning rate of its groups.
        weight_decay: Largest weight decay of its groups.
        step: Updates it has made.
        groups: Number of its groups of parameters.
        parameters: Names it gives its parameters, in its order.
        squares: Running mean squares of gradients (``exp_avg_sq``), by these names.
    """

    lr: float | None = None
    weight_decay: float | None = None
    step: int | None = None
    groups: int = 0
    parameters: tuple[Any, ...] = ()
    squares: Mapping[Any, Stored] = field(default_factory=dict)


@dataclass
class Contents:
    """A checkpoint that is open.

    Attributes:
        tensors: Of the model, by the names of the file.
        step: Where training stood; None: the file does not say.
        optimizers: In the order of the file.
        facts: Plain numbers and strings about it.
        notes: What a reader of the report should know.
    """

    tensors: dict[str, Stored]
    step: int | None = None
    optimizers: list[OptimizerState] = field(default_factory=list)
    facts: dict[str, Scalar] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def contents_of(root: Any, resolve: Resolve) -> Contents:
    """Finds its way in what a pickle held.

    Args:
        root: The value of the pickle.
        resolve: Finds the bytes of a tensor.

    Raises:
        CheckpointError: there is no model in it.
    """
    if isinstance(root, (Stub, Global)):
        raise CheckpointError(
            f"holds a whole object of class {root.name[:200]}, not its numbers: load it where you trust it, and"
            " save model.state_dict()"
        )
    if not isinstance(root, dict):
        raise CheckpointError(f"holds a {type(root).__name__}, not a state dict")
    notes: list[str] = []
    tensors = _model(root, resolve, notes)
    contents = Contents(tensors, _step(root), notes=notes)
    contents.optimizers = [_optimizer(each, resolve) for each in _optimizers(root)]
    epoch = root.get("epoch")
    if type(epoch) is int and 0 <= epoch < 1 << 53:
        contents.facts["epoch"] = epoch
    settings = plain_settings(root.get("hyper_parameters"))
    if settings:
        contents.facts[SETTINGS] = json.dumps(settings)
    foreign = sorted({value.name for value in root.values() if isinstance(value, Stub)})
    if foreign:
        notes.append(f"objects of foreign classes were not read: {', '.join(foreign[:5])[:300]}")
    return contents


def plain_settings(found: Any) -> dict[str, Any]:
    """Of hyperparameters those that are numbers, texts, booleans or flat lists of such; all else is left out.

    Names with a leading underscore are Lightning's own: some name a class that makes the model, which nobody shall
    call because a file says so.
    """
    entries = list(found.items())[:_MOST_SETTINGS] if isinstance(found, dict) else []
    return {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in entries
        if isinstance(name, str) and name.isidentifier() and not name.startswith("_") and _is_setting(value)
    }


def _is_setting(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _LONGEST_SETTING and all(_is_plain(item) for item in value)
    return _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):  # booleans are
        return abs(value) < 1 << 63
    return type(value) is float or (isinstance(value, str) and len(value) <= _LONGEST_SETTING)


def _model(root: Mapping[Any, Any], resolve: Resolve, notes: list[str]) -> dict[str, Stored]:
    for key in _MODELS:
        value = root.get(key)
        if isinstance(value, dict):
            inner = next((name for name in _MODELS if isinstance(value.get(name), dict)), None)
            found = _flat(value if inner is None else value[inner], resolve, notes)
            if found:
                where = repr(key) if inner is None else f"{inner!r} of {key!r}"
                notes.append(f"the model was read from {where} of the checkpoint")
                return found
        if isinstance(value, Stub):
            raise CheckpointError(
                f"holds a whole object of class {value.name[:200]} under {key!r}, not its numbers: load it where"
                " you trust it, and save model.state_dict()"
            )
    direct = any(isinstance(value, (TensorRef, Stored)) for value in root.values())
    own = (
        root
        if direct
        else {k: v for k, v in root.items() if not _NOT_OF_THE_MODEL.search(str(k).lower()[:99])}
    )
    found = _flat(own, resolve, notes)
    if not found:
        names = sorted({value.name for value in root.values() if isinstance(value, Stub)})
        what = f", only objects of foreign classes ({', '.join(names[:3])[:200]})" if names else ""
        raise CheckpointError(f"holds no tensors of a model{what}: save model.state_dict() with torch.save")
    return found


def _flat(root: Mapping[Any, Any], resolve: Resolve, notes: list[str]) -> dict[str, Stored]:
    """Tensors of nested dicts by dotted names; each dict is entered once, whatever refers to it."""
    found: dict[str, Stored] = {}
    passed = 0
    for name, value in _walk(root):
        if len(name) > _LONGEST_NAME or name in found:
            passed += 1
            continue
        if len(found) >= _MOST_TENSORS:
            raise CheckpointError("holds more tensors than any network has")
        found[name] = resolve(value) if isinstance(value, TensorRef) else value
    if passed:
        notes.append(f"{passed} tensors were passed over: their names are taken, or absurdly long")
    return found


def _walk(root: Mapping[Any, Any]) -> Iterator[tuple[str, TensorRef | Stored]]:
    """In the order of the file, without recursion."""
    seen = {id(root)}
    waiting: list[tuple[str, int, Iterator[tuple[Any, Any]]]] = [("", 0, iter(root.items()))]
    nodes = 0
    while waiting:
        prefix, depth, items = waiting[-1]
        pair = next(items, None)
        if pair is None:
            waiting.pop()
            continue
        nodes += 1
        if nodes > _MOST_NODES:
            raise CheckpointError("holds more values than any checkpoint needs")
        key, value = pair
        name = f"{prefix}{key if isinstance(key, str) else repr(key)[:100]}"
        if isinstance(value, (TensorRef, Stored)):
            yield name, value
        elif isinstance(value, dict) and id(value) not in seen and depth < _DEEPEST:
            seen.add(id(value))
            waiting.append((f"{name[: _LONGEST_NAME + 1]}.", depth + 1, iter(value.items())))


def _step(root: Mapping[Any, Any]) -> int | None:
    for key in _STEPS:
        value = root.get(key)
        if type(value) is int and 0 <= value < 1 << 53:
            return value
    return None


def _optimizers(root: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    for key in _OPTIMIZERS:
        value = root.get(key)
        found = value if isinstance(value, list) else [value]
        states = [each for each in found if isinstance(each, dict) and "param_groups" in each]
        if states:
            return states
    return []


def optimizer_of(root: Any, resolve: Resolve) -> OptimizerState | None:
    """An optimizer that has a file of its own; None where the file holds none."""
    is_one = isinstance(root, dict) and "param_groups" in root
    return _optimizer(root, resolve) if is_one else None


def _optimizer(state: Mapping[Any, Any], resolve: Resolve) -> OptimizerState:
    groups = state.get("param_groups")
    groups = [group for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    entries = state.get("state")
    entries = {k: v for k, v in entries.items() if isinstance(v, dict)} if isinstance(entries, dict) else {}
    names = [name for group in groups for name in _parameters(group)]
    squares, steps = {}, [0]
    for name, entry in list(entries.items())[:_PARAMETERS]:
        square = entry.get("exp_avg_sq")
        if isinstance(square, (TensorRef, Stored)):
            squares[name] = resolve(square) if isinstance(square, TensorRef) else square
        steps.append(_count(entry.get("step"), resolve))
    return OptimizerState(
        lr=_largest(groups, "lr"),
        weight_decay=_largest(groups, "weight_decay"),
        step=max(steps) or None,
        groups=len(groups),
        parameters=tuple(names),
        squares=squares,
    )


def _parameters(group: Mapping[Any, Any]) -> list[Any]:
    names = group.get("params")
    return [name for name in names if isinstance(name, (int, str))] if isinstance(names, list) else []


def _largest(groups: list[dict[Any, Any]], name: str) -> float | None:
    values: list[Any] = [group.get(name) for group in groups]
    numbers = [float(v) for v in values if type(v) in (int, float) and abs(v) < 1e300]
    finite = [number for number in numbers if math.isfinite(number)]
    return max(finite, default=None)


def _count(value: Any, resolve: Resolve) -> int:
    """A number of steps: plain, or a tensor of one entry."""
    if isinstance(value, TensorRef):
        value = resolve(value)
    if isinstance(value, Stored):
        is_number = value.load is not None and value.numel == 1 and not value.kind.startswith("complex")
        value = value.read().double().item() if is_number else 0
    is_count = type(value) in (int, float) and 0 <= value < 1 << 53
    return int(value) if is_count else 0
