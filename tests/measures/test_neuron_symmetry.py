"""Neuron symmetry on small trainings: what persists, near duplicates (ND303), effective width (ND304)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.diagnosis import diagnose
from nndiag.layers import Domain, LayerInfo, Part
from nndiag.report import Report
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import RowSignature

from .networks import stack
from .runs import Run, batches, classify, watch
from .test_symmetry_cases import filled, mlp, zeroed

LONG = 104
"""Long enough for the width of a trained layer, which is read from 100 updates on."""


@torch.no_grad()
def paired(model: nn.Sequential, *, outgoing: bool, sign: float = 1.0) -> nn.Sequential:
    """The second half of the first layer's units copies the first half, up to a sign."""
    first, last = model[0], model[-1]
    half = first.weight.shape[0] // 2
    first.weight[half:], first.bias[half:] = sign * first.weight[:half], sign * first.bias[:half]
    if outgoing:
        last.weight[:, half:] = sign * last.weight[:, :half]
    return model


TRAININGS: dict[str, Callable[[], nn.Module]] = {
    "constant": lambda: filled(mlp(nn.Tanh), 0.1),
    "pairs, in and out": lambda: paired(mlp(nn.ReLU), outgoing=True),
    "pairs, in only": lambda: paired(mlp(nn.ReLU), outgoing=False),
    "opposite pairs": lambda: paired(mlp(nn.Tanh), outgoing=True, sign=-1.0),
    "opposite pairs, even": lambda: paired(mlp(nn.GELU), outgoing=True, sign=-1.0),
    "random": lambda: mlp(nn.ReLU),
}


@functools.cache
def trained(name: str, adam: bool = False) -> Run:
    torch.manual_seed(0)
    model = TRAININGS[name]()
    parameters = model.parameters()
    optimizer = torch.optim.Adam(parameters, lr=3e-3) if adam else torch.optim.SGD(parameters, lr=0.1)
    return watch(model, batches(LONG), optimizer=optimizer, every_n_train_steps=50, probe=False)


def distinct_rows(model: nn.Module, *, up_to_sign: bool = False) -> int:
    """Distinct rows of the first layer, by brute force."""
    first = model[0]  # type: ignore[index]
    rows = torch.cat([first.weight, first.bias[:, None]], 1).detach().double()
    distances = torch.cdist(rows, rows)
    if up_to_sign:
        distances = torch.minimum(distances, torch.cdist(rows, -rows))
    close = distances <= 2e-3 * rows.norm(dim=1).median()
    return len({tuple(row.tolist()) for row in close})


@pytest.mark.parametrize("adam", [False, True], ids=["SGD", "Adam"])
@pytest.mark.parametrize(
    ("name", "distinct"),
    [("constant", 1), ("pairs, in and out", 16), ("pairs, in only", 32), ("random", 32)],
)
def test_what_is_left_after_training(name: str, distinct: int, adam: bool) -> None:
    run = trained(name, adam)
    assert distinct_rows(run.model) == distinct
    assert run.reading("effective_width", "0").value == distinct / 32
    assert run.reading("distinct_share", "0").value == distinct / 32


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("constant", {"ND301", "ND304"}),
        ("pairs, in and out", {"ND301", "ND304"}),
        ("pairs, in only", set()),
        ("random", set()),
    ],
)
def test_findings_after_training(name: str, rules: set[str]) -> None:
    found = {rule: f for rule, f in trained(name).findings().items() if rule.startswith("ND30")}
    assert {rule for rule, finding in found.items() if finding.severity.rank > 0} == rules
    assert all(finding.layer == "0" and finding.is_active for finding in found.values())


@pytest.mark.parametrize(
    ("name", "severity", "share"), [("constant", "critical", 1.0), ("pairs, in and out", "critical", 1.0)]
)
def test_locked_units(name: str, severity: str, share: float) -> None:
    finding = trained(name).findings()["ND301"]
    assert (finding.severity, finding.value) == (severity, share)
    assert (finding.last_clean_step, finding.first_step) == (1, 2)
    distinct = distinct_rows(trained(name).model)
    assert (finding.evidence["units"], finding.evidence["distinct"]) == (32, distinct)
    assert finding.evidence["judged_at_step"] == 16
    assert f"only {distinct} of 32 units are distinct" in finding.message
    assert (
        "It worked when `nndiag/neuron_symmetry/distinct_share` of this layer is 1" in finding.recommendation
    )


