"""The data of the programs: digits, a housing-like table, a text of known entropy."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLASSES = 10


class Split(NamedTuple):
    """Inputs and targets, one a sample."""

    x: Tensor
    y: Tensor


class Batch(NamedTuple):
    """What one step trains on."""

    x: Tensor
    y: Tensor

    @property
    def labels(self) -> Tensor | None:
        """Class labels, one a sample; None where the targets are something else."""
        is_labels = self.y.ndim == 1 and not self.y.is_floating_point()
        return self.y if is_labels else None


@functools.cache
def pixels() -> tuple[Split, Split]:
    """Handwritten digits, [N, 64] pixels from 0 to 16: 1,437 to train on, 360 to test on."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1437], order[1437:]
    return Split(x[train], y[train]), Split(x[test], y[test])


def digits(*, image: bool = False) -> tuple[Split, Split]:
    """The digits, standardized as a whole: [N, 64], or [N, 1, 8, 8] images."""
    train, test = pixels()
    mean, std = float(train.x.mean()), float(train.x.std())
    return rescaled(train, mean, std, image=image), rescaled(test, mean, std, image=image)


def rescaled(data: Split, mean: float, std: float, *, image: bool = False) -> Split:
    """The same samples, shifted and divided."""
    x = (data.x - mean) / std
    return Split(x.reshape(-1, 1, 8, 8) if image else x, data.y)


def shuffled(data: Split, steps: int, size: int = 64, seed: int = 1) -> list[Batch]:
    """One batch a step, epoch after epoch, each in an order of its own; short last batches are left out."""
    generator = torch.Generator().manual_seed(seed + torch.initial_seed())
    batches: list[Batch] = []
    while len(batches) < steps:
        order = torch.randperm(len(data.x), generator=generator)
        batches += [Batch(data.x[i], data.y[i]) for i in order.split(size) if len(i) == size]
    return batches[:steps]


def one_class_each(data: Split, steps: int, size: int = 64, seed: int = 1) -> list[Batch]:
    """Batches of a single class each, the classes in random order."""
    generator = torch.Generator().manual_seed(seed + torch.initial_seed())
    batches: list[Batch] = []
    for step in range(steps):
        if step % CLASSES == 0:
            turn = torch.randperm(CLASSES, generator=generator)
        members = (data.y == turn[step % CLASSES]).nonzero().flatten()
        pick = members[torch.randint(len(members), (size,), generator=generator)]
        batches.append(Batch(data.x[pick], data.y[pick]))
    return batches


def table(samples: int = 2048, seed: int = 3) -> tuple[Split, Split]:
    """Eight unlike columns, as of houses, and a price: one column of about 1,000, one of about 1.

    The price depends on how two small columns compare, which LayerNorm leaves intact if all are alike.
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, 8, generator=generator)
    scale = torch.tensor([300.0, 0.3, 3.0, 1.0, 10.0, 0.5, 2.0, 5.0])
    offset = torch.tensor([1000.0, 1.0, 6.0, 3.0, 30.0, 1.0, 36.0, -10.0])
    price = torch.tanh(z[:, 1] - z[:, 5])
    y = (price - price.mean()) / price.std()
    cut = samples * 4 // 5
    x = z * scale + offset
    return Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])


def text(letters: int = 16, length: int = 16, samples: int = 1024, seed: int = 4) -> tuple[Split, Split]:
    """Sequences in which each letter decides the next one with probability 0.8.

    Predicting the next letter right in 80% of positions is the best one can do.
    """
    generator = torch.Generator().manual_seed(seed)
    follows = torch.randperm(letters, generator=generator)
    tokens = torch.randint(letters, (samples, length + 1), generator=generator)
    noise = torch.randint(1, letters, tokens.shape, generator=generator)
    is_kept = torch.rand(tokens.shape, generator=generator) < 0.8
    for place in range(1, length + 1):
        expected = follows[tokens[:, place - 1]]
        tokens[:, place] = torch.where(is_kept[:, place], expected, (expected + noise[:, place]) % letters)
    cut = samples * 4 // 5
    train, test = tokens[:cut], tokens[cut:]
    return Split(train[:, :-1], train[:, 1:]), Split(test[:, :-1], test[:, 1:])


def rows() -> tuple[Split, Split]:
    """The digits as sequences of eight rows of eight pixels, [N, 8, 8], standardized as a whole."""
    return tuple(Split(part.x.squeeze(1), part.y) for part in digits(image=True))


def recall(length: int, letters: int = 6, samples: int = 1600, seed: int = 5) -> tuple[Split, Split]:
    """One-hot letters, [N, length, letters]; the answer is the first of them, all others are noise."""
    generator = torch.Generator().manual_seed(seed)
    letter = torch.randint(letters, (samples, length), generator=generator)
    x, cut = torch.nn.functional.one_hot(letter, letters).float(), samples * 4 // 5
    return Split(x[:cut], letter[:cut, 0]), Split(x[cut:], letter[cut:, 0])
