"""From an open checkpoint to a snapshot: a layer at a time, and of each layer a tensor at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nndiag.checkpoints.contents import Contents, OptimizerState
from nndiag.checkpoints.directions import scaled_copies
from nndiag.checkpoints.folders import step_in_name
from nndiag.checkpoints.inference import layers_of, module_of, plain_names
from nndiag.checkpoints.tensors import Stored
from nndiag.errors import CheckpointError
from nndiag.findings import Scalar
from nndiag.layers import LayerInfo, unit_rows
from nndiag.measures import Need
from nndiag.measures.stored_norms import GAINS
from nndiag.measures.stored_units import scaled_fact
from nndiag.observe.observation import Observation
from nndiag.observe.weights import read_weights
from nndiag.snapshot import Gap, Key, Snapshot
from nndiag.statistics import NormState, ParameterFlow, RowSignature, WeightLaw

_BLOCK = 1 << 21
_MOST_LAYERS = 50_000
_NO_GRADIENTS = "a checkpoint holds no gradients"
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "weight_u", "n_averaged")
_LAW = 1 << 22
"""Entries by which the law of a weight is told."""

_EPS = 1e-5
"""Of PyTorch's normalizations, unless told otherwise; files do not say it."""


def snapshot_of(contents: Contents, path: Path, layers: Mapping[str, LayerInfo] | None = None) -> Snapshot:
    """The statistics of a checkpoint; no weight is kept.

    Args:
        contents: The open checkpoint.
        path: Where it came from: its name may say the step.
        layers: The layers of the model, where there is one to ask; None: they are inferred.
    """
    names, notes = plain_names(contents.tensors)
    step, origin = _step(contents, path)
    is_start = step == 0 and origin in ("the checkpoint", "the name")
    reader = _Reader({names[name]: stored for name, stored in contents.tensors.items()}, is_start)
    infos = dict(layers) if layers is not None else layers_of(reader.tensors)
    notes += _said_of(infos, layers is None)
    if len(infos) > _MOST_LAYERS:
        infos = dict(list(infos.items())[:_MOST_LAYERS])
        notes.append(f"only the first {_MOST_LAYERS} layers were read")
    for info in infos.values():
        reader.read_layer(info)
    reader.read_parameters()
    if not reader.seen.statistics:
        reasons = Counter(reader.seen.gaps.values()).most_common(1)
        why = f": {reasons[0][0]}" if reasons else ""
        raise CheckpointError(f"holds no tensor that can be read{why}")
    facts: dict[str, Scalar] = {**contents.facts, **_facts(reader.tensors), "step_from": origin}
    facts |= reader.facts | _optimizer_facts(contents.optimizers, reader)
    return Snapshot(
        step=step,
        source="checkpoint",
        layers=infos,
        statistics={key: statistic.cpu() for key, statistic in reader.seen.statistics.items()},
        gaps=reader.seen.gaps,
        facts=facts,
        notes=(*contents.notes, *notes, *reader.seen.notes),
    )


