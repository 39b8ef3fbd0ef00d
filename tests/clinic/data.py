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


def waves(samples: int = 1600, length: int = 32, seed: int = 6) -> tuple[Split, Split]:
    """Noisy waves of four frequencies, any phase, centered, of about unit scale: [N, 1, length]."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (samples,), generator=generator)
    phase = 6.283 * torch.rand(samples, 1, generator=generator)
    time = torch.linspace(0, 6.283, length)
    x = 1.3 * torch.sin((2 + kind[:, None]) * time + phase) + 0.5 * torch.randn(
        samples, length, generator=generator
    )
    cut = samples * 4 // 5
    return Split(x[:cut, None], kind[:cut]), Split(x[cut:, None], kind[cut:])


def parted(x: Tensor, y: Tensor) -> tuple[Split, Split]:
    """Four fifths to train on, the rest to test on."""
    place = len(x) * 4 // 5
    return Split(x[:place], y[:place]), Split(x[place:], y[place:])


def cipher(letters: int = 24, length: int = 16, samples: int = 1024, seed: int = 7) -> tuple[Split, Split]:
    """Random letters, replaced by a table that is another one at each place: all can be learned."""
    generator = torch.Generator().manual_seed(seed)
    tables = torch.stack([torch.randperm(letters, generator=generator) for _ in range(length)])
    tokens = torch.randint(letters, (samples, length), generator=generator)
    return parted(tokens, tables[torch.arange(length), tokens])


def ratings(users: int = 60, items: int = 40, tastes: int = 4, seed: int = 8) -> tuple[Split, Split]:
    """Pairs of a user and an item, [N, 2], and how well four hidden tastes of theirs agree."""
    generator = torch.Generator().manual_seed(seed)
    user, item = (torch.randn(n, tastes, generator=generator) for n in (users, items))
    pairs = torch.cartesian_prod(torch.arange(users), torch.arange(items))
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    score = (user[pairs[:, 0]] * item[pairs[:, 1]]).sum(1) / tastes**0.5
    return parted(pairs, score + 0.1 * torch.randn(len(score), generator=generator))


def surface(samples: int = 2000, seed: int = 9) -> tuple[Split, Split]:
    """Six standard columns and a smooth target with interactions, of mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3].square()
    return parted(x, (y - y.mean()) / y.std())


def pictures() -> tuple[Split, Split]:
    """Flat digits that are to be given back: the target is the input."""
    return tuple(Split(part.x, part.x) for part in digits())


def marked(length: int = 16, letters: int = 6, samples: int = 1600, seed: int = 10) -> tuple[Split, Split]:
    """Noise letters with a mark on one of them, [N, length, letters + 1]; the answer is the marked letter."""
    generator = torch.Generator().manual_seed(seed)
    letter = torch.randint(letters, (samples, length), generator=generator)
    place = torch.randint(length, (samples, 1), generator=generator)
    mark = torch.zeros(samples, length).scatter(1, place, 1.0)
    x = torch.cat([torch.nn.functional.one_hot(letter, letters).float(), mark[..., None]], -1)
    return parted(x, letter.gather(1, place).squeeze(1))


def actions(samples: int = 2000, gain: float = 1.0, seed: int = 11) -> tuple[Split, Split]:
    """Six standard columns as states, and two actions of an expert, nearer to -1 and 1 with more ``gain``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator)
    wish = torch.stack([x[:, 0] * x[:, 1] + x[:, 2], torch.sin(2 * x[:, 3]) - 0.5 * x[:, 4]], 1)
    return parted(x, torch.tanh(gain * wish))


def sums(length: int = 20, samples: int = 2000, seed: int = 12) -> tuple[Split, Split]:
    """The adding problem: numbers and two marks, [N, length, 2]; the target is the sum of the marked ones."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(samples, length, generator=generator)
    places = torch.rand(samples, length, generator=generator).argsort(1)[:, :2]
    mark = torch.zeros(samples, length).scatter(1, places, 1.0)
    return parted(torch.stack([value, mark], -1), value.gather(1, places).sum(1))


def blobs(samples: int = 800, size: int = 16, seed: int = 13) -> tuple[Split, Split]:
    """Noisy images with a bright disk, [N, 1, size, size], and the mask of the disk: 1 inside, 0 outside."""
    generator = torch.Generator().manual_seed(seed)
    center = 3 + (size - 6) * torch.rand(samples, 2, 1, 1, generator=generator)
    radius = 2 + 2 * torch.rand(samples, 1, 1, generator=generator)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    mask = ((row - center[:, 0]) ** 2 + (column - center[:, 1]) ** 2 < radius**2).float()
    x = 2 * mask - 1 + 0.7 * torch.randn(samples, size, size, generator=generator)
    return parted(x[:, None], mask[:, None])


def sentences(
    letters: int = 12, length: int = 16, samples: int = 1600, seed: int = 14
) -> tuple[Split, Split]:
    """Letters from 1, of 4 to ``length`` places, zeros behind; the class is the letter that is there most."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(1, letters + 1, (samples, 1), generator=generator)
    tokens = torch.randint(1, letters + 1, (samples, length), generator=generator)
    tokens = torch.where(torch.rand(tokens.shape, generator=generator) < 0.5, kind, tokens)
    size = torch.randint(4, length + 1, (samples, 1), generator=generator)
    return parted(tokens * (torch.arange(length) < size), kind.squeeze(1) - 1)