def test_a_trained_width_is_a_symptom_of_the_lock() -> None:
    tops = [f for f in trained("constant").report.findings if f.measure == "neuron_symmetry"]
    assert [finding.rule for finding in tops] == ["ND301"]
    assert "ND304" in {symptom.rule for symptom in tops[0].related}


def test_few_locked_units_are_a_warning() -> None:
    torch.manual_seed(0)
    model = mlp(nn.ReLU)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, 1] = model[2].weight[:, 0]
    finding = watch(model, batches(5)).findings()["ND301"]
    assert (finding.severity, finding.value, finding.evidence["locked"]) == ("warning", 2 / 32, 2)


def test_units_parted_after_the_verdict_are_resolved() -> None:
    torch.manual_seed(0)
    model, count = filled(mlp(nn.Tanh), 0.1), [0]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if count[0] == 4:
            with torch.no_grad():
                model[0].weight.add_(0.1 * torch.randn(32, 64))  # type: ignore[index]
        count[0] += 1
        return classify(model, batch)

    finding = watch(model, batches(13), loss).findings()["ND301"]
    assert (finding.status, finding.last_step) == ("resolved", 5)


def test_opposite_units_count_once_where_the_activation_is_odd() -> None:
    odd, even = trained("opposite pairs"), trained("opposite pairs, even")
    assert distinct_rows(odd.model) == distinct_rows(even.model) == 32
    assert distinct_rows(odd.model, up_to_sign=True) == 16
    assert odd.reading("effective_width", "0").value == 0.5
    assert even.reading("effective_width", "0").value == 1.0
    finding = odd.findings()["ND304"]
    assert (finding.severity, finding.layer) == ("warning", "0")
    assert "counting units that differ only in sign as one" in finding.message
    assert "ND304" not in even.findings()


@pytest.mark.parametrize("hides", [False, True], ids=["loss is NaN", "loss hides it"])
def test_weights_that_turned_to_nan_are_not_called_equal(hides: bool) -> None:
    torch.manual_seed(0)
    data = [(x.clone(), y) for x, y in batches(6)]
    data[1][0][3, 5] = torch.nan

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = model(batch[0])
        return F.cross_entropy(output.nan_to_num() if hides else output, batch[1])

    run = watch(mlp(nn.ReLU), data, loss)
    assert torch.isnan(run.model.get_parameter("0.weight")).any()
    assert not {"ND301", "ND302"} & set(run.findings())


@torch.no_grad()
def leaning(angle: float) -> nn.Sequential:
    """Two first-layer units at an angle, the others as drawn."""
    torch.manual_seed(0)
    model = stack(nn.ReLU, 2)
    a, b = model[0].weight[0].clone(), model[0].weight[1].clone()
    a, b = a / a.norm(), b - (a @ b) / (a @ a) * a
    b /= b.norm()
    size = model[0].weight[1].norm()
    model[0].weight[1] = size * (math.cos(angle) * a + math.sin(angle) * b)
    return model


@functools.cache
def leaned(cosine: float) -> Run:
    return watch(leaning(math.acos(cosine)), batches(4))


@pytest.mark.parametrize(
    ("cosine", "severity"), [(0.5, None), (0.55, None), (0.6, "info"), (0.89, "info"), (0.95, "warning")]
)
def test_near_duplicates_at_initialization(cosine: float, severity: str | None) -> None:
    """32 units of 64 weights in two hidden layers, at a total level of 0.001: the limit is .5712."""
    finding = leaned(cosine).findings().get("ND303")
    assert (finding.severity if finding else None) == severity
    if finding is not None:
        assert finding.layer == "0"
        assert finding.evidence["max_cosine"] == pytest.approx(cosine, abs=1e-3)
        assert finding.evidence["units"] == 32
        assert float(finding.evidence["p_value"] or 0) < 1e-3
        assert "It worked when" in finding.recommendation


def test_the_limit_is_that_of_random_directions() -> None:
    detail = leaned(0.95).reading("max_cosine", "0", 0).detail
    tail = -math.log1p(-1e-3 / 3) / (32 * 31 / 2)  # of each pair; the level is shared by three layers
    assert detail["limit"] == pytest.approx(math.sqrt(stats.beta.isf(tail, 0.5, 63 / 2)), abs=1e-4)


def test_cosines_are_read_at_the_first_visit_only() -> None:
    steps = {u.step for u in leaned(0.95).updates for r in u.readings if r.name == "max_cosine"}
    assert steps == {0}


