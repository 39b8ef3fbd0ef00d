"""Initialization on small trainings: ND311, ND312, ND313, and the closed forms behind them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from nndiag.diagnosis import diagnose
from nndiag.layers import LayerInfo
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import Moments

from .loops import train
from .networks import Attention, Convolutions, Tokens, drawn, scaled, stack
from .runs import Run, batches, classify, watch
from .test_symmetry_cases import LowRank, Transformer, zeroed

STEPS = 24


def gains(run: Run) -> dict[int, float]:
    """The gradient gain at each visit."""
    return {u.step: r.value for u in run.updates for r in u.readings if r.name == "gradient_gain"}


def plain(build: Callable[[], nn.Module], width: int = 256, depth: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return stack(build, depth, width, width)


def he(model: nn.Sequential) -> nn.Sequential:
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return model


WIDE: dict[str, tuple[Callable[[], nn.Sequential], float]] = {
    "He, ReLU": (lambda: he(plain(nn.ReLU)), 1.0),
    "default, ReLU": (lambda: plain(nn.ReLU), 1 / 6),
    "default, tanh": (lambda: plain(nn.Tanh), 1 / 3),
    "default, linear": (lambda: plain(nn.Identity), 1 / 3),
}


@functools.cache
def wide(name: str) -> Run:
    return watch(WIDE[name][0](), batches(1, features=256), classify, visit=lambda step: step == 0)


def hidden_ratios(run: Run) -> list[float]:
    """Chi of the hidden layers: all but the one the head makes."""
    return [run.reading("gradient_ratio", str(2 * layer), 0).value for layer in range(4)]


@pytest.mark.parametrize("name", WIDE)
def test_gradient_ratio_follows_the_law(name: str) -> None:
    """chi_b = fan_out Var(W) E[f'^2]: 2 x 1/2, 1/3 x 1/2, 1/3 E[tanh'^2] (near 1 for small signals), 1/3."""
    ratios = hidden_ratios(wide(name))
    assert math.exp(sum(map(math.log, ratios)) / 4) == pytest.approx(WIDE[name][1], rel=0.2)


@pytest.mark.parametrize("name", WIDE)
def test_gradients_are_those_of_autograd(name: str) -> None:
    model = WIDE[name][0]()
    x, y = batches(1, features=256)[0]
    outputs = []
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            outputs.append(x)
    loss = torch.nn.functional.cross_entropy(x, y)
    squares = [float(g.double().square().mean()) for g in torch.autograd.grad(loss, outputs)]
    run = wide(name)
    seen = [run.reading("mean_square_gradient", str(2 * layer), 0).value for layer in range(6)]
    assert seen == pytest.approx(squares, rel=1e-4)
    expected = [here / after for here, after in itertools.pairwise(squares)]
    assert [*hidden_ratios(run), run.reading("gradient_ratio", "8", 0).value] == pytest.approx(
        expected, rel=1e-4
    )
    assert run.reading("gradient_gain", None, 0).value == pytest.approx(squares[0] / squares[-1], rel=1e-4)


def test_positions_of_a_sample_add_up() -> None:
    """An average over 64 pixels spreads a gradient over them; it does not lose it."""
    torch.manual_seed(0)
    model, (x, y) = Convolutions(), batches(1)[0]
    z1 = model.c1(x.view(-1, 1, 8, 8))
    z2 = model.c2(torch.relu(z1))
    out = model.head(torch.relu(z2).mean((2, 3)))
    loss = torch.nn.functional.cross_entropy(out, y)
    gradients = torch.autograd.grad(loss, (z1, z2, out))
    squares = [float(g.flatten(2).sum(2).double().square().mean()) for g in gradients[:2]]
    squares.append(float(gradients[2].double().square().mean()))
    run = watch(model, [(x, y)])
    seen = [run.reading("mean_square_gradient", layer, 0).value for layer in ("c1", "c2", "head")]
    assert seen == pytest.approx(squares, rel=1e-4)
    assert run.reading("gradient_gain", None, 0).value > 1e-3


def test_signal_is_the_share_that_tells_samples_apart() -> None:
    model = WIDE["default, ReLU"][0]()
    with torch.no_grad():
        z = model[:9](batches(1, features=256)[0][0]).double()
    expected = float(z.var(0, unbiased=False).mean() / z.square().mean())
    assert wide("default, ReLU").reading("signal_share", None, 0).value == pytest.approx(expected, rel=1e-3)


def test_readings_carry_the_law_and_its_gain() -> None:
    reading = wide("default, ReLU").reading("weight_gain", "2", 0)
    assert reading.value == pytest.approx(1 / 3, rel=0.02)
    assert "torch default" in str(reading.detail["laws"])
    he_normal = wide("He, ReLU").reading("weight_gain", "2", 0)
    assert he_normal.value == pytest.approx(2, rel=0.05)
    assert "He normal" in str(he_normal.detail["laws"])


SICK: dict[str, tuple[Callable[[], nn.Module], str, set[str]]] = {
    "deep sigmoid": (lambda: stack(nn.Sigmoid, 7), "ND311", {"2", "4", "6", "8", "10", "12"}),
    "tiny tanh": (lambda: drawn(stack(nn.Tanh, 6), 0.01), "ND311", {"2", "4", "6", "8", "10", "12"}),
    "large ReLU": (lambda: scaled(stack(nn.ReLU, 6), 15.0), "ND312", {"2", "4", "6", "8", "10", "12"}),
}
"""Name, rule, and the layers any of which is a right one to name."""


@functools.cache
def sick(name: str) -> Run:
    torch.manual_seed(0)
    model = SICK[name][0]()
    lr = 1e-12 if name.startswith("large") else 0.1
    return watch(model, batches(1) * STEPS, optimizer=torch.optim.SGD(model.parameters(), lr=lr))


@pytest.mark.parametrize("name", SICK)
def test_a_gain_off_by_a_thousand(name: str) -> None:
    _, rule, right = SICK[name]
    run = sick(name)
    finding = run.findings()[rule]
    assert finding.first_step == 0
    assert finding.layer in right
    gain = gains(run)[0]
    assert gain < 1e-3 if rule == "ND311" else gain > 1e3


@pytest.mark.parametrize("name", SICK)
def test_info_at_first_and_warning_once_the_loss_has_not_moved(name: str) -> None:
    run, rule = sick(name), SICK[name][1]
    severities = {u.step: {f.rule: f.severity for top in u.findings for f in top.walk()} for u in run.updates}
    for step, found in severities.items():
        assert (found[rule].rank > 0) == (step > 20 or rule == "ND312")


def test_what_explodes_is_a_warning_at_once_where_the_loss_begins_far_above_chance() -> None:
    first = next(r.value for u in sick("large ReLU").updates for r in u.readings if r.name == "loss")
    assert first > 3 * math.log(10)
    assert sick("large ReLU").updates[1].findings[0].rule == "ND312"


@pytest.mark.parametrize("name", SICK)
def test_evidence_and_advice(name: str) -> None:
    run = sick(name)
    finding = run.findings()[SICK[name][1]]
    e = finding.evidence
    assert e["gradient_gain"] == run.reading("gradient_gain", None).value == finding.value
    assert e["loss_of_guessing"] == pytest.approx(math.log(10), abs=1e-4)
    assert {"layers", "first_loss", "loss", "signal_share"} <= set(e)
    assert "It worked when `nndiag/initialization/gradient_gain`" in finding.recommendation
    assert ("further until the first loss" in finding.recommendation) == (name == "large ReLU")
    factor = float(e["gradient_gain"] or 0) ** (1 / (2 * (int(e["layers"] or 0) - 1)))
    needed = 1 / factor if finding.rule == "ND311" else factor
    assert f"by about {needed:.1f} each" in finding.recommendation


def test_a_head_that_spreads_ten_outputs_over_many_units_is_not_blamed_first() -> None:
    assert sick("deep sigmoid").findings()["ND311"].layer != "14"
    assert set(sick("deep sigmoid").findings()["ND311"].layers) >= {"2", "4", "6", "8", "10", "12"}


def test_a_tiny_head_is_blamed_alone() -> None:
    torch.manual_seed(0)
    run = watch(drawn(stack(nn.ReLU), 1e-4, "6"), batches(1))
    assert run.findings()["ND311"].layers == ("6",)


def test_scaling_by_the_factor_advised_repairs_it() -> None:
    gain = gains(sick("large ReLU"))[0]
    factor = gain ** (1 / 12)
    torch.manual_seed(0)
    model = scaled(scaled(stack(nn.ReLU, 6), 15.0), 1 / factor)
    assert 1e-3 < gains(watch(model, batches(1)))[0] < 1e3


def test_a_net_that_learns_all_the_same_is_not_accused() -> None:
    """Its gain is as low, but Adam does not mind: the loss falls."""
    torch.manual_seed(0)
    model = drawn(stack(nn.Tanh, 3), 0.02)
    run = watch(model, batches(STEPS), optimizer=torch.optim.Adam(model.parameters(), lr=0.01))
    assert gains(run)[0] < 1e-3
    assert run.findings()["ND311"].severity == "info"
    assert run.alarms() == []


class ResidualStack(nn.Module):
    """Sixteen plain residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList(stack(nn.ReLU, 1, 32, 32)[:1] for _ in range(16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for block in self.blocks:
            h = h + torch.relu(block(h))
        return self.head(h)


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "residual": ResidualStack,
    "zero residual branches, LayerNorm": Transformer,
    "attention": lambda: Tokens(Attention()),
    "zero head": lambda: zeroed(stack(nn.ReLU), "6.weight", "6.bias"),
    "low-rank adapters": lambda: nn.Sequential(LowRank(64, 32), nn.ReLU(), LowRank(32, 10)),
    "default, six ReLU layers": lambda: stack(nn.ReLU, 6),
    "default, six tanh layers": lambda: stack(nn.Tanh, 6),
    "two sigmoid layers": lambda: stack(nn.Sigmoid, 2),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks(name: str) -> None:
    torch.manual_seed(0)
    model = HEALTHY[name]()
    run = watch(model, batches(STEPS), optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))
    assert run.alarms() == []


def flow(step: int, squares: list[float], loss: float | None = None) -> Snapshot:
    """A visit with the mean square gradients of a chain of layers."""
    layers = {f"fc{i}": LayerInfo(f"fc{i}", "Linear", "weight", i, units=4) for i in range(len(squares))}
    statistics = {
        Key(f"fc{i}", "grad_output", "stream", "moments"): Moments.of(torch.full((8, 1, 4), square**0.5))
        for i, square in enumerate(squares)
    }
    facts = {} if loss is None else {"loss": loss}
    return Snapshot(step, "live", layers, statistics, facts=facts)


@pytest.mark.parametrize(
    ("squares", "rule"),
    [
        ([2e-3, 1.0, 1.0], None),
        ([5e-4, 1.0, 1.0], "ND311"),
        ([5e2, 1.0, 1.0], None),
        ([2e3, 1.0, 1.0], "ND312"),
    ],
)
def test_limits_of_the_gain(squares: list[float], rule: str | None) -> None:
    findings = diagnose([flow(0, squares)]).findings
    assert [finding.rule for finding in findings] == ([rule] if rule else [])
    if rule:
        assert (findings[0].severity, findings[0].layers) == ("info", ("fc1",))


@pytest.mark.parametrize(
    ("step", "loss", "severity"),
    [(40, 2.0, "info"), (41, 2.0, "warning"), (41, 1.85, "warning"), (41, 1.75, "info"), (41, None, "info")],
)
def test_patience(step: int, loss: float | None, severity: Literal["info", "warning"]) -> None:
    """Forty updates, and a loss whose middle value is within 5% of its first; an unknown loss accuses nobody."""
    first = None if loss is None else 2.0
    (finding,) = diagnose([flow(0, [1e-6, 1e-3, 1.0], first), flow(step, [1e-6, 1e-3, 1.0], loss)]).findings
    assert finding.severity == severity


def test_gradients_of_exactly_zero_are_not_judged() -> None:
    """A zero head passes none at step 0; later they are cut off, not faded: ND605 says it."""
    early = [flow(step, [0.0, 0.0, 1.0]) for step in range(4)]
    assert diagnose(early).findings == ()
    assert diagnose([*early, flow(4, [1e-9, 1e-6, 1.0])]).findings[0].rule == "ND311"


@functools.cache
def laws(name: str) -> Run:
    torch.manual_seed(0)
    model = stack(nn.Tanh, 2)
    with torch.no_grad():
        if name == "constant":
            model[2].weight.fill_(0.05)
        elif name == "orthogonal":
            nn.init.orthogonal_(model[2].weight)
        elif name == "tenfold":
            model[2].weight.normal_(0, math.sqrt(15 / 32))
        elif name == "frozen":
            model[2].weight.fill_(0.05)
            model[2].requires_grad_(False)
    return watch(model, batches(1))


@pytest.mark.parametrize(
    ("name", "is_found"), [("constant", True), ("orthogonal", False), ("tenfold", True), ("frozen", False)]
)
def test_unusual_laws_are_information(name: str, is_found: bool) -> None:
    finding = laws(name).findings().get("ND313")
    assert (finding is not None) == is_found
    if finding is not None:
        assert (finding.severity, finding.layers) == ("info", ("2",))
        assert "std that keeps signals is 0.177" in finding.recommendation  # 1 / sqrt(32)
        assert "It worked when" in finding.recommendation


def test_laws_that_are_told_apart() -> None:
    assert laws("orthogonal").reading("weight_gain", "2", 0).detail["laws"] == "orthogonal"
    assert laws("constant").reading("weight_gain", "2", 0).detail["laws"] == "constant"


def test_a_law_does_not_apply_in_front_of_a_norm() -> None:
    torch.manual_seed(0)
    model = drawn(nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 10)), 2.0, "0")
    run = watch(model, batches(1))
    assert run.reading("weight_gain", "0", 0).detail["applies"] is False
    assert "ND313" not in run.findings()


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_gains_of_zero_that_no_way_leads_around_are_named(gain: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(64, 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Tanh()),
        nn.Linear(32, 10),
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, gain if name in ("1.weight", "4.weight") else 0.0)
    found = train(model, batches(62), torch.optim.SGD(model.parameters(), 0.1)).findings().get("ND311")
    assert (found is not None) == (gain == 0)
    if found is not None:
        assert (found.layers, found.severity) == (("1",), "warning")  # nothing reaches the second one
        assert "All outputs of layer 1 are constant, though the inputs are not" in found.message
        assert "torch.nn.init.ones_" in found.recommendation
