"""``nndiag.check`` of one checkpoint and of a series; two of them compared; the ids are those of a live run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from report.samples import is_inert
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from sinks.runs import reading as reading_of
from sinks.runs import update, watched
from torch import Tensor, nn

import nndiag
from nndiag.checkpoints import reading
from nndiag.checkpoints.child import read_here
from nndiag.errors import CheckpointError, ConfigurationError
from nndiag.findings import Finding, Reading
from nndiag.layers import LayerInfo
from nndiag.offline import Comparison, Subject, compare, comparing, probing, repair
from nndiag.report import Report
from nndiag.sinks import RecordSink
from nndiag.snapshot import Snapshot

IN_CHILDREN = reading.read


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each checkpoint would take its time; the reader is the same."""

    def read(path: Path, *, layers: Any = None, process: Any = None) -> Snapshot:
        with reading._about(path):
            return read_here(path, layers)

    monkeypatch.setattr(reading, "read", read)
    monkeypatch.setattr(comparing, "read", read)


def save(path: Path, state: dict[str, Tensor], step: int | None = None, **more: Any) -> Path:
    known = {} if step is None else {"global_step": step}
    torch.save({"state_dict": state, **known, **more}, path)
    return path


def series(folder: Path, states: list[dict[str, Tensor]], every: int = 10, **more: Any) -> list[Path]:
    return [save(folder / f"{n}.ckpt", state, n * every, **more) for n, state in enumerate(states)]


def rows(units: int = 8, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(units, width, generator=torch.Generator().manual_seed(seed))


def found(report: Report, rule: str) -> Finding | None:
    every = (finding for top in report.findings for finding in top.walk())
    return next((finding for finding in every if finding.rule == rule), None)


def the(report: Report, rule: str) -> Finding:
    finding = found(report, rule)
    assert finding is not None, f"{rule} is not among {[f.rule for f in report.findings]}"
    return finding


def taken(report: Report, name: str, layer: str | None) -> Reading | None:
    return next((r for r in report.readings if (r.name, r.layer) == (name, layer)), None)


def alarms(report: Report) -> list[tuple[str, str]]:
    return [(f.rule, str(f.severity)) for top in report.findings for f in top.walk() if f.severity != "info"]


# --- a real training ------------------------------------------------------------------------------------------


def network(momentum: float = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(12, 24), nn.BatchNorm1d(24, momentum=momentum), nn.ReLU()),
        *(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)),
    )


def widened(net: nn.Sequential) -> nn.Sequential:
    """The second half of the units of layer 3 are copies, as after a widening without noise."""
    with torch.no_grad():
        net[3].weight[12:], net[3].bias[12:] = net[3].weight[:12], net[3].bias[:12]
        net[5].weight[:, 12:] = net[5].weight[:, :12]
    return net


def train(net: nn.Sequential, folder: Path, left_out: str = "none", steps: int = 60) -> list[Path]:
    """Trains and saves every 20 steps, the untrained network first."""
    parameters = [p for name, p in net.named_parameters() if not name.startswith(left_out)]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    x = torch.randn(128, 12, generator=torch.Generator().manual_seed(1))
    y = x[:, :3].argmax(1)
    paths = []
    for step in range(steps + 1):
        if step % 20 == 0:
            more = {"optimizer_states": [optimizer.state_dict()]} if step else {}
            paths.append(save(folder / f"step={step}.ckpt", net.state_dict(), step, **more))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return paths


def test_planted_faults_are_found_with_the_ids_of_a_live_run(tmp_path: Path) -> None:
    report = nndiag.check(train(widened(network(momentum=0.0)), tmp_path, left_out="5."))
    assert the(report, "ND304").layers == ("3",)
    assert the(report, "ND304").evidence["distinct"] == 12
    assert the(report, "ND407").layers == ("1",)
    assert the(report, "ND407").last_clean_step == 0
    assert the(report, "ND606").layers == ("5",)
    assert alarms(report) == [("ND304", "warning"), ("ND407", "warning"), ("ND606", "warning")]


def test_a_healthy_run_has_no_warning(tmp_path: Path) -> None:
    paths = train(network(), tmp_path)
    assert alarms(nndiag.check(paths)) == []
    assert found(nndiag.check(paths), "ND606") is None
    for path in paths:
        assert nndiag.check(path).status == "ok"


def test_files_are_read_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read", IN_CHILDREN)
    told: list[tuple[int, int]] = []
    states = [{"fc.weight": rows(seed=seed)} for seed in (0, 1)]
    series(tmp_path, states)
    report = nndiag.check(tmp_path, progress=lambda done, total, newest: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert report.run["steps"] == "0, 10"


FRESH = {
    "zero head": lambda: nn.Sequential(nn.Linear(6, 8), _zeroed(nn.Linear(8, 4))),
    "zero gain": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), _zeroed(nn.BatchNorm2d(8))),
    "recurrent": lambda: nn.LSTM(6, 8),
    "transformer": lambda: nn.TransformerEncoderLayer(16, 2, 32),
    "embedding": lambda: nn.Embedding(11, 8, padding_idx=0),
}


def _zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    return layer


