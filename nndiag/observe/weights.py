"""The weights: signatures of parameters and gradients, computed where they live, never kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from torch import Tensor, nn

from nndiag.layers import Domain, LayerInfo, named_layers, unit_rows
from nndiag.measures import Need
from nndiag.observe.observation import Observation
from nndiag.snapshot import Gap, Key
from nndiag.statistics import RowSignature, WeightLaw, as_reals, unreadable

_TABLE_ENTRIES = 2**20
"""Entries of a table of embeddings that are looked at, about."""

Lookup = Callable[[str], Tensor | None]


def read_weights(
    layers: Iterable[LayerInfo],
    parameter: Lookup,
    gradient: Lookup,
    *,
    needs: frozenset[Need],
    first: bool,
) -> Observation:
    """Signatures of the layers of a live model, or of a checkpoint.

    Args:
        layers: The layers to read.
        parameter: Gives a parameter by its full name.
        gradient: Gives its gradient, None where it has none.
        needs: What the measures in use ask for.
        first: Whether this is the first look: the law of initialization and the most alike pair are sought.
    """
    seen = Observation()
    for info in layers:
        if Need.UNIT_SIGNATURES in needs:
            for domain in info.domains:
                _sign(seen, info, domain, parameter, gradient, first)
        name = _drawn(info)
        if first and Need.WEIGHT_LAWS in needs and name is not None:
            weight = parameter(_full(info.name, name))
            if weight is not None and _has_law(weight):
                if info.role == "embedding":  # rows are as good as drawn one by one, and may be a million
                    weight = weight[:: max(1, weight.numel() // _TABLE_ENTRIES)]
                seen.statistics[Key(info.name, "weight", "weights", "law")] = WeightLaw.of(weight)
    return seen


def _sign(
    seen: Observation, info: LayerInfo, domain: Domain, parameter: Lookup, gradient: Lookup, first: bool
) -> None:
    found = [parameter(_full(info.name, part.parameter)) for part in domain.parts]
    reasons = (unreadable(tensor) for tensor in found if tensor is not None)
    reason = next((r.reason for r in reasons if r is not None), None)
    if reason is None and any(tensor is None for tensor in found):
        reason = "a parameter of this layer is missing"
    if reason is not None:
        seen.gaps[Gap(info.name, "weight", "weights")] = reason
        return
    gradients = [gradient(_full(info.name, part.parameter)) for part in domain.parts]
    usable = all(g is not None and unreadable(g) is None for g in gradients)
    if not usable:
        seen.gaps[Gap(info.name, "grad", "weights")] = "no readable gradient at this step"
    try:
        units = unit_rows(domain, lambda name: parameter(_full(info.name, name)))
        slopes = unit_rows(domain, lambda name: gradient(_full(info.name, name))) if usable else None
    except (RuntimeError, IndexError) as error:
        seen.gaps[Gap(info.name, "weight", "weights")] = f"its units cannot be lined up: {error}"[:120]
        return
    if units is not None:
        signature = RowSignature.of(
            _plain(units),
            None if slopes is None else _plain(slopes),
            directions=_directions(info, domain, parameter) if first else None,
        )
        seen.statistics[Key(info.name, "weight", "weights", f"signature/{domain.name}")] = signature


def _drawn(info: LayerInfo) -> str | None:
    """The parameter whose law is sought: the weight, or the recurrent matrix."""
    if info.role == "embedding":
        return next((part.parameter for domain in info.domains for part in domain.parts), None)
    if info.role != "recurrent":
        return info.weight
    parts = (part for domain in info.domains for part in domain.parts)
    return next((part.parameter for part in parts if part.view == "gates_recurrent"), None)


def _has_law(weight: Tensor) -> bool:
    """Whether a weight is a matrix of real numbers."""
    return unreadable(weight) is None and weight.dim() > 1 and not weight.is_complex()


def _plain(rows: Tensor) -> Tensor:
    """[n, d] real numbers; a complex one is two."""
    return as_reals(rows.detach()).flatten(1)


def _directions(info: LayerInfo, domain: Domain, parameter: Lookup) -> Tensor | None:
    """Incoming weights without the bias: a constant bias would make all units point one way."""
    weights = Domain(domain.name, tuple(part for part in domain.parts if "bias" not in part.parameter))
    rows = unit_rows(weights, lambda name: parameter(_full(info.name, name))) if weights.parts else None
    return None if rows is None else _plain(rows)


def _full(layer: str, parameter: str) -> str:
    return f"{layer}.{parameter}" if layer else parameter


class WeightsObserver:
    """Reads the parameters of a live model.

    Parameters are looked up in ``_parameters``: asking a module for an attribute may run code, and spectral
    norm's moves its own state.
    """

    def __init__(self, root: nn.Module, layers: Mapping[str, LayerInfo], needs: frozenset[Need]) -> None:
        self._needs = needs
        self._layers = layers
        self._places: dict[str, tuple[dict[str, nn.Parameter | None], str]] = {}
        for name, module in named_layers(root):
            for key in module._parameters:
                self._places.setdefault(_full(name, key), (module._parameters, key))

    def read(
        self,
        *,
        first: bool = False,
        only: Collection[Tensor] | None = None,
        gradients: bool = True,
        skip: Collection[Key] = (),
    ) -> Observation:
        """Signatures of parameters and gradients as they are now.

        Args:
            first: Whether this is the first look of the run.
            only: Parameters whose gradients are meant for the coming update; None means all.
            gradients: Whether gradients are of this step.
            skip: What was filed already at this visit, by the update of another optimizer.
        """
        updated = None if only is None else {id(tensor) for tensor in only}
        done = {key.layer for key in skip if key.observer == "weights"}

        def gradient(name: str) -> Tensor | None:
            tensor = self._parameter(name)
            if tensor is None or not gradients or (updated is not None and id(tensor) not in updated):
                return None
            return tensor.grad

        layers = [
            info for name, info in self._layers.items() if name not in done or self._is_updated(info, updated)
        ]
        return read_weights(layers, self._parameter, gradient, needs=self._needs, first=first)

    def _parameter(self, name: str) -> nn.Parameter | None:
        place = self._places.get(name)
        return None if place is None else place[0].get(place[1])

    def _is_updated(self, info: LayerInfo, updated: set[int] | None) -> bool:
        names = {_full(info.name, part.parameter) for domain in info.domains for part in domain.parts}
        return updated is None or any(id(self._parameter(name)) in updated for name in names)
