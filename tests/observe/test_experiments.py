"""Replays that differ from evaluation in one thing: what they change, and that nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from families.families import CNN, MLP, Family
from families.outcome import model_state
from families.watched import changes, watched
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.observe import schedule
from nndiag.observe.experiments import dropout_masks

from .recordings import draw, probe_of


class Forgetful(nn.Module):
    """Dropout as a function, its flag positional, by name, or left out."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "positional":
            return F.dropout(x, 0.5, self.training)
        if self.how == "by name":
            return F.dropout(x, p=0.5, training=self.training)
        if self.how == "torch":
            return torch.dropout(x, 0.5, self.training)
        if self.how == "channels":
            return F.dropout2d(x.view(*x.shape, 1, 1), 0.5, self.training).flatten(1)
        return F.alpha_dropout(x, 0.5, self.training)


HOWS = ("positional", "by name", "torch", "channels", "alpha")
MODULES: dict[str, Callable[[], nn.Module]] = {
    "module": partial(nn.Dropout, 0.5),
    "alpha module": partial(nn.AlphaDropout, 0.5),
    **{how: partial(Forgetful, how) for how in HOWS},
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_masks_are_drawn_in_evaluation(make: Callable[[], nn.Module]) -> None:
    model, x = nn.Sequential(make()).eval(), draw(64, 8)
    with torch.random.fork_rng(devices=[]):
        with dropout_masks(model, 0):
            first = model(x)
        with dropout_masks(model, 0):
            again = model(x)
        with dropout_masks(model, 1):
            other = model(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model(x), x)


def test_masks_inside_kernels_are_drawn() -> None:
    torch.manual_seed(0)
    lstm, x = nn.LSTM(4, 8, num_layers=2, dropout=0.5).eval(), draw(5, 3, 4)
    with torch.random.fork_rng(devices=[]):
        with dropout_masks(lstm, 0):
            first = lstm(x)[0]
        with dropout_masks(lstm, 1):
            second = lstm(x)[0]
    assert not torch.equal(first, second)
    assert torch.equal(lstm(x)[0], lstm(x)[0])


def test_the_keep_rate_is_that_of_the_layer() -> None:
    model = nn.Sequential(nn.Dropout(0.25)).eval()
    with torch.random.fork_rng(devices=[]), dropout_masks(model, 0):
        kept = (model(torch.ones(100_000)) != 0).double().mean()
    assert float(kept) == pytest.approx(0.75, abs=0.01)


def test_everything_else_evaluates_under_masks() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.0), nn.RReLU()).eval()
    x = draw(16, 4)
    expected, state = model(x), model_state(model)
    with torch.random.fork_rng(devices=[]), dropout_masks(model, 0):
        found = model(x)
    assert torch.equal(found, expected)
    assert all(torch.equal(v, model_state(model)[k]) for k, v in state.items() if isinstance(v, Tensor))


def test_attributes_come_back_after_an_exception() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    with torch.random.fork_rng(devices=[]), pytest.raises(ZeroDivisionError), dropout_masks(model, 0):
        raise ZeroDivisionError
    assert [m.training for m in model] == [False, False]


class Both(nn.Module):
    """A module and a function; the second stands in for the first one's user."""

    def __init__(self, p: float, *, is_functional: bool) -> None:
        super().__init__()
        self.a, self.b, self.p = nn.Linear(6, 8), nn.Linear(8, 3), p
        self.drop = None if is_functional else nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(F.dropout(h, self.p, self.training) if self.drop is None else self.drop(h))


@pytest.mark.parametrize("is_functional", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("p", [0.0, 0.9])
def test_replays_of_a_probe_differ_by_their_masks(p: float, is_functional: bool) -> None:
    torch.manual_seed(0)
    model = Both(p, is_functional=is_functional)
    probe = probe_of(model, [draw(16, 6), draw(16, 6, seed=1)], samples=32)
    generator = torch.get_rng_state()
    replays = [probe.replay(experiment=partial(dropout_masks, seed=seed))[-1][0] for seed in range(2)]
    assert torch.equal(*replays) is (p == 0.0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(*(probe.replay()[-1][0] for _ in range(2)))
    assert model.training


@pytest.mark.parametrize("family", [MLP, CNN], ids=lambda family: family.name.replace(" ", "-"))
def test_a_run_with_experiments_is_exact(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every visit affords all experiments, and not one value of the training differs."""
    monkeypatch.setattr(schedule, "START_UP", frozenset({0}))
    monkeypatch.setattr(schedule.Schedule, "is_experiment", lambda self, step: True)
    run, monitor = watched(family, every_n_train_steps=1)
    assert changes(family, run) == {}
    assert monitor.guard.faults == {}
    assert "disagreement" in {reading.name for reading in monitor.report.readings}
    assert not [note for note in monitor.report.coverage.notes if "no replay" in note]