@pytest.mark.parametrize("kind", FRESH)
@pytest.mark.parametrize("step", [None, 0])
def test_fresh_networks_have_no_warning(kind: str, step: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert alarms(nndiag.check(save(tmp_path / "x.pt", FRESH[kind]().state_dict(), step))) == []


# --- units that repeat each other -----------------------------------------------------------------------------


def test_a_layer_of_one_constant(tmp_path: Path) -> None:
    report = nndiag.check(save(tmp_path / "x.pt", {"fc.weight": torch.full((8, 6), 0.1)}))
    finding = the(report, "ND304")
    assert (finding.severity, finding.evidence["distinct"]) == ("warning", 1)


def test_units_that_became_equal(tmp_path: Path) -> None:
    equal = torch.cat((rows()[:4], rows()[:4]))
    report = nndiag.check(series(tmp_path, [{"fc.weight": rows()}, {"fc.weight": equal}]))
    assert the(report, "ND304").last_clean_step == 0
    assert "4 of 8 units are distinct" in the(report, "ND304").message
    assert "In the checkpoint before, 8 were." in the(report, "ND304").message


def test_units_that_healed(tmp_path: Path) -> None:
    equal = torch.cat((rows()[:4], rows()[:4]))
    states = [{"fc.weight": weight} for weight in (equal, rows(), rows(seed=1))]
    assert the(nndiag.check(series(tmp_path, states)), "ND304").status == "resolved"


def test_an_unchanged_width_is_not_told_twice(tmp_path: Path) -> None:
    equal = {"fc.weight": torch.cat((rows()[:4], rows()[:4]))}
    assert "before" not in the(nndiag.check(series(tmp_path, [equal, equal])), "ND304").message


# --- numbers that are not finite ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(number: float, tmp_path: Path) -> None:
    weight = rows()
    weight[0, :2] = number
    states = [{"a.weight": rows(), "b.weight": rows()}, {"a.weight": rows(), "b.weight": weight}]
    finding = the(nndiag.check(series(tmp_path, states)), "ND604")
    assert (finding.severity, finding.layers, finding.first_step) == ("critical", ("b",), 10)
    assert "2 numbers of the checkpoint of step 10" in finding.message
    assert "b.weight (2 of 48)" in finding.message


def test_where_it_began_stands(tmp_path: Path) -> None:
    bad = {"a.weight": torch.full((8, 6), math.nan)}
    finding = the(nndiag.check(series(tmp_path, [{"a.weight": rows()}, bad, bad])), "ND604")
    assert (finding.first_step, finding.last_step) == (10, 20)
    assert "step 10" in finding.message


def test_running_statistics_that_are_not_finite(tmp_path: Path) -> None:
    state = dict(nn.BatchNorm1d(4).state_dict())
    state["running_var"] = torch.tensor([1.0, math.inf, 1.0, math.nan])
    finding = the(nndiag.check(save(tmp_path / "x.pt", {f"bn.{k}": v for k, v in state.items()})), "ND604")
    assert finding.evidence["held_by"] == "bn.running_var (2 of 4)"


def test_many_places_are_counted(tmp_path: Path) -> None:
    state = {f"fc{n}.weight": torch.full((2, 3), math.nan) for n in range(7)}
    finding = the(nndiag.check(save(tmp_path / "x.pt", state)), "ND604")
    assert finding.evidence["numbers"] == 42
    assert str(finding.evidence["held_by"]).endswith(" and 2 more")
    assert len(finding.layers) == 7


# --- parameters that do not learn -----------------------------------------------------------------------------


class Partly(nn.Module):
    """The second layer gets gradients of exactly zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.used(x)
        return y.sum() + 0 * self.unused(y).sum()


def optimized(path: Path, updates: int, width: int) -> Path:
    torch.manual_seed(0)
    net = Partly(width)
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(updates):
        optimizer.zero_grad()
        net(torch.ones(2, 8)).square().backward()
        optimizer.step()
    return save(path, net.state_dict(), updates, optimizer_states=[optimizer.state_dict()])


@pytest.mark.parametrize(("width", "severity"), [(2, "info"), (8, "warning")])
def test_moments_of_zero(width: int, severity: str, tmp_path: Path) -> None:
    """18 of 90 numbers are a note, 72 of 144 a warning: a quarter divides them."""
    finding = the(nndiag.check(optimized(tmp_path / "x.ckpt", 9, width)), "ND605")
    assert (finding.layers, finding.severity) == (("unused",), severity)
    assert finding.evidence["silent_share_of_network"] == {2: 0.2, 8: 0.5}[width]


def test_moments_of_a_few_updates_are_not_judged(tmp_path: Path) -> None:
    assert found(nndiag.check(optimized(tmp_path / "x.ckpt", 8, 8)), "ND605") is None


def test_a_gradient_that_arrives_later(tmp_path: Path) -> None:
    paths = [optimized(tmp_path / f"{n}.ckpt", n, 8) for n in (9, 10, 11)]
    for path in paths[1:]:
        content = torch.load(path, weights_only=True)
        for entry in content["optimizer_states"][0]["state"].values():
            entry["exp_avg_sq"] += 1.0
        torch.save(content, path)
    assert the(nndiag.check(paths), "ND605").status == "resolved"


def test_a_layer_that_never_moved(tmp_path: Path) -> None:
    states = [
        {"a.weight": rows(seed=seed), "b.weight": rows(seed=9), "b.bias": torch.ones(8)} for seed in range(3)
    ]
    finding = the(nndiag.check(series(tmp_path, states)), "ND606")
    assert (finding.layers, finding.severity, finding.status) == (("b",), "info", "active")
    assert "b (weight, bias) did not move since the checkpoint of step 0" in finding.message


def test_copies_of_one_checkpoint_accuse_nobody(tmp_path: Path) -> None:
    same = {"a.weight": rows(), "b.weight": rows(seed=1)}
    report = nndiag.check(series(tmp_path, [same, same]))
    assert found(report, "ND606") is None
    assert taken(report, "movement", "a").value == 0.0  # type: ignore[union-attr]


def test_one_parameter_that_rests_is_a_reading_not_a_finding(tmp_path: Path) -> None:
    states = [{"a.weight": rows(seed=seed), "a.bias": torch.zeros(8)} for seed in (0, 1)]
    report = nndiag.check(series(tmp_path, states))
    assert taken(report, "resting_share", "a").value == 0.5  # type: ignore[union-attr]
    assert found(report, "ND606") is None


def test_a_layer_that_moved_late(tmp_path: Path) -> None:
    states = [{"a.weight": rows(seed=n), "b.weight": rows(seed=9 if n < 2 else n)} for n in range(4)]
    assert the(nndiag.check(series(tmp_path, states)), "ND606").status == "resolved"


def test_movement_and_its_rate(tmp_path: Path) -> None:
    """Rows of norm 3 and 4 make up a norm of 5; the second one grew by 8."""
    old, new = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [0.0, 12.0]])
    report = nndiag.check(series(tmp_path, [{"fc.weight": old}, {"fc.weight": new}]))
    movement, rate = taken(report, "movement", "fc"), taken(report, "movement_rate", "fc")
    assert movement is not None
    assert rate is not None
    assert movement.value == pytest.approx(8 / 5)
    assert movement.detail == {"since": 0, "by": "norms of units"}
    assert rate.value == pytest.approx(8 / 5 / 10)


@pytest.mark.parametrize("seed", range(3))
def test_movement_is_a_lower_bound(seed: int, tmp_path: Path) -> None:
    old, new = rows(seed=seed), rows(seed=seed) + 0.1 * rows(seed=seed + 50)
    report = nndiag.check(series(tmp_path, [{"fc.weight": old}, {"fc.weight": new}]))
    truth = float((new - old).norm() / old.norm())
    assert 0.1 * truth < taken(report, "movement", "fc").value <= truth  # type: ignore[union-attr]


def test_a_layer_of_another_shape_has_no_movement(tmp_path: Path) -> None:
    states = [{"a.weight": rows(), "b.weight": rows(n)} for n in (8, 9)]
    assert taken(nndiag.check(series(tmp_path, states)), "movement", "b") is None


def growing(factors: list[float], others: float = 1.0, start: float = 0.3) -> list[dict[str, Tensor]]:
    """Three layers, of which one is multiplied by a factor after the other."""
    sizes, states = [1.0], []
    for factor in factors:
        sizes.append(sizes[-1] * factor)
    for number, size in enumerate(sizes):
        moved = {name: others**number * start * rows(seed=seed) for seed, name in enumerate("abc")}
        states.append({f"{name}.weight": size * w if name == "b" else w for name, w in moved.items()})
    return states


@pytest.mark.parametrize(
    ("factors", "others", "speaks"),
    [
        ([4.0, 3.0, 3.0], 1.0, True),
        ([1.0, 8.0, 1.6], 1.1, True),
        ([4.0, 3.0, 1.4, 1.0], 1.0, False),  # it has come to rest
        ([8.0], 1.0, False),  # one interval is no trend
        ([1.6, 1.6], 1.0, False),  # within the usual scale
        ([4.0, 3.0, 3.0], 1.5, False),  # all grow
    ],
)
def test_a_layer_that_runs_away(factors: list[float], others: float, speaks: bool, tmp_path: Path) -> None:
    report = nndiag.check(series(tmp_path, growing(factors, others)))
    finding = found(report, "ND603")
    assert (finding is not None and finding.is_active) is speaks
    if speaks:
        assert the(report, "ND603").layers == ("b",)
        assert taken(report, "growth", "b").value == pytest.approx(factors[-1] * others)  # type: ignore[union-attr]


def test_a_layer_that_began_at_zero_may_grow(tmp_path: Path) -> None:
    """The second half of an adapter: its first growth is infinite, and it ends within the usual scale."""
    sizes = (0.0, 0.05, 0.2, 0.6)
    states = [
        {f"{n}.weight": rows(seed=k) * (size if n == "b" else 1.0) for k, n in enumerate("abc")}
        for size in sizes
    ]
    assert alarms(nndiag.check(series(tmp_path, states))) == []


# --- normalizations -------------------------------------------------------------------------------------------


def batch_norm(
    tracked: int | None = 40, mean: float = 0.3, variance: float = 0.7, gain: float = 1.0, bias: float = 0.0
) -> dict[str, Tensor]:
    state = {"bn.weight": torch.full((8,), gain), "bn.bias": torch.full((8,), bias)}
    state |= {"bn.running_mean": torch.full((8,), mean), "bn.running_var": torch.full((8,), variance)}
    return state if tracked is None else state | {"bn.num_batches_tracked": torch.tensor(tracked)}


INITIAL: dict[str, Any] = {"mean": 0.0, "variance": 1.0}


@pytest.mark.parametrize(
    ("state", "step", "severity"),
    [
        (batch_norm(), 40, None),
        (batch_norm(tracked=0), 40, None),  # converted from elsewhere
        (batch_norm(tracked=None), 40, None),
        (batch_norm(tracked=0, **INITIAL), 0, None),
        (batch_norm(tracked=0, **INITIAL), None, None),
        (batch_norm(tracked=0, gain=0.0, **INITIAL), None, None),
        (batch_norm(tracked=40, **INITIAL), None, "warning"),
        (batch_norm(tracked=0, gain=1.1, **INITIAL), None, "warning"),
        (batch_norm(tracked=None, bias=0.1, **INITIAL), None, "warning"),
        (batch_norm(tracked=0, **INITIAL), 40, "info"),
    ],
)
def test_statistics_that_were_never_updated(
    state: dict[str, Tensor], step: int | None, severity: str | None, tmp_path: Path
) -> None:
    finding = found(nndiag.check(save(tmp_path / "x.pt", state, step)), "ND407")
    assert (None if finding is None else finding.severity) == severity


def test_statistics_that_stopped(tmp_path: Path) -> None:
    report = nndiag.check(series(tmp_path, [batch_norm(tracked=n) for n in (40, 60)]))
    assert (the(report, "ND407").severity, the(report, "ND407").first_step) == ("warning", 10)


def test_frozen_statistics_are_no_fault(tmp_path: Path) -> None:
    states = [batch_norm(gain=gain) for gain in (1.0, 1.1)]
    assert found(nndiag.check(series(tmp_path, states)), "ND407") is None


@pytest.mark.parametrize(
    ("state", "step", "severity"),
    [
        (batch_norm(gain=0.0), 0, None),
        (batch_norm(gain=0.0), None, None),
        (batch_norm(gain=0.0), 40, "warning"),
        (batch_norm(gain=0.0, bias=0.1), None, "warning"),
        (batch_norm(variance=1e-6), 40, "warning"),
        (batch_norm(variance=1e-3), 40, None),
    ],
)
def test_constant_outputs(
    state: dict[str, Tensor], step: int | None, severity: str | None, tmp_path: Path
) -> None:
    finding = found(nndiag.check(save(tmp_path / "x.pt", state, step)), "ND406")
    assert (None if finding is None else finding.severity) == severity


def test_some_constant_channels_are_a_note(tmp_path: Path) -> None:
    state = batch_norm()
    state["bn.running_var"][[1, 4]] = 1e-7
    finding = the(nndiag.check(save(tmp_path / "x.pt", state, 40)), "ND406")
    assert (finding.severity, finding.evidence["which"]) == ("info", "1, 4")
    assert "2 of 8 outputs of bn are constant: their running variance is next to nothing" in finding.message


def test_layer_norm_without_gains(tmp_path: Path) -> None:
    state = {"norm.weight": torch.zeros(8), "norm.bias": torch.ones(8)}
    finding = the(nndiag.check(save(tmp_path / "x.pt", state)), "ND406")
    assert "all gains are zero" in finding.message


def test_drift_of_running_statistics(tmp_path: Path) -> None:
    """A mean that went from 0 to 3 at a standard deviation of 2, which doubled."""
    states = [batch_norm(mean=0.0, variance=4.0), batch_norm(tracked=60, mean=3.0, variance=16.0)]
    shift = taken(nndiag.check(series(tmp_path, states)), "statistics_shift", "bn")
    assert shift is not None
    assert shift.value == pytest.approx(1.5, rel=1e-4)
    assert shift.detail["log_scale"] == pytest.approx(math.log(2), rel=1e-4)


def weight_normed(scale: float) -> dict[str, Tensor]:
    prefix = "fc.parametrizations.weight"
    return {f"{prefix}.original0": torch.ones(8, 1), f"{prefix}.original1": scale * rows()}


@pytest.mark.parametrize(("decay", "speaks"), [(0.0, True), (0.1, False)])
def test_effective_learning_rate(decay: float, speaks: bool, tmp_path: Path) -> None:
    """Four times the norm is a sixteenth of the learning rate; weight decay would give it back."""
    optimizer = {"param_groups": [{"lr": 0.1, "weight_decay": decay, "params": [0]}], "state": {}}
    states = [weight_normed(1.0), weight_normed(4.0)]
    report = nndiag.check(series(tmp_path, states, optimizer_states=[optimizer]))
    assert taken(report, "effective_rate", "fc").value == pytest.approx(1 / 16)  # type: ignore[union-attr]
    assert (found(report, "ND409") is not None) == speaks


def test_weights_in_front_of_a_batch_norm_have_an_effective_rate(tmp_path: Path) -> None:
    states = [
        {"conv.weight": s * rows(8, 27).reshape(8, 3, 3, 3), **batch_norm(n)} for n, s in ((1, 1.0), (9, 2.0))
    ]
    report = nndiag.check(series(tmp_path, states))
    assert taken(report, "effective_rate", "conv").value == pytest.approx(1 / 4)  # type: ignore[union-attr]


def test_a_file_that_keeps_no_order_says_nothing_about_what_follows(tmp_path: Path) -> None:
    paths = [tmp_path / "step=1.safetensors", tmp_path / "step=2.safetensors"]
    for path in paths:
        save_file({"a.weight": rows(), **batch_norm()}, path)
    assert taken(nndiag.check(paths), "effective_rate", "a") is None


# --- initial weights ------------------------------------------------------------------------------------------


def test_gain_of_initial_weights(tmp_path: Path) -> None:
    report = nndiag.check(save(tmp_path / "x.ckpt", {"fc.weight": torch.full((8, 6), 0.5)}, 0))
    gain = taken(report, "weight_gain", "fc")
    assert gain is not None
    assert gain.value == pytest.approx(6 * 0.25)


@pytest.mark.parametrize(
    ("scale", "step", "speaks"), [(1.0, 0, False), (10.0, 0, True), (10.0, 5, False), (10.0, None, False)]
)
def test_scale_of_initial_weights(scale: float, step: int | None, speaks: bool, tmp_path: Path) -> None:
    """Of variance 1 / fan_in is critical; only where the step is known to be 0 is it judged."""
    finding = found(
        nndiag.check(save(tmp_path / "x.ckpt", {"fc.weight": scale * rows(64, 32) / 32**0.5}, step)), "ND313"
    )
    assert (finding is not None) == speaks
    if finding is not None:
        assert finding.severity == "info"
        assert "None" not in finding.message


# --- what a report says of itself -----------------------------------------------------------------------------


def test_facts_of_the_run(tmp_path: Path) -> None:
    paths = series(tmp_path, [{"a.weight": rows(seed=seed)} for seed in (0, 1)])
    run = nndiag.check(paths).run
    assert run["files"] == f"{paths[0]}, {paths[1]}"
    assert (run["steps"], run["last_step"], run["visits"]) == ("0, 10", 10, 2)
    assert (run["format"], run["step_from"]) == ("torch zip", "the checkpoint")


def test_unknown_steps_are_said_to_be_unknown(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{name}.pt", {"a.weight": rows(seed=n)}) for n, name in enumerate("ba")]
    report = nndiag.check(paths)
    assert (report.run["steps"], report.run["step_from"]) == ("0, 1", "the order given")
    assert "last_step" not in report.run
    assert any("numbered in the order they were given" in note for note in report.coverage.notes)
    assert taken(report, "movement", "a") is not None
    assert taken(report, "movement_rate", "a") is None


def test_a_numbered_checkpoint_is_not_taken_for_an_untrained_one(tmp_path: Path) -> None:
    """The first of a series without steps is number 0; that is no step of the run."""
    state = {"fc.weight": 10 * rows(64, 32)}
    paths = [save(tmp_path / "a.pt", state, 70), save(tmp_path / "b.pt", state)]
    assert taken(nndiag.check(paths), "weight_gain", "fc") is None


def test_coverage_says_what_a_file_does_not_hold(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({"fc": nn.Linear(8, 8), "mha": nn.MultiheadAttention(8, 2)})
    coverage = nndiag.check(save(tmp_path / "x.pt", net.state_dict())).coverage
    for measure, layer, what in (
        ("gradient_flow", "fc", "gradients"),
        ("initialization", "fc", "gradients"),
        ("activation_shift", "fc", "activations"),
        ("saturation", "mha", "activations"),
    ):
        entry = coverage.of(layer, measure)
        assert entry is not None
        assert (entry.status, entry.reason) == ("not observed", f"a checkpoint holds no {what}")
    assert any("inferred from names and shapes" in note for note in coverage.notes)


def test_a_report_can_be_written_and_read(tmp_path: Path) -> None:
    report = nndiag.check(series(tmp_path, [batch_norm(), batch_norm(tracked=60)]))
    assert Report.from_json(report.to_json()) == report
    assert "bn" in report.to_html()
    assert str(report).startswith("nndiag: ")


# --- options --------------------------------------------------------------------------------------------------


def test_rules_can_be_chosen(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"a.weight": torch.ones(8, 6), **batch_norm(**INITIAL)})
    rules = {finding.rule for finding in nndiag.check(path).findings}
    assert rules == {"ND304", "ND407"}
    assert {f.rule for f in nndiag.check(path, select=["ND4"]).findings} == {"ND407"}
    assert {f.rule for f in nndiag.check(path, ignore=["ND4"]).findings} == {"ND304"}
    assert {f.rule for f in nndiag.check(path, layers=["!bn"]).findings} == {"ND304"}
    assert nndiag.check(path, thresholds={"ND304": 0.9}, select=["ND304"]).findings[0].severity == "info"


@pytest.mark.parametrize(
    "options", [{"select": ["ND999"]}, {"layers": ["none"]}, {"measures": ["none"]}, {"thresholds": {"x": 1}}]
)
def test_wrong_options_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        nndiag.check(save(tmp_path / "x.pt", {"a.weight": rows()}), **options)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"P")
    for path in (tmp_path / "x.pt", tmp_path / "missing.pt"):
        with pytest.raises(CheckpointError) as caught:
            nndiag.check(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNDIAG", "0")
    assert nndiag.check(tmp_path / "missing.pt") == Report.empty()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_event_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    states = [{"a.weight": rows()}, {"a.weight": torch.ones(8, 6)}]
    nndiag.check(series(tmp_path, states), log_dir=tmp_path / "events")
    events = EventAccumulator(str(tmp_path / "events" / "nndiag"))
    events.Reload()
    tag = "nndiag_summary/findings_warning"
    seen = events.Scalars(tag)
    assert [event.step for event in seen] == [0, 10]
    assert [event.value for event in seen] == [0.0, 1.0]


# --- two checkpoints ------------------------------------------------------------------------------------------


def compared(folder: Path, first: dict[str, Tensor], second: dict[str, Tensor]) -> Comparison:
    return compare(save(folder / "a.ckpt", first, 0), save(folder / "b.ckpt", second, 10))


def statuses(result: Comparison) -> dict[str, str]:
    return {change.layer: change.status for change in result.layers}


def reordered(net: nn.Sequential) -> dict[str, Tensor]:
    """The same function: the units of layers 0, 3 and 5 in another order."""
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    generator = torch.Generator().manual_seed(5)
    for layer, reader in (("0", "3"), ("3", "5"), ("5", "7")):
        order = torch.randperm(24, generator=generator)
        for name in (n for n in state if n.partition(".")[0] in (layer, "1" if layer == "0" else "")):
            state[name] = state[name][order] if state[name].dim() else state[name]
        state[f"{reader}.weight"] = state[f"{reader}.weight"][:, order]
    return state


def test_a_checkpoint_is_like_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", network().state_dict(), 0)
    result = compare(path, path)
    assert set(statuses(result).values()) == {"same"}
    assert (result.appeared, result.resolved) == ((), ())
    assert "findings: the same" in str(result)


def test_units_in_another_order_are_no_difference(tmp_path: Path) -> None:
    net = network().eval()
    other = network().eval()
    other.load_state_dict(reordered(net))
    x = rows(16, 12)
    torch.testing.assert_close(net(x), other(x))
    found_of = statuses(compared(tmp_path, net.state_dict(), other.state_dict()))
    assert {name: found_of[name] for name in ("0", "3", "5")} == dict.fromkeys(("0", "3", "5"), "reordered")
    assert {found_of[name] for name in ("1", "7")} == {"same"}


@pytest.mark.parametrize("seed", range(3))
def test_change_is_at_most_that_of_the_best_order(seed: int, tmp_path: Path) -> None:
    old, new = rows(5, seed=seed), rows(5, seed=seed).flip(0) + 0.1 * rows(5, seed=seed + 50)
    (change,) = compared(tmp_path, {"fc.weight": old}, {"fc.weight": new}).layers
    best = min(float((new[list(order)] - old).norm()) for order in itertools.permutations(range(5)))
    assert change.status == "changed"
    assert change.change is not None
    assert 0.05 * best < change.change * float(old.norm()) <= best


@pytest.mark.parametrize("count", [5, 1024, 1025])
def test_partners_have_the_smallest_sum_of_squares(count: int) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, count))
    chosen = comparing.partners(a, b)
    costs = (a[:, None] - b[None, :]) ** 2
    assert sorted(chosen) == list(range(count))
    assert ((b[chosen] - a) ** 2).sum() == pytest.approx(costs[linear_sum_assignment(costs)].sum())


def test_layers_that_came_went_and_grew(tmp_path: Path) -> None:
    first = {"a.weight": rows(), "b.weight": rows(), "c.weight": rows()}
    second = {"a.weight": rows(), "c.weight": rows(9), "d.weight": rows()}
    result = compared(tmp_path, first, second)
    assert statuses(result) == {"a": "same", "b": "removed", "c": "reshaped", "d": "added"}
    reshaped = next(change for change in result.layers if change.layer == "c")
    assert reshaped.detail == "Linear of 8 units -> Linear of 9 units, weight 48 -> 54 numbers"
    assert "reshaped: c (Linear of 8 units" in str(result)


def test_layers_without_units_are_compared_by_norms_and_it_says_so(tmp_path: Path) -> None:
    result = compared(tmp_path, {"mix.alpha": torch.ones(4)}, {"mix.alpha": torch.full((4,), 1.5)})
    (change,) = result.layers
    assert (change.status, change.compared) == ("changed", "norms of parameters")
    assert change.change == pytest.approx(0.5)
    assert any("norms of their parameters only" in note for note in result.notes)


def test_gains_are_units_of_a_normalization(tmp_path: Path) -> None:
    gain = torch.linspace(0.5, 1.5, 8)
    (change,) = compared(tmp_path, {"norm.weight": gain}, {"norm.weight": gain.flip(0)}).layers
    assert (change.status, change.compared) == ("reordered", "norms of units")


def test_findings_that_appeared_and_were_resolved(tmp_path: Path) -> None:
    equal = torch.ones(8, 6)
    first = {"a.weight": equal, "b.weight": rows(), "c.weight": equal}
    second = {"a.weight": rows(), "b.weight": equal, "c.weight": equal, **batch_norm(**INITIAL)}
    result = compared(tmp_path, first, second)
    assert [(f.rule, f.layers) for f in result.appeared] == [("ND304", ("b",)), ("ND407", ("bn",))]
    assert [(f.rule, f.layers) for f in result.resolved] == [("ND304", ("a",)), ("ND313", ("a",))]
    assert "resolved: warning effective-width ND304 at a" in str(result)


def test_a_comparison_as_json(tmp_path: Path) -> None:
    result = compared(tmp_path, {"a.weight": rows()}, {"a.weight": rows(seed=1)})
    record = json.loads(result.to_json(tmp_path / "out.json"))
    assert record == json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert record["schema_version"] == 1
    assert record["layers"][0]["change"] == result.layers[0].change
    assert record["facts"]["second_step"] == 10


def test_names_in_files_do_not_act_on_the_terminal(tmp_path: Path) -> None:
    name = "\x1b[31mfc\n\u202e"
    result = compared(tmp_path, {f"{name}.weight": rows()}, {f"{name}2.weight": torch.ones(8, 6)})
    assert all(is_inert(line) for line in str(result).splitlines())
    assert len(str(result).splitlines()) == 5  # the two, one removed, one added, a finding, a note


# --- two recorded runs ----------------------------------------------------------------------------------------


def recorded(folder: Path) -> Path:
    """A run of one layer with nothing wrong."""
    sink = RecordSink(folder)
    sink.write(update(0, readings=(reading_of(value=0.1),)))
    sink.close(Report.empty())
    return folder


def test_recorded_runs(tmp_path: Path) -> None:
    first, second = recorded(tmp_path / "a"), tmp_path / "b"
    live = watched(second).report
    result = compare(first, second)
    assert {f.rule for f in result.appeared} == {f.rule for top in live.findings for f in top.walk()}
    assert [(f.rule, f.layers) for f in result.appeared if f.rule == "ND301"] == [("ND301", ("2",))]
    assert compare(second, first).resolved == result.appeared
    assert any("a record holds no parameters" in note for note in result.notes)
    assert compare(first / "nndiag.jsonl", second / "nndiag.jsonl").appeared == result.appeared


def test_layers_of_recorded_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, names in ((first, ("fc1", "fc2")), (second, ("fc2", "fc3"))):
        infos = {name: LayerInfo(name, "Linear", "weight", place) for place, name in enumerate(names)}
        sink = RecordSink(folder)
        sink.write(update(0, layers=infos))
        sink.close(Report.empty())
    assert statuses(compare(first, second)) == {"fc1": "removed", "fc2": "not compared", "fc3": "added"}


def test_a_run_and_a_checkpoint_are_not_compared(tmp_path: Path) -> None:
    run, path = recorded(tmp_path / "a"), save(tmp_path / "x.pt", {"a.weight": rows()})
    with pytest.raises(ConfigurationError, match="one is a checkpoint, the other a recorded run"):
        compare(run, path)


# --- a model and data -----------------------------------------------------------------------------------------


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Of 64 samples each, from the population that ``train`` draws from."""
    x = torch.randn(64 * count, 12, generator=torch.Generator().manual_seed(3))
    return [(part, part[:, :3].argmax(1)) for part in x.split(64)]


def plain(activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), activation(), nn.Linear(24, 24), activation(), nn.Linear(24, 3))


