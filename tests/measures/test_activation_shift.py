"""Activation shift: right numbers on the same samples, and a learning-rate alarm that stays quiet in health."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.findings import Reading, Scalar
from nndiag.functional import debiased, hellinger2, hellinger2_floor
from nndiag.measures import RULES
from nndiag.rules import Case, History, Verdict, View

from .loops import related, session, train, warnings_of
from .networks import Attention, Convolutions, Tokens, stack
from .runs import Run, batches, classify, prototypes

Make = Callable[[], nn.Module]
SHIFTS = ("step_shift", "interval_shift", "cumulative_shift")


def normed(norm: Callable[[int], nn.Module], width: int = 48, depth: int = 3) -> nn.Sequential:
    parts: list[nn.Module] = []
    for place in range(depth):
        parts += [nn.Linear(64 if place == 0 else width, width), norm(width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def run(make: Make, steps: int, optimize: Callable[..., torch.optim.Optimizer], **options: object) -> Run:
    torch.manual_seed(0)
    model = make()
    return train(model, batches(steps), optimize(model.parameters()), **options)


def values(watched: Run, *names: str) -> list[float]:
    return [r.value for u in watched.updates for r in u.readings if r.name in (names or SHIFTS)]


@pytest.mark.parametrize("norm", [nn.Identity, nn.LayerNorm], ids=["plain", "layer norm"])
def test_a_network_at_rest_reads_exactly_zero(norm: Callable[[int], nn.Module]) -> None:
    watched = run(partial(normed, norm), 24, partial(torch.optim.SGD, lr=0.0))
    assert len(values(watched)) > 20
    assert set(values(watched)) == {0.0}


def test_shift_is_the_distance_of_raw_moments() -> None:
    """One step of a single layer, by hand on the probe's samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    data = batches(4, 128)
    outputs: list[np.ndarray] = []

    def noting(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        outputs.append(F.linear(data[0][0], model[0].weight, model[0].bias).detach().double().numpy())
        return classify(model, batch)

    watched = train(model, data, torch.optim.SGD(model.parameters(), lr=0.5), noting)
    for before, now in itertools.pairwise(range(4)):
        old, new = outputs[before], outputs[now]
        expected = hellinger2(old.mean(0), old.var(0), new.mean(0), new.var(0))
        reading = watched.reading("step_shift", "0", now)
        assert reading.value == pytest.approx(expected.mean(), rel=1e-3, abs=1e-8)
        np.testing.assert_allclose(reading.units, expected, rtol=1e-2, atol=1e-7)
        assert reading.detail["q95"] == pytest.approx(np.quantile(expected, 0.95), rel=1e-2)
        assert reading.n == 128


@torch.no_grad()
def rescaled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function: units scaled, and undone behind their ReLU; then put in another order."""
    scale, order = torch.linspace(-1, 1, 32).exp(), torch.arange(31, -1, -1)
    return state | {
        "0.weight": (state["0.weight"] * scale.unsqueeze(1))[order],
        "0.bias": (state["0.bias"] * scale)[order],
        "2.weight": (state["2.weight"] / scale)[:, order],
    }


def shifts_between(states: list[dict[str, Tensor]]) -> list[float]:
    """Of the first two layers, from one state of a network to another."""
    model = stack(nn.ReLU, depth=2)
    watcher = session(model, 4)
    for step, (state, batch) in enumerate(zip((states[0], *states[:1], *states), batches(4), strict=True)):
        model.load_state_dict(state)
        watcher.begin_batch(step)
        watcher.open_window(glue=False)
        loss = classify(model, batch)
        loss.backward()
        watcher.before_update()
        update = watcher.end_batch(loss, batch[1])
    assert update is not None
    found = {r.layer: r.value for r in update.readings if r.name == "step_shift"}
    return [found["0"], found["2"]]


def test_scale_and_order_of_units_do_not_matter() -> None:
    torch.manual_seed(0)
    here, there = (stack(nn.ReLU, depth=2).state_dict() for _ in range(2))
    states = [here, {name: here[name] + 0.1 * there[name] for name in here}]
    plain = shifts_between(states)
    assert min(plain) > 1e-4
    assert shifts_between([rescaled(state) for state in states]) == pytest.approx(plain, rel=1e-4)


def truth(model: nn.Sequential, places: list[int], x: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Moments of the outputs at some places, over many samples, in evaluation."""
    found, training = {}, model.training
    model.eval()
    with torch.no_grad():
        for place, layer in enumerate(model):
            x = layer(x)
            if place in places:
                found[str(place)] = (x.double().mean(0).numpy(), x.double().var(0, correction=0).numpy())
    model.train(training)
    return found


NETS = {
    "tanh": (lambda: stack(nn.Tanh, width=48), [0, 2, 4, 6], 0.03),
    "relu": (lambda: stack(nn.ReLU, width=48), [0, 2, 4, 6], 0.03),
    "batch norm": (lambda: normed(nn.BatchNorm1d), [1, 4, 7, 9], 0.03),
    "layer norm": (lambda: normed(nn.LayerNorm), [1, 4, 7, 9], 0.1),
}


def error_of(name: str, *, probe: bool) -> float:
    """Root mean square error of the interval shift, against 1,024 samples; real batches are taken together."""
    make, places, lr = NETS[name]
    torch.manual_seed(0)
    model, x = make(), prototypes(1024)[0]
    moments: dict[int, dict[str, tuple[np.ndarray, np.ndarray]]] = {}

    def noting(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        moments[len(moments)] = truth(model, places, x)
        return classify(model, batch)

    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    watched = train(model, batches(62), optimizer, noting, probe=probe)
    errors = []
    for update in watched.updates:
        for r in update.readings:
            if r.name in SHIFTS[:2] and r.step >= 5:
                before = r.step - int(r.detail["steps"])
                expected = hellinger2(*moments[before][r.layer], *moments[r.step][r.layer]).mean()
                errors.append(r.value - expected)
    assert len(errors) >= 20
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize("name", NETS)
def test_the_probe_is_nearer_the_truth_than_real_batches(name: str) -> None:
    assert error_of(name, probe=True) < error_of(name, probe=False) / 3


def test_other_samples_bring_noise_that_is_taken_off() -> None:
    """Nothing moves: real batches differ by chance, and that is not called a shift."""
    watched = run(partial(stack, nn.Tanh), 42, partial(torch.optim.SGD, lr=0.0), probe=False)
    readings = [r for u in watched.updates for r in u.readings if r.name in SHIFTS[:2]]
    assert {r.detail["observer"] for r in readings} == {"stream"}
    floor = np.mean([r.resolution for r in readings])
    assert floor > 1e-4
    assert np.mean([r.value for r in readings]) < floor / 2
    assert max(r.value for r in readings) < 3 * floor
    assert not {"ND101", "ND102"} & set(watched.findings())


def test_the_noise_of_batches_is_the_floor() -> None:
    """Two batches of 64 samples a step apart: E0 = (3 + 1) / 16 (1 / 64 + 1 / 64) for one entry a sample."""
    watched = run(partial(stack, nn.Tanh), 3, partial(torch.optim.SGD, lr=0.0), probe=False)
    reading = watched.reading("step_shift", "0", 2)
    expected = float(hellinger2_floor(64, 64))
    assert reading.resolution == pytest.approx(expected, rel=0.05)
    assert reading.value <= debiased(2 * expected, expected)


def test_constant_units_are_left_out_and_counted() -> None:
    """In standard deviations, anything would move a unit that tells no samples apart."""

    def partly() -> nn.Module:
        model = stack(nn.ReLU, depth=2)
        with torch.no_grad():
            model[2].weight[:8] = 0
        for parameter in model[2].parameters():
            parameter.register_hook(lambda g: torch.cat([torch.zeros_like(g[:8]), g[8:]]))
        return model

    watched = run(partly, 4, partial(torch.optim.SGD, lr=0.05))
    reading = watched.reading("step_shift", "2", 3)
    assert reading.detail["constant_units"] == 8
    assert reading.value == pytest.approx(np.mean(reading.units[8:]), rel=1e-6)


def test_a_layer_of_constants_has_no_reading() -> None:
    def dead() -> nn.Module:
        model = stack(nn.ReLU, depth=2)
        with torch.no_grad():
            model[0].bias.fill_(-1e4)
        return model

    watched = run(dead, 24, partial(torch.optim.SGD, lr=0.05))
    assert not [r for u in watched.updates for r in u.readings if r.name == "step_shift" and r.layer == "2"]
    assert "ND101" not in watched.findings()


def test_running_statistics_that_warm_up_are_marked() -> None:
    """ln .01 / ln .9 = 43.7 updates; a layer norm never is."""
    watched = run(partial(normed, nn.BatchNorm1d), 62, partial(torch.optim.Adam, lr=1e-3))
    marks = {
        u.step: r.detail["bn_warmup"] for u in watched.updates for r in u.readings if r.name == "step_shift"
    }
    assert {step for step, mark in marks.items() if mark} == {step for step in marks if step < 44}
    assert {step for step, mark in marks.items() if not mark} >= {51, 61}


def test_the_first_twenty_steps_are_not_judged() -> None:
    watched = run(partial(stack, nn.Tanh), 20, partial(torch.optim.Adam, lr=0.1))
    assert max(values(watched, "step_shift")) > 0.05
    assert "ND101" not in watched.findings()


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("is_rising", [True, False], ids=["rising", "constant"])
def test_a_rising_learning_rate_is_not_judged(is_rising: bool) -> None:
    """Labels at random keep the network moving; once the rate stands still the same movement is an alarm."""
    torch.manual_seed(0)
    model = stack(nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 + step / 84 if is_rising else 1.0)
    data = [(x, torch.randint(10, (len(y),))) for x, y in batches(42)]
    watched = train(model, data, optimizer, scheduler=rising)
    late = [r.value for u in watched.updates if u.step > 20 for r in u.readings if r.name == "step_shift"]
    assert max(late) > 0.02
    assert ("ND101" in watched.findings()) is not is_rising


def tokens() -> nn.Module:
    return Tokens(Attention())


SGD, ADAM = torch.optim.SGD, torch.optim.Adam
FAST = {
    "perceptron, SGD": (partial(stack, nn.Tanh), partial(SGD, lr=5.0), partial(SGD, lr=0.05)),
    "perceptron, Adam": (partial(stack, nn.ReLU), partial(ADAM, lr=1.0), partial(ADAM, lr=3e-3)),
    "convolutions, SGD": (Convolutions, partial(SGD, lr=20.0), partial(SGD, lr=0.05)),
    "convolutions, Adam": (Convolutions, partial(ADAM, lr=0.5), partial(ADAM, lr=3e-3)),
    "transformer, SGD": (tokens, partial(SGD, lr=3.0), partial(SGD, lr=0.05)),
    "transformer, Adam": (tokens, partial(ADAM, lr=0.3), partial(ADAM, lr=3e-3)),
}


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize(("make", "fast", "usual"), FAST.values(), ids=FAST)
def test_too_high_a_learning_rate_leads(
    make: Make, fast: Callable[..., torch.optim.Optimizer], usual: Callable[..., torch.optim.Optimizer]
) -> None:
    """Found as what it is, by movement or by the size of steps, alone at the top; the twin is silent."""
    sick, twin = run(make, 62, fast), run(make, 62, usual)
    assert warnings_of(sick) in (["ND101"], ["ND603"])
    assert "Lower the learning rate" in sick.report.findings[0].recommendation
    assert warnings_of(twin) == []


@pytest.mark.usefixtures("float32")
def test_shift_too_fast_takes_its_symptoms_along() -> None:
    watched = run(partial(stack, nn.Tanh), 62, partial(SGD, lr=5.0))
    top = watched.report.findings[0]
    assert len([f for f in watched.report.findings if f.severity.rank > 0]) == 1
    assert "ND201" in related(watched, top.rule)


def test_a_layer_unfrozen_with_a_jump() -> None:
    """A quiet run whose weights are replaced twice: ND102, no learning-rate alarm."""
    torch.manual_seed(0)
    model = stack(nn.Tanh)
    optimizer = SGD(model.parameters(), lr=0.005)
    watcher = session(model, 2000, every_n_train_steps=5)
    for step, batch in enumerate(batches(92)):
        if step in (83, 88):
            with torch.no_grad():
                model[2].weight.copy_(torch.randn(32, 32) / 4)
        watcher.begin_batch(step)
        watcher.open_window(glue=False)
        loss = classify(model, batch)
        optimizer.zero_grad()
        loss.backward()
        watcher.before_update(optimizer=optimizer)
        optimizer.step()
        watcher.end_batch(loss, batch[1])
    found = {f.rule: f for top in watcher.close().findings for f in top.walk()}
    assert "ND102" in found
    assert "2" in found["ND102"].layers
    assert "ND101" not in found


def test_a_layer_that_tells_no_samples_apart_is_not_called_unseen() -> None:
    def muted() -> nn.Sequential:
        model = stack(nn.ReLU, depth=1)
        nn.init.zeros_(model[0].weight)
        model[0].weight.requires_grad_(False)
        return model

    watched = run(muted, 6, lambda all_: torch.optim.SGD([p for p in all_ if p.requires_grad], lr=0.1))
    assert watched.report.coverage.of("0", "activation_shift").reason == "no unit tells samples apart"


def test_a_jump_names_the_rate_that_was_never_exceeded_before() -> None:
    history, rule = History(), RULES["ND102"]
    rates, shifts = (0.01, 0.01, 0.005, 0.005, 5.0), (0.01, 0.01, 0.01, 0.01, 0.9)
    for visit, (rate, shift) in enumerate(zip(rates, shifts, strict=True)):
        step = 100 + 10 * visit
        detail: dict[str, Scalar] = {
            "steps": 10,
            "variance_share": 1.0,
            "bn_warmup": False,
            "sigma_equiv": 2.7,
        }
        moved = Reading(rule.measure, rule.reads, "fc", step, shift, resolution=0.0, n=128, detail=detail)
        history.add(step, {}, [Reading("run", "lr", None, step, rate), moved])
    verdict = rule.judge(View(history, rule.measure, "fc", rule.threshold))
    assert isinstance(verdict, Verdict)
    assert (verdict.evidence["lr_before"], verdict.evidence["lr_highest_before"]) == (0.005, 0.01)
    advice = rule.advise(Case(("fc",), (verdict,), 140, 140))
    assert "rose from 0.005 to 5" in advice.message
    assert "Keep the learning rate at 0.01 or below" in advice.recommendation
