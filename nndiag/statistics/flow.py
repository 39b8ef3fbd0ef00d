"""ParameterFlow: the sizes of one parameter, of its gradient and of its update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from nndiag.statistics import sizes
from nndiag.statistics.base import Statistic
from nndiag.statistics.view import as_reals, wide


@dataclass(frozen=True, slots=True, eq=False)
class ParameterFlow(Statistic):
    """Norms of one parameter before an update.

    The norm of a gradient is kept as a scale times the norm of what is left, because squares of 1e-25 vanish in
    float32 and squares of 1e25 overflow.

    Attributes:
        entries: [] numbers in the parameter.
        weight: [] Euclidean norm of the parameter.
        gradient_scale: [] 1 where no square leaves float32, else the largest finite |gradient|; 0 where all is zero.
        gradient_rest: [] norm of the gradient divided by ``gradient_scale``.
        non_finite: [] NaN and infinite entries of the gradient.
        saliency: [n] |sum_j w_uj g_uj| of each unit u (first axis). It does not change when a unit's incoming
            weights are scaled up and its outgoing ones down.
        has_gradient: [] 1 where there was a gradient, 0 where there was none, -1 where none could be read.
    """

    name: ClassVar[str] = "flow"
    entries: Tensor
    weight: Tensor
    gradient_scale: Tensor
    gradient_rest: Tensor
    non_finite: Tensor
    saliency: Tensor
    has_gradient: Tensor

    @classmethod
    def of(cls, parameter: Tensor, gradient: Tensor | None, *, is_known: bool = True) -> Self:
        """Reads one parameter.

        Args:
            parameter: Any shape; the first axis holds the units.
            gradient: Of the same shape; None: there is none.
            is_known: Whether None says anything: the backward pass of a closure is still to come.
        """
        w = _float(parameter)
        zero = torch.zeros((), device=w.device)
        largest, rest, bad, saliency = zero, zero, zero.long(), torch.empty(0)
        plain = None if gradient is None else _plain(w, _float(gradient))
        if plain is not None:
            largest, rest, saliency = plain
        elif gradient is not None:
            g, largest, bad = _finite(_float(gradient))
            scale = torch.ones_like(largest)
            if not sizes.is_on_host(g) or not sizes.is_moderate(largest):
                scale = largest.clamp(min=torch.finfo(g.dtype).tiny)
                g = g / scale
            unit = (largest / scale).double()  # 1, unless the gradient was left as it is
            rest = sizes.norm(g) / unit.clamp(min=torch.finfo(g.dtype).tiny)
            if w.dim() > 0:
                saliency = (w * g).reshape(len(w), -1).sum(1).abs().double() * scale.double()
        return cls(
            entries=torch.tensor(parameter.numel(), device=w.device),
            weight=sizes.norm(w),
            gradient_scale=largest,
            gradient_rest=rest,
            non_finite=bad,
            saliency=saliency,
            has_gradient=torch.tensor(int(gradient is not None) if is_known else -1, device=w.device),
        )

    def merge(self, other: Self) -> Self:
        """Parameters are not a sample: the newer reading stands."""
        self._check_kind(other)
        return other

    @property
    def gradient(self) -> float:
        """Euclidean norm of the finite part of the gradient."""
        return float(self.gradient_scale) * float(self.gradient_rest)

    @property
    def is_matrix(self) -> bool:
        """Whether a unit has more than one number."""
        return int(self.entries) > len(self.saliency) > 0

    @property
    def is_silent(self) -> bool:
        """Whether there was no gradient, or one of exact zeros."""
        has = int(self.has_gradient)
        return has == 0 or (has == 1 and float(self.gradient_scale) == 0 and not int(self.non_finite))

    @property
    def is_known(self) -> bool:
        """Whether it could be read if there was a gradient."""
        return int(self.has_gradient) >= 0


@dataclass(frozen=True, slots=True, eq=False)
class UpdateSize(Statistic):
    """What one step made of a sample of a parameter's entries.

    Attributes:
        change: [] norm of the difference.
        weight: [] norm before the step.
        sampled: [] entries compared.
        largest: [] largest finite |dW| / |W| of this and earlier looks; NaN once a parameter was seen at zero,
            where every step is infinitely large.
    """

    name: ClassVar[str] = "update"
    change: Tensor
    weight: Tensor
    sampled: Tensor
    largest: Tensor

    @classmethod
    def of(cls, before: Tensor, after: Tensor, largest: Tensor | None = None) -> Self:
        """Compares two equally drawn samples.

        Args:
            before: [m] entries before the step.
            after: [m] the same entries after it.
            largest: [] as far as known from earlier looks.
        """
        old, new = (_float(x).to(wide(x)) for x in (before, after))
        change, weight = torch.linalg.vector_norm(new - old), torch.linalg.vector_norm(old)
        ratio = torch.where(weight == 0, torch.nan, (change / weight).nan_to_num(0.0, 0.0, 0.0))
        return cls(
            change=change,
            weight=weight,
            sampled=torch.tensor(old.numel(), device=old.device),
            largest=ratio if largest is None else torch.maximum(ratio, largest.to(ratio.device)),
        )

    def merge(self, other: Self) -> Self:
        """The newer step stands."""
        self._check_kind(other)
        return other

    @property
    def ratio(self) -> float:
        """|dW| / |W|; infinite where a parameter left zero."""
        change, weight = float(self.change), float(self.weight)
        return change / weight if weight > 0 else float("inf") if change > 0 else 0.0


def _plain(w: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Scale and rest of a gradient, and the saliency; None where squares may leave float32, or on a device."""
    if not sizes.is_on_host(g) or not g.dtype == w.dtype == torch.float32 or not g.numel() or not w.dim():
        return None
    if w.dim() == 1:
        norms, products = g.abs(), w * g
    else:
        rows, weights = g.reshape(len(g), -1), w.reshape(len(w), -1)
        norms = sizes.row_norms(rows)
        # One pass without a buffer; torch would store all products first.
        products = torch.from_numpy(np.einsum("ij,ij->i", weights.numpy(), rows.numpy()))
    norms = norms.double()
    if not sizes.is_moderate(norms.max()) or not sizes.is_moderate(norms.sum()):  # NaN is neither
        return None
    return torch.ones(()), torch.linalg.vector_norm(norms), products.double().abs_()


def _finite(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A gradient with zeros for what is not finite, its largest |entry|, and how many were not."""
    largest = sizes.peak(g)
    if sizes.is_on_host(g) and bool(largest.isfinite()):
        return g, largest, torch.zeros((), dtype=torch.int64)
    finite = g.isfinite()
    clean = torch.where(finite, g, 0)
    return clean, sizes.peak(clean), (~finite).sum()


def _float(x: Tensor) -> Tensor:
    x = as_reals(x.detach())
    return x if x.dtype == torch.float64 else x.float()
