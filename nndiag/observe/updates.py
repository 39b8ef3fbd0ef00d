"""Parameters, their gradients, and what a step makes of them; a sample is held for the length of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from nndiag.layers import named_layers
from nndiag.observe.observation import Observation
from nndiag.snapshot import Gap, Key
from nndiag.statistics import ParameterFlow, UpdateSize, strided_sample, unreadable

_SAMPLE = 4096


class UpdatesObserver:
    """Reads every trainable parameter of a live model around a visited step.

    Args:
        root: The model.
        aliases: The name a layer is listed by, for each other name it has.
        keeps: Whether a layer is observed at all.
    """

    def __init__(self, root: nn.Module, aliases: Mapping[str, str], keeps: Callable[[str], bool]) -> None:
        self._root, self._aliases, self._keeps = root, aliases, keeps
        self._held: dict[Key, tuple[Tensor, Tensor]] = {}
        self._read: set[Key] = set()
        self._owned: set[int] = set()
        self._idle: set[int] = set()
        self._largest: dict[Key, Tensor] = {}

    def before(
        self,
        *,
        only: Sequence[Tensor] | None = None,
        scale: float = 1.0,
        gradients: bool = True,
        idle: Sequence[Tensor] = (),
    ) -> Observation:
        """Norms of parameters and gradients before an update; holds a sample of each parameter.

        Args:
            only: Parameters of the optimizer that is about to step; None means all. Another optimizer's
                parameters are read at its own step; those of none, with the first.
            scale: By which gradients are multiplied at present (a loss scaler's).
            gradients: Whether gradients are of this step.
            idle: Those of ``only`` whose learning rate is 0 at present.
        """
        seen = Observation()
        self._idle = (self._idle - {id(tensor) for tensor in only or ()}) | {id(tensor) for tensor in idle}
        updated = None if only is None else {id(tensor) for tensor in only}
        self._owned |= updated or set()
        for layer, name, parameter in self._parameters():
            key = Key(layer, "grad", "weights", f"flow/{name}")
            is_own = updated is None or id(parameter) in updated
            if not is_own and (id(parameter) in self._owned or key in self._read):
                continue
            self._read.add(key)
            gradient = parameter.grad if gradients else None
            reason = unreadable(parameter) or (unreadable(gradient) if gradient is not None else None)
            if reason is not None:
                seen.gaps[Gap(layer, "grad", "weights")] = reason.reason
                continue
            if gradient is not None and scale != 1.0:
                gradient = gradient / scale
            seen.statistics[key] = ParameterFlow.of(parameter, gradient, is_known=gradients)
            sample = strided_sample(parameter.detach(), _SAMPLE).clone()
            self._held.setdefault(key._replace(tap="weight", statistic=f"update/{name}"), (sample, parameter))
        return seen

    def after(self) -> Observation:
        """What the step made of the samples; they are let go."""
        held, self._held = self._held, {}
        self._read.clear()
        seen = Observation()
        for key, (sample, parameter) in held.items():
            now = strided_sample(parameter.detach(), _SAMPLE)
            if now.shape == sample.shape:
                update = UpdateSize.of(sample, now, self._largest.get(key))
                seen.statistics[key], self._largest[key] = update, update.largest
        return seen

    @property
    def unowned(self) -> list[str]:
        """Layers with a trainable parameter that no optimizer has stepped so far."""
        return (
            [layer for layer, _, p in self._parameters() if id(p) not in self._owned] if self._owned else []
        )

    @property
    def idle(self) -> list[str]:
        """Layers with a trainable parameter whose learning rate was 0 when its optimizer last stepped."""
        return [layer for layer, _, p in self._parameters() if id(p) in self._idle] if self._idle else []

    def forget(self) -> None:
        """Lets go of what is held, for a step that did not end."""
        self._held.clear()
        self._read.clear()

    def _parameters(self) -> Iterator[tuple[str, str, nn.Parameter]]:
        """Each once, by its layer and its name there; those behind a parametrization go by their layer."""
        done: set[int] = set()
        for name, module in named_layers(self._root):
            owner, dot, inner = name.partition(".parametrizations.")
            layer = self._aliases.get(owner, owner)
            if not self._keeps(layer):
                continue
            for key, parameter in module._parameters.items():
                if parameter is None or not parameter.requires_grad or id(parameter) in done:
                    continue
                done.add(id(parameter))
                yield layer, f"{inner}.{key}" if dot else key, parameter