def test_a_healthy_series_in_its_model(tmp_path: Path) -> None:
    report = nndiag.check(train(network(), tmp_path), network(), batches())
    assert alarms(report) == []
    assert taken_of(report, "interval_shift", "3").value > 0
    assert taken_of(report, "running_distance", "1").value < 0.02
    assert report.coverage.of("4", "saturation").status == "measured"  # type: ignore[union-attr]


def taken_of(report: Report, name: str, layer: str | None) -> Reading:
    reading_there = taken(report, name, layer)
    assert reading_there is not None
    return reading_there


def test_saturated_units(tmp_path: Path) -> None:
    net = plain(nn.Tanh)
    with torch.no_grad():
        net[2].weight.mul_(60)
    finding = the(nndiag.check(save(tmp_path / "x.pt", net.state_dict()), plain(nn.Tanh), batches()), "ND201")
    assert finding.layers == ("2",)


def test_dead_units(tmp_path: Path) -> None:
    net = plain(nn.ReLU)
    with torch.no_grad():
        net[0].bias.fill_(-50)
    finding = the(nndiag.check(save(tmp_path / "x.pt", net.state_dict()), plain(nn.ReLU), batches()), "ND202")
    assert (finding.layers, finding.severity) == (("0",), "critical")


@pytest.mark.parametrize(("momentum", "is_stale"), [(0.001, True), (0.1, False)])
def test_stale_running_statistics(momentum: float, is_stale: bool, tmp_path: Path) -> None:
    path = train(network(momentum), tmp_path, steps=120)[-1]
    report = nndiag.check(path, network(momentum), batches())
    assert ("ND401" in {rule for rule, _ in alarms(report)}) == is_stale


