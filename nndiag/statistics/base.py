"""What every statistic can do, and the registry that brings one back from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nndiag.errors import IncompatibleStatisticsError

STATISTICS: dict[str, type[Statistic]] = {}
"""Statistic classes by name."""


class Statistic:
    """A frozen dataclass of tensors with an associative ``merge``.

    Subclasses are made from data by a class method ``of``, which computes where the tensor lives and never
    waits for the device.
    """

    name: ClassVar[str]
    __slots__: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            STATISTICS[cls.name] = cls

    def merge(self, other: Self) -> Self:
        """The statistic of both sets of data together."""
        raise NotImplementedError

    def to_tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> Self:
        """The inverse of ``to_tensors``."""
        return cls(**tensors)

    def cpu(self) -> Self:
        """A copy in host memory: counts as int64, the rest as float64."""
        return type(self).from_tensors({name: _host(t) for name, t in self.to_tensors().items()})

    def _check_kind(self, other: Statistic) -> None:
        """Only statistics of one kind can be merged."""
        if type(self) is not type(other):
            raise IncompatibleStatisticsError(
                f"{type(self).__name__} cannot be merged with {type(other).__name__}."
            )

    def _check(self, other: Statistic, *names: str) -> None:
        """Two statistics can be merged when they are of one kind and their units agree.

        Args:
            other: The statistic to merge with.
            names: Fields that have one entry a unit; none: all fields.
        """
        self._check_kind(other)
        here, there = self.to_tensors(), other.to_tensors()
        for name in names or here:
            mine, theirs = here[name], there[name]
            if mine.shape != theirs.shape:
                raise IncompatibleStatisticsError(
                    f"{type(self).__name__}.{name} has shape {tuple(mine.shape)} here and"
                    f" {tuple(theirs.shape)} there: the statistics belong to different layers."
                )


def _host(tensor: Tensor) -> Tensor:
    whole = not tensor.is_floating_point()
    return tensor.detach().to("cpu", torch.int64 if whole else torch.float64)
