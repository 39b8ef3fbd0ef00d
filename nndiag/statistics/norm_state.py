"""NormState: what a normalization layer remembers, and how it is set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from nndiag.functional import hellinger2
from nndiag.statistics.base import Statistic


@dataclass(frozen=True, slots=True, eq=False)
class NormState(Statistic):
    """Buffers and settings at one step.

    Attributes:
        mean: [C] running mean; empty: none is kept.
        variance: [C] running variance; empty: none is kept.
        tracked: [] batches seen; -1: not counted.
        momentum: [] weight of the newest batch; NaN: a cumulative average.
        eps: [] what is added to variances.
        training: [] 1 in training mode.
        trainable: [] 1 where gain or bias ask for a gradient, 0 where they do not, -1 where there are none.
    """

    name: ClassVar[str] = "norm_state"
    mean: Tensor
    variance: Tensor
    tracked: Tensor
    momentum: Tensor
    eps: Tensor
    training: Tensor
    trainable: Tensor

    @classmethod
    def of(
        cls,
        mean: Tensor | None,
        variance: Tensor | None,
        tracked: Tensor | None,
        *,
        momentum: float | None,
        eps: float,
        training: bool,
        trainable: bool | None,
    ) -> Self:
        """Copies what a layer holds.

        Args:
            mean: [C] running mean, if there is one.
            variance: [C] running variance, if there is one.
            tracked: Batches seen, if counted.
            momentum: Weight of the newest batch; None: a cumulative average.
            eps: What is added to variances.
            training: Whether the layer is in training mode.
            trainable: Whether gain or bias ask for a gradient; None: there are none.
        """
        kept = mean is not None and variance is not None
        return cls(
            mean=mean.detach().clone() if mean is not None and kept else torch.empty(0),
            variance=variance.detach().clone() if variance is not None and kept else torch.empty(0),
            tracked=torch.tensor(-1) if tracked is None else tracked.detach().clone(),
            momentum=torch.tensor(math.nan if momentum is None else momentum, dtype=torch.float64),
            eps=torch.tensor(eps, dtype=torch.float64),
            training=torch.tensor(int(training)),
            trainable=torch.tensor(-1 if trainable is None else int(trainable)),
        )

    def merge(self, other: Self) -> Self:
        """Buffers are not a sample: the newer reading stands."""
        self._check_kind(other)
        return other

    @property
    def keeps_statistics(self) -> bool:
        """Whether there are running statistics."""
        return len(self.mean) > 0

    @property
    def uses_batches(self) -> bool:
        """Whether the layer normalizes with each batch's own statistics while training."""
        return self.keeps_statistics and bool(self.training)

    @property
    def weight_of_newest(self) -> float:
        """a: the momentum, or 1 / t of a cumulative average."""
        momentum = float(self.momentum)
        return 1 / max(1, int(self.tracked)) if math.isnan(momentum) else momentum

    def distance(self, mean: Tensor, variance: Tensor) -> Tensor:
        """[C] squared Hellinger distance of the running moments to others, with eps in both variances.

        Args:
            mean: [C].
            variance: [C].
        """
        eps = float(self.eps)
        pair = (self.mean.numpy(), self.variance.numpy() + eps, mean.numpy(), variance.numpy() + eps)
        return torch.from_numpy(hellinger2(*pair))