def test_few_batches_say_nothing_about_running_statistics(tmp_path: Path) -> None:
    """Momentum 0.1 forgets where it began in 44 batches."""
    path = train(network(), tmp_path, steps=20)[-1]
    assert taken(nndiag.check(path, network(), batches()), "running_distance", "1") is None


def test_capacity_of_dropout(tmp_path: Path) -> None:
    """Of 24 units 18 are kept on average at p = 0.25."""
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.25), nn.Linear(24, 3))
    report = nndiag.check(save(tmp_path / "x.pt", net.state_dict()), net, batches())
    assert taken_of(report, "kept_units", "2").value == pytest.approx(18)
    assert found(report, "ND504") is None


def test_the_same_weights_do_not_shift(tmp_path: Path) -> None:
    net = plain(nn.ReLU)
    report = nndiag.check(series(tmp_path, [net.state_dict()] * 2), net, batches())
    assert taken_of(report, "interval_shift", "0").value == 0.0


def test_the_model_is_as_it_was(tmp_path: Path) -> None:
    net, path = network(), save(tmp_path / "x.pt", widened(network()).state_dict())
    net[1].training = False
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    nndiag.check(path, net, batches())
    with pytest.raises(CheckpointError, match="the model fails on the data"):
        nndiag.check(path, net, [torch.ones(2, 5)])
    assert flags == [module.training for module in net.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


class Named(nn.Module):
    """Called with a keyword, or with one argument."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.calls = nn.Linear(12, 24), nn.Tanh(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        assert isinstance(x, Tensor)
        return self.act(self.fc(x))


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (x, 1), lambda x: [x, "label"], lambda x: {"x": x}],
    ids=["tensor", "tuple", "list", "mapping"],
)
def test_what_data_yields(wrap: Callable[[Tensor], Any], tmp_path: Path) -> None:
    net = Named()
    nndiag.check(save(tmp_path / "x.pt", net.state_dict()), net, (wrap(x) for x, _ in batches()))
    assert net.calls == 4


def test_a_forward_of_ones_own(tmp_path: Path) -> None:
    net, data = Named(), [{"a": 2 * x, "b": 1} for x, _ in batches()]
    report = nndiag.check(
        save(tmp_path / "x.pt", net.state_dict()), net, data, forward=lambda model, batch: model(batch["a"])
    )
    assert net.calls == 4
    assert report.coverage.of("act", "saturation").status == "measured"  # type: ignore[union-attr]


def test_an_endless_stream_is_left_in_time() -> None:
    found_batches, samples = probing.taken(itertools.repeat(torch.ones(100, 2)))
    assert (len(found_batches), samples) == (11, 1100)
    assert samples - 100 < probing.MOST_SAMPLES <= samples


@pytest.mark.parametrize("data", [[], [1, 2], [torch.tensor(1.0)]])
def test_data_that_cannot_be_used(data: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`data` must be"):
        nndiag.check(save(tmp_path / "x.pt", Named().state_dict()), Named(), data)


def test_data_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="`model` is missing"):
        nndiag.check(save(tmp_path / "x.pt", Named().state_dict()), data=batches())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("fc.bias"), "fc.bias is not in the file"),
        (lambda s: s.update({"fc.extra": torch.ones(2)}), "fc.extra is not in the model"),
        (
            lambda s: s.update({"fc.weight": torch.ones(24, 5)}),
            r"fc.weight is \[24, 5\] in the file, \[24, 12\]",
        ),
    ],
)
@pytest.mark.parametrize("data", [None, [torch.ones(2, 12)]])
def test_a_checkpoint_of_another_model(
    change: Callable[[dict[str, Tensor]], Any], words: str, data: Any, tmp_path: Path
) -> None:
    state = dict(Named().state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=words) as caught:
        nndiag.check(save(tmp_path / "x.pt", state), Named(), data)
    assert str(caught.value).startswith(f"{tmp_path / 'x.pt'} does not fit the model: ")


# --- running statistics taken anew ----------------------------------------------------------------------------


def averaged(path: Path) -> tuple[Tensor, Tensor]:
    """Means and unbiased variances of the input of layer 1, each averaged over batches."""
    state = torch.load(path, weights_only=True)["state_dict"]
    inputs = [x @ state["0.weight"].T + state["0.bias"] for x, _ in batches()]
    return torch.stack([x.mean(0) for x in inputs]).mean(0), torch.stack([x.var(0) for x in inputs]).mean(0)


def test_a_repaired_copy(tmp_path: Path) -> None:
    path, out = train(network(momentum=0.0), tmp_path, steps=120)[-1], tmp_path / "repaired.ckpt"
    before = path.read_bytes()
    net = network(momentum=0.0)
    assert repair(Subject(net, batches()), path, out) == 2
    assert path.read_bytes() == before
    old, new = (torch.load(each, weights_only=True) for each in (path, out))
    mean, variance = averaged(path)
    torch.testing.assert_close(new["state_dict"]["1.running_mean"], mean)
    torch.testing.assert_close(new["state_dict"]["1.running_var"], variance)
    same = [name for name in old["state_dict"] if not name.startswith("1.running")]
    assert all(torch.equal(old["state_dict"][name], new["state_dict"][name]) for name in same)
    assert old.keys() == new.keys()
    assert new["global_step"] == 120
    assert net[1].momentum == 0.0
    assert "ND401" in {rule for rule, _ in alarms(nndiag.check(path, network(momentum=0.0), batches()))}
    assert alarms(nndiag.check(out, network(momentum=0.0), batches())) == []


def test_a_repaired_copy_of_safetensors(tmp_path: Path) -> None:
    torch_path = train(network(), tmp_path)[-1]
    state = torch.load(torch_path, weights_only=True)["state_dict"]
    path, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt"})
    repair(Subject(network(), batches()), path, out)
    torch.testing.assert_close(load_file(out)["1.running_mean"], averaged(torch_path)[0])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", network().state_dict())
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="exists already"):
        repair(Subject(network(), batches()), path, path)
    assert path.read_bytes() == before


def test_nothing_to_repair(tmp_path: Path) -> None:
    net, out = plain(nn.ReLU), tmp_path / "out.ckpt"
    with pytest.raises(CheckpointError, match="has no batch normalization"):
        repair(Subject(net, batches()), save(tmp_path / "x.ckpt", net.state_dict()), out)
    assert not out.exists()


def test_what_cannot_be_copied_safely_is_not_repaired(tmp_path: Path) -> None:
    path, out = save(tmp_path / "x.ckpt", network().state_dict(), settings=Path("a")), tmp_path / "out.ckpt"
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        repair(Subject(network(), batches()), path, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is a folder without a checkpoint in it$"),
        ("nndiag.jsonl", "which nndiag report reads$"),
        ("checkpoints/last.ckpt", "those of the run are in its folder checkpoints$"),
    ],
)
def test_a_folder_of_a_run_says_where_to_look(content: str, words: str, tmp_path: Path) -> None:
    if content:
        (tmp_path / content).parent.mkdir(exist_ok=True)
        (tmp_path / content).write_text("{}")
    with pytest.raises(CheckpointError, match=words):
        nndiag.check(tmp_path)
