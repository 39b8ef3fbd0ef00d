"""Dropout capacity: right verdicts on small trainings, modules and functions, masks in kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.findings import CoverageEntry, Reading, Scalar
from nndiag.functional import variance_shift
from nndiag.measures import RULES, Visit
from nndiag.measures.dropout_capacity import read
from nndiag.rules import Abstention, Case, History, Verdict, View

from .loops import train, warnings_of
from .runs import Batch, Run, batches

SHORT, SETTLED = 32, 66
"""Steps with two experiments; and with two after running statistics have settled."""


def adam(model: nn.Module, lr: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr)


def run(make: Callable[[], nn.Module], steps: int = SHORT, size: int = 64, **options: object) -> Run:
    torch.manual_seed(0)
    model = make()
    return train(model, batches(steps, size), adam(model), **options)


def dropped(p: float, width: int = 64, last: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, last))


class Functional(nn.Module):
    """Dropout as a function, its flag given or forgotten."""

    def __init__(
        self, p: float, function: Callable[..., Tensor] = F.dropout, *, flag: bool | None = None
    ) -> None:
        super().__init__()
        self.a, self.b, self.p, self.function, self.flag = (
            nn.Linear(64, 64),
            nn.Linear(64, 10),
            p,
            function,
            flag,
        )

    def forward(self, x: Tensor) -> Tensor:
        training = self.training if self.flag is None else self.flag
        return self.b(self.function(F.relu(self.a(x)), p=self.p, training=training))


class Channels(nn.Module):
    """Channel dropout behind a pooling."""

    def __init__(self, drop: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(1, 12, 3, padding=1), drop(), nn.Linear(12 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_pool2d(F.relu(self.conv(x.view(-1, 1, 8, 8))), 4)
        return self.head(self.drop(h).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, num_layers=2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 10)
        self.mha = nn.MultiheadAttention(16, 2, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.view(-1, 8, 8))
        return self.head((h + self.mha(h, h, h, need_weights=False)[0]).mean(1))


def test_readings_of_a_healthy_dropout() -> None:
    watched = run(partial(dropped, 0.25))
    kept = watched.reading("kept_units", "2")
    assert kept.value == 48
    assert kept.detail["all_off"] == 0.25**64
    assert watched.reading("log2_subnetworks", "2").value == 64
    assert watched.reading("entropy_bits", "2").value == pytest.approx(64 * 0.811278, rel=1e-6)
    dof = watched.reading("effective_dof", "2")
    assert 9 < dof.value < 48
    assert dof.detail["at p=0.2"] > dof.value > dof.detail["at p=0.3"]
    assert dof.value + dof.resolution == pytest.approx(dof.detail["upper"])
    assert warnings_of(watched) == []


def test_fewer_than_two_units_kept() -> None:
    watched = run(partial(dropped, 0.9, 16))
    finding = watched.findings()["ND501"]
    assert (finding.severity, finding.layers) == ("warning", ("2",))
    assert finding.evidence["kept"] == pytest.approx(1.6)
    assert "1.6 of 16" in finding.message


def test_too_little_freedom_for_ten_classes() -> None:
    """24 units keep 2.4 on average: more than two, and d_eff is below half of nine."""
    finding = run(partial(dropped, 0.9, 24)).findings()["ND501"]
    assert (finding.severity, finding.evidence["fault"]) == ("warning", "freedom")
    assert finding.value < finding.evidence["upper"] < 4.5
    assert "Lower p from 0.9" in finding.recommendation


def test_features_that_fresh_statistics_leave_nearly_constant_are_not_held_against_dropout() -> None:
    def normed(momentum: float) -> nn.Sequential:
        model = dropped(0.9, 24)
        nn.init.constant_(model[0].bias, 100.0)
        return nn.Sequential(model[0], nn.BatchNorm1d(24, momentum=momentum), *model[1:])

    slow, quick = (run(partial(normed, momentum)) for momentum in (0.001, 0.5))
    assert slow.reading("effective_dof", "3").detail["at p=0.1"] < 4.5
    assert "ND501" not in slow.findings()
    assert quick.findings()["ND501"].evidence["fault"] == "freedom"


def test_a_little_less_freedom_than_needed_is_a_note() -> None:
    finding = run(partial(dropped, 0.5, 16)).findings()["ND501"]
    assert (finding.severity, finding.evidence["fault"]) == ("info", "freedom")
    assert 4.5 < finding.evidence["upper"] < 9


def test_dropout_is_not_to_blame_for_units_that_are_dead_without_it() -> None:
    def dying() -> nn.Sequential:
        model = dropped(0.9, 24)
        nn.init.constant_(model[0].bias, -50.0)
        return model

    watched = run(dying)
    assert watched.reading("effective_dof", "2").detail["at p=0"] == 0
    assert "ND501" not in watched.findings()


def test_dropout_on_the_output() -> None:
    watched = run(lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Dropout(0.2)))
    finding = watched.findings()["ND501"]
    assert (finding.severity, finding.layers, finding.evidence["fault"]) == ("warning", ("3",), "output")


def test_a_dropped_branch_before_the_last_norm_is_not_the_output() -> None:
    class Tail(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Linear(64, 32), nn.Linear(32, 32)
            self.drop, self.norm = nn.Dropout(0.1), nn.LayerNorm(32)
            self.register_buffer("head", torch.randn(32, 10))

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.norm(h + self.drop(self.branch(F.relu(h)))) @ self.head

    assert warnings_of(run(Tail)) == []


def test_dropout_far_from_the_output_is_not_judged() -> None:
    def deep() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(64, 12), nn.ReLU(), nn.Dropout(0.7)),
            *(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        )

    watched = run(deep)
    assert watched.reading("effective_dof", "2").value < 4.5
    assert "ND501" not in watched.findings()


def test_idle_dropout_is_a_note() -> None:
    """Of prototypes so far apart, a tenth of 512 units less changes no decision."""
    torch.manual_seed(0)
    model = dropped(0.02, 512)
    watched = train(model, batches(61, 128), adam(model), select=["ND502"])
    assert watched.reading("disagreement", None).value < 0.005
    assert watched.findings()["ND502"].severity == "info"


@pytest.mark.parametrize(
    "make", [partial(dropped, 0.9), partial(Functional, 0.9)], ids=["module", "function"]
)
def test_masks_disagree(make: Callable[[], nn.Module]) -> None:
    reading = run(make).reading("disagreement", None)
    assert reading.value > 0.05
    assert reading.detail["masks"] == 10


@pytest.mark.parametrize(
    "make", [partial(dropped, 0.0), partial(Functional, 0.0)], ids=["module", "function"]
)
def test_no_dropout_no_disagreement(make: Callable[[], nn.Module]) -> None:
    watched = run(make)
    assert watched.reading("disagreement", None).value == 0
    assert warnings_of(watched) == []


@pytest.mark.parametrize(
    ("function", "p"), [(F.dropout, 0.5), (F.alpha_dropout, 0.25)], ids=["dropout", "alpha_dropout"]
)
def test_functional_dropouts(function: Callable[..., Tensor], p: float) -> None:
    watched = run(partial(Functional, p, function))
    name = f":{function.__name__}"
    assert watched.reading("kept_units", name).value == 64 * (1 - p)
    assert watched.reading("active_in_eval", name).value == 0
    assert watched.reading("idle_in_training", name).value == 0
    assert warnings_of(watched) == []


@pytest.mark.parametrize(
    "drop", [partial(nn.Dropout2d, 0.25), partial(nn.Dropout, 0.25)], ids=["2d", "entries"]
)
def test_units_behind_a_pooling_are_channels(drop: Callable[[], nn.Module]) -> None:
    watched = run(partial(Channels, drop))
    assert watched.reading("kept_units", "drop").value == 9
    assert watched.reading("effective_dof", "drop").n == 128
    assert warnings_of(watched) == []


@pytest.mark.parametrize(("make", "layer", "p"), [(Recurrent, "lstm", 0.3), (Attentive, "mha", 0.2)])
def test_masks_inside_kernels(make: Callable[[], nn.Module], layer: str, p: float) -> None:
    watched = run(make, 20)
    assert watched.reading("drop_probability", layer).value == pytest.approx(p)
    assert watched.reading("idle_in_training", layer).value == 0
    entries = [
        entry.reason
        for update in watched.updates
        for entry in read(Visit(update.snapshot, update.snapshot))
        if isinstance(entry, CoverageEntry) and (entry.layer, entry.status) == (layer, "not observed")
    ]
    assert len(entries) == len(watched.updates)
    assert f"inside a fused kernel (p = {p})" in entries[0]
    assert warnings_of(watched) == []


def test_a_recurrent_layer_in_evaluation_mode_is_found() -> None:
    def evaluating() -> nn.Module:
        model = Recurrent()
        model.lstm.train(False)
        return model

    finding = run(evaluating, 20).findings()["ND504"]
    assert (finding.layers, finding.evidence["fault"]) == (("lstm",), "training")


@pytest.mark.parametrize("probe", [True, False])
def test_training_in_evaluation_mode(probe: bool) -> None:
    finding = run(lambda: dropped(0.5).eval(), 20, probe=probe).findings()["ND504"]
    assert (finding.severity, finding.layers) == ("warning", ("2",))
    assert "model.train()" in finding.recommendation


def test_masks_in_evaluation() -> None:
    finding = run(partial(Functional, 0.5, flag=True), 20, select=["ND5"]).findings().get("ND504")
    assert finding is not None
    assert finding.evidence["fault"] == "evaluation"
    assert "training=self.training" in finding.recommendation


def test_a_frozen_backbone_in_evaluation_mode_is_meant_to_be() -> None:
    class Probed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.3))
            self.backbone.requires_grad_(False)
            self.head = nn.Linear(32, 10)

        def train(self, mode: bool = True) -> Probed:
            super().train(mode)
            self.backbone.eval()
            return self

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.backbone(x))

    assert "ND504" not in run(lambda: Probed().train(), 20).findings()


def dropped_and_normalized(p: float, *, behind: bool = False) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(3):
        parts += [nn.Linear(64, 64), nn.ReLU()]
        parts += [nn.BatchNorm1d(64)] if behind else [nn.Dropout(p), nn.BatchNorm1d(64)]
    return nn.Sequential(*parts, *([nn.Dropout(p)] if behind else []), nn.Linear(64, 10))


def test_dropout_in_front_of_batch_norm_leads() -> None:
    watched = run(partial(dropped_and_normalized, 0.8), SETTLED)
    top = watched.report.findings[0]
    assert (top.rule, top.severity) == ("ND503", "warning")
    assert set(top.layers) == {"2", "3", "6", "7", "10", "11"}
    assert top.evidence["variance_ratio"] < 0.5
    assert not {"ND401", "ND402", "ND403", "ND404"} & {f.rule for f in watched.report.findings}


def test_the_first_ratio_is_that_of_the_closed_form() -> None:
    """Running statistics that have settled, weights that hardly move: q s^2 / (s^2 + p m^2) of each channel."""
    torch.manual_seed(0)
    model = dropped_and_normalized(0.5)
    data = batches(SETTLED, 128)
    watched = train(model, data, torch.optim.SGD(model.parameters(), lr=1e-6))
    with torch.no_grad():
        h = F.relu(model[0](torch.cat([x for x, _ in data])))
    expected = float(torch.tensor(variance_shift(h.mean(0), h.var(0), 0.5)).nanmedian())
    assert watched.reading("variance_shift", "3").value == pytest.approx(expected, rel=0.08)


def test_dropout_behind_the_last_batch_norm_is_silent() -> None:
    watched = run(partial(dropped_and_normalized, 0.3, behind=True), SETTLED)
    assert "ND503" not in watched.findings()
    assert warnings_of(watched) == []


def test_mild_dropout_in_front_of_batch_norm_is_a_note() -> None:
    finding = run(partial(dropped_and_normalized, 0.1), SETTLED).findings()["ND503"]
    assert finding.severity == "info"
    assert finding.value > 0.8


def test_labels_are_not_needed() -> None:
    """A regression: no classes, no degrees of freedom to ask for."""

    def squared(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch[0]).squeeze(1), batch[1])

    torch.manual_seed(0)
    model = dropped(0.3, 32, last=1)
    data = [(x, x[:, 0].tanh()) for x, _ in batches(SHORT)]
    watched = train(model, data, adam(model), squared)
    assert watched.reading("effective_dof", "2").value > 1
    assert warnings_of(watched) == []


@pytest.mark.parametrize(("p", "speaks"), [(0.9, True), (0.3, False)])
def test_dropout_inside_a_recurrent_layer_is_judged_by_the_units_kept(p: float, speaks: bool) -> None:
    watched = run(partial(Recurrent, p), 20)
    assert watched.reading("kept_units", "lstm").value == pytest.approx(16 * (1 - p))
    assert ("ND501" in watched.findings()) == speaks


@pytest.mark.parametrize(
    ("kept", "p", "loss", "step", "expected"),
    [
        (3.2, 0.95, 1.09, 60, "warning"),
        (3.2, 0.95, 1.09, 50, "abstains"),
        (3.2, 0.95, 0.50, 60, None),
        (3.2, 0.50, 1.09, 60, None),
        (6.4, 0.95, 1.09, 60, None),
    ],
)
def test_few_units_are_held_against_a_network_that_learns_nothing(
    kept: float, p: float, loss: float, step: int, expected: str | None
) -> None:
    history, rule = History(), RULES["ND501"]
    detail: dict[str, Scalar] = {"p": p, "units": 64, "alive": 64, "acts_on_output": False}
    for at in (0, step):
        reading = Reading(rule.measure, "kept_units", "drop", at, kept, detail=detail)
        history.add(at, {}, [Reading("run", "loss", None, at, loss if at else 1.1), reading])
    verdict = rule.judge(View(history, rule.measure, "drop", rule.threshold))
    if isinstance(verdict, Verdict):
        assert verdict.severity == expected
        assert "keeps 3.2 of 64 units" in rule.advise(Case(("drop",), (verdict,), step, 0)).message
    else:
        assert ("abstains" if isinstance(verdict, Abstention) else verdict) == expected