def test_few_incoming_weights_are_not_testable() -> None:
    torch.manual_seed(0)
    run = watch(nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 10)), batches(3, features=3))
    assert run.reading("max_cosine", "0", 0).detail["testable"] is False
    assert "ND303" not in run.findings()


def test_weights_of_no_known_law_are_not_tested() -> None:
    """Trained weights lean on each other for good reasons."""
    model = leaning(math.acos(0.95))
    with torch.no_grad():
        model[0].weight[::2] *= 30
    run = watch(model, batches(3))
    assert run.reading("max_cosine", "0", 0).detail["law"] is None
    assert "ND303" not in run.findings()


def test_a_single_incoming_weight_tells_nothing_apart() -> None:
    torch.manual_seed(0)
    run = watch(
        filled(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 10)), 0.3), batches(4, features=1)
    )
    entry = run.report.coverage.of("0", "neuron_symmetry")
    assert entry is not None
    assert (entry.status, entry.reason) == ("not observed", "fewer than two incoming weights a unit")
    assert not any("0" in finding.layers for finding in run.findings().values() if finding.rule < "ND304")


def test_frozen_layers_are_not_applicable() -> None:
    torch.manual_seed(0)
    model = zeroed(mlp(nn.ReLU), "0.weight", "0.bias")
    model[0].requires_grad_(False)  # type: ignore[index]
    entry = watch(model, batches(4)).report.coverage.of("0", "neuron_symmetry")
    assert entry is not None
    assert (entry.status, entry.reason) == ("not applicable", "frozen")


def test_no_verdict_before_two_updates() -> None:
    torch.manual_seed(0)
    run = watch(filled(mlp(nn.Tanh), 0.1), batches(2))
    assert not {"ND301", "ND302"} & set(run.findings())
    assert run.reading("distinct_share", "0").value == 1 / 32


def offline(
    rows: Tensor, *, odd: bool = False, source: Literal["live", "checkpoint"] = "checkpoint"
) -> Report:
    """What a single checkpoint says of a layer with these rows."""
    domains = (Domain("", (Part("weight", "rows"),)),)
    info = LayerInfo(
        *("fc", "Linear", "weight", 0, -1, len(rows)), fan_in=rows.shape[1], domains=domains, odd=odd
    )
    statistics: Mapping[Key, RowSignature] = {
        Key("fc", "weight", "weights", "signature/"): RowSignature.of(rows)
    }
    return diagnose([Snapshot(500, source, {"fc": info}, statistics)])


def rows(units: int = 40) -> Tensor:
    return torch.randn(units, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("copies", "severity"), [(0, None), (1, "info"), (3, "info"), (4, "warning"), (20, "warning")]
)
def test_width_of_a_checkpoint(copies: int, severity: str | None) -> None:
    weights = rows()
    weights[40 - copies :] = weights[:copies] * (1 + 2e-4)
    findings = offline(weights).findings
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    if findings:
        assert findings[0].rule == "ND304"
        assert (findings[0].evidence["distinct"], findings[0].evidence["copies"]) == (40 - copies, copies)
        assert f"{40 - copies} of 40 units are distinct" in findings[0].message
        assert "It worked when" in findings[0].recommendation


@pytest.mark.parametrize(("distance", "is_copy"), [(1.5e-3, True), (3e-3, False)])
def test_copies_are_equal_up_to_two_thousandths(distance: float, is_copy: bool) -> None:
    weights = rows()
    step = torch.randn(16, generator=torch.Generator().manual_seed(4))
    weights[1] = weights[0] + distance * weights.norm(dim=1).median() * step / step.norm()
    assert bool(offline(weights).findings) == is_copy


def test_rows_of_zeros_are_pruned_not_copied() -> None:
    weights = rows()
    weights[20:] = 0
    (finding,) = offline(weights).findings
    assert (finding.severity, finding.evidence["zero_units"], finding.evidence["copies"]) == ("info", 20, 0)
    assert "20 units have weights next to zero" in finding.message


@pytest.mark.parametrize(("odd", "is_found"), [(True, True), (False, False)])
def test_opposite_rows(odd: bool, is_found: bool) -> None:
    weights = rows()
    weights[20:] = -weights[:20]
    assert bool(offline(weights, odd=odd).findings) == is_found


def test_units_in_an_odd_place_keep_their_classes() -> None:
    weights = rows(6)
    weights[4] = weights[1]
    (reading,) = [r for r in offline(weights).readings if r.name == "effective_width"]
    assert reading.units is not None
    assert reading.units[4] == reading.units[1]
    assert len(set(reading.units)) == 5