class _Reader:
    """Reads statistics; holds the tensors of one layer at most, and reads each of them once.

    Args:
        tensors: By name, wrappers stripped.
        is_start: Whether they are known to be those of an untrained network.
    """

    def __init__(self, tensors: Mapping[str, Stored], is_start: bool) -> None:
        self.tensors, self.is_start = tensors, is_start
        self.seen = Observation()
        self.facts: dict[str, Scalar] = {}
        self._held: dict[str, Tensor] = {}
        self._sizes: dict[str, tuple[float, int]] = {}

    def read_layer(self, info: LayerInfo) -> None:
        """Signatures of its units, or the state of a normalization."""
        self._held.clear()
        names = [_full(info.name, part.parameter) for domain in info.domains for part in domain.parts]
        problem = next((p for n in names if n in self.tensors and (p := problem_of(self.tensors[n]))), None)
        if problem is not None:
            self.seen.gaps[Gap(info.name, "weight", "weights")] = problem
        elif info.domains:
            found = read_weights(
                [info], self._tensor, lambda name: None, needs=frozenset({Need.UNIT_SIGNATURES}), first=False
            )
            self.seen.absorb(found)
            self._read_directions(info)
        if self.is_start:
            self._read_law(info)
        self.seen.gaps[Gap(info.name, "grad", "weights")] = _NO_GRADIENTS
        if info.role == "norm":
            self._read_norm(info)
        for name, tensor in self._held.items():
            if self.tensors[name].is_floating:
                self._sizes[name] = _size(tensor)

    def read_parameters(self) -> None:
        """The size of each parameter, and whether its numbers are finite."""
        sick: list[str] = []
        for name, stored in self.tensors.items():
            layer, own = module_of(name)
            if not stored.is_floating and len(stored.shape) > 1 and own.startswith("weight"):
                self.seen.gaps.setdefault(Gap(layer, "weight", "weights"), f"{stored.kind} values")
        for name in _distinct(self.tensors):
            stored, (layer, own) = self.tensors[name], module_of(name)
            if _is_buffer(own) or stored.numel == 0:
                continue
            problem = problem_of(stored)
            if problem is not None:
                self.seen.gaps.setdefault(Gap(layer, "weight", "weights"), problem)
                continue
            self._held.clear()
            square, bad = self._sizes[name] if name in self._sizes else _size(stored.read())
            if bad:
                sick.append(f"{name} ({bad} of {stored.numel})")
            self.seen.statistics[Key(layer, "grad", "weights", f"flow/{own}")] = ParameterFlow(
                entries=torch.tensor(stored.numel),
                weight=torch.tensor(square**0.5, dtype=torch.float64),
                gradient_scale=torch.tensor(0.0),
                gradient_rest=torch.tensor(0.0),
                non_finite=torch.tensor(bad),  # of the parameter: there is no gradient
                saliency=torch.empty(0),
                has_gradient=torch.tensor(0),
            )
        if sick:
            more = f" and {len(sick) - 5} more" if len(sick) > 5 else ""
            self.seen.notes.append(f"not all numbers are finite in {', '.join(sick[:5])}{more}")

    def _read_directions(self, info: LayerInfo) -> None:
        """How many units are multiples of others, where a unit is a row of weights and a bias."""
        signature = self.seen.statistics.get(Key(info.name, "weight", "weights", "signature/"))
        if info.role != "weight" or len(info.domains) != 1 or not isinstance(signature, RowSignature):
            return
        rows = unit_rows(info.domains[0], lambda name: self._tensor(_full(info.name, name)))
        copies = 0 if rows is None or rows.is_complex() else scaled_copies(rows.flatten(1), signature)
        if copies:
            self.facts[scaled_fact(info.name)] = copies

    def _read_law(self, info: LayerInfo) -> None:
        """Which law initial weights came from; of a large weight, some of its rows say it."""
        weight = None if info.weight is None else self._tensor(_full(info.name, info.weight))
        if weight is not None and weight.dim() > 1 and weight.numel() and not weight.is_complex():
            rows = weight[:: -(-weight.numel() // _LAW)]
            self.seen.statistics[Key(info.name, "weight", "weights", "law")] = WeightLaw.of(rows)

    def _read_norm(self, info: LayerInfo) -> None:
        gain = next((t for name in GAINS if (t := self._tensor(_full(info.name, name))) is not None), None)
        if gain is not None and gain.dim() == 1 and len(gain) and not gain.is_complex():
            key = Key(info.name, "weight", "weights", "signature/gain")
            self.seen.statistics[key] = RowSignature.of(gain.unsqueeze(1))
        found = {name: self._tensor(_full(info.name, name)) for name in ("running_mean", "running_var")}
        mean, variance = found["running_mean"], found["running_var"]
        if mean is None or variance is None or mean.dim() != 1 or mean.shape != variance.shape:
            return
        tracked = self._tensor(_full(info.name, "num_batches_tracked"))
        is_count = tracked is not None and tracked.numel() == 1 and not tracked.is_complex()
        self.seen.statistics[Key(info.name, "weight", "weights", "norm_state")] = NormState.of(
            mean.float(),
            variance.float(),
            tracked.reshape(()).long() if tracked is not None and is_count else None,
            momentum=None,
            eps=_EPS,
            training=False,
            trainable=None,
        )

    def _tensor(self, name: str) -> Tensor | None:
        stored = self.tensors.get(name)
        if stored is None or problem_of(stored) is not None:
            return None
        if name not in self._held:
            self._held[name] = stored.read()
        return self._held[name]


def problem_of(stored: Stored) -> str | None:
    """Why nothing can be computed with a tensor."""
    if stored.problem is not None:
        return stored.problem
    has_no_kernels = stored.kind.startswith(("complex", "float4", "bits", "uint1", "int1"))
    return f"{stored.kind} values" if has_no_kernels and stored.kind not in ("uint16", "int16") else None


def _size(tensor: Tensor) -> tuple[float, int]:
    """Sum of squares of the finite entries, and the number of others; a block at a time."""
    square, bad = 0.0, 0
    for block in tensor.reshape(-1).split(_BLOCK):
        numbers = block.float() if block.dtype.itemsize < 4 else block
        norm = float(torch.linalg.vector_norm(numbers, dtype=torch.float64))
        if not math.isfinite(norm):
            finite = numbers.isfinite()
            bad += block.numel() - int(finite.sum())
            norm = float(torch.linalg.vector_norm(torch.where(finite, numbers, 0), dtype=torch.float64))
        square += norm * norm
    return square, bad


def _is_buffer(own: str) -> bool:
    """Whether a tensor is one that no optimizer updates, by its name."""
    return own in _BUFFERS or own.rpartition(".")[2] in ("_u", "_v")


def _full(layer: str, own: str) -> str:
    return f"{layer}.{own}" if layer else own


def _said_of(infos: Mapping[str, LayerInfo], is_inferred: bool) -> Iterator[str]:
    if is_inferred:
        kinds = Counter(info.kind for info in infos.values())
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
        yield f"kinds of layers are inferred from names and shapes: {listed or 'none'}"
    if any(info.kind == "BatchNorm" or "running" in (info.inferred or "") for info in infos.values()):
        yield f"a checkpoint does not say eps and momentum of a normalization: eps is taken to be {_EPS:g}"


def _step(contents: Contents, path: Path) -> tuple[int, str]:
    """Where training stood, and who says so."""
    updates = max((each.step or 0 for each in contents.optimizers), default=0)
    named = step_in_name(path)
    if contents.step is not None:
        return contents.step, "the checkpoint"
    if updates:
        return updates, "the optimizer"
    return (0, "unknown") if named is None else (named, "the name")


def _facts(tensors: Mapping[str, Stored]) -> dict[str, Scalar]:
    kinds = Counter(stored.kind for stored in tensors.values())
    shown = ", ".join(f"{count} {kind[:40]}" for kind, count in kinds.most_common(10))
    numbers = sum(tensors[name].numel for name in _distinct(tensors))
    return {"tensors": len(tensors), "numbers": numbers, "dtypes": shown}


def _distinct(tensors: Mapping[str, Stored]) -> list[str]:
    """Names of floating tensors in the order of the file; of those that share one place, the first."""
    first: dict[object, str] = {}
    for name, stored in tensors.items():
        if stored.is_floating:
            first.setdefault(name if stored.identity is None else stored.identity, name)
    return list(first.values())


def _optimizer_facts(optimizers: list[OptimizerState], reader: _Reader) -> dict[str, Scalar]:
    """Settings as a live run gives them, and layers that no gradient has reached."""
    facts: dict[str, Scalar] = {}
    for name in ("lr", "weight_decay", "step"):
        known = [value for each in optimizers if (value := getattr(each, name)) is not None]
        if known:
            facts["optimizer_step" if name == "step" else name] = max(known)
    if len(optimizers) == 1:
        facts |= {
            f"no gradient so far: {layer}": True for layer in _never_updated(optimizers[0], reader.tensors)
        }
    return facts


def _never_updated(state: OptimizerState, tensors: Mapping[str, Stored]) -> list[str]:
    """Layers with a parameter whose mean square gradient is exactly zero after updates.

    An optimizer numbers parameters in the order of the model; that this order is the file's is believed where it
    has one group, as many parameters as the model, and all shapes fit.
    """
    names = [name for name in _distinct(tensors) if not _is_buffer(module_of(name)[1])]
    if state.groups != 1 or not state.step or len(state.parameters) != len(names):
        return []
    pairs = [
        (n, state.squares[p]) for n, p in zip(names, state.parameters, strict=True) if p in state.squares
    ]
    if any(tensors[name].shape != square.shape for name, square in pairs):
        return []
    silent = [
        name for name, square in pairs if problem_of(square) is None and _size(square.read()) == (0.0, 0)
    ]
    return list(dict.fromkeys(module_of(name)[0] for name in silent))
