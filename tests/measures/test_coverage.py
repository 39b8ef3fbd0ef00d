"""Coverage: ND901, ND902, ND903, and models of which little or nothing can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.diagnosis import Diagnosis, as_it_stands, diagnose
from nndiag.findings import Coverage
from nndiag.guard import Guard
from nndiag.layers import LayerInfo
from nndiag.measures import MEASURES
from nndiag.options import MonitorOptions
from nndiag.report import Report
from nndiag.session import Session
from nndiag.snapshot import Gap, Snapshot

from .networks import Projected, Tokens, stack
from .runs import Run, batches, watch

FC = LayerInfo("fc", "Linear", "weight", 0, units=4)


def visits(count: int = 3, **changes: Any) -> list[Snapshot]:
    layers = {"fc": FC, "act": LayerInfo("act", "ReLU", "activation", 1, edges=(0.0, None))}
    return [Snapshot(step, "live", layers, {}, **changes) for step in range(count)]


def test_layers_not_observed_are_named_with_the_reason() -> None:
    gaps = {Gap("fc", "output", "probe"): "compiled", Gap("act", "input", "stream"): "nested tensor"}
    (finding,) = [f for f in diagnose(visits(gaps=gaps)).findings if f.rule == "ND901"]
    assert (finding.severity, finding.value) == ("info", 2.0)
    assert (finding.evidence["layers"], finding.evidence["reasons"]) == ("fc, act", "compiled; nested tensor")
    assert "activations of 2 layers" in finding.message


def test_a_gap_of_one_visit_is_no_finding() -> None:
    seen, blind = visits(2), visits(3, gaps={Gap("fc", "output", "probe"): "compiled"})[2:]
    assert [f for f in diagnose([*seen, *blind]).findings if f.rule == "ND901"] == []


def test_faults_speak_at_once() -> None:
    facts = {"fault the probe": "ValueError: no", "loss": 1.0}
    (finding,) = [f for f in diagnose(visits(1, facts=facts)).findings if f.rule == "ND902"]
    assert (finding.severity, finding.value) == ("info", 1.0)
    assert dict(finding.evidence) == {"the probe": "ValueError: no"}
    assert "the probe: ValueError: no" in finding.message
    assert "strict=True" in finding.recommendation


def test_a_refused_probe_says_why() -> None:
    facts = {"probe_refused": "two replays differ (not-repeatable)"}
    (finding,) = [f for f in diagnose(visits(1, facts=facts)).findings if f.rule == "ND903"]
    assert finding.severity == "info"
    assert "two replays differ (not-repeatable)" in finding.message


def test_a_clean_run_has_none_of_them() -> None:
    torch.manual_seed(0)
    assert not [rule for rule in watch(stack(nn.ReLU), batches(4)).findings() if rule.startswith("ND9")]


def test_the_inside_of_an_attention_module_is_seen_with_it() -> None:
    torch.manual_seed(0)
    run = watch(Tokens(Projected()), batches(4))
    assert "ND901" not in run.findings()
    entry = run.report.coverage.of("attention.mha", "saturation")
    assert entry is not None
    assert entry.status == "measured"


def test_a_layer_that_is_never_called() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare, self.act = nn.Linear(64, 10), nn.Linear(64, 10), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    torch.manual_seed(0)
    run = watch(Idle(), batches(4))
    finding = run.findings()["ND901"]
    assert finding.evidence["layers"] == "spare, act"
    assert finding.evidence["reasons"] == "not called in the observed steps"
    assert run.report.status == "ok"


class Hidden(nn.Module):
    """No module is called and no known function either."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.1 * torch.randn(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def test_a_model_in_which_nothing_can_be_observed() -> None:
    torch.manual_seed(0)
    run = watch(Hidden(), batches(4))
    assert run.alarms() == []
    assert run.report.status == "ok"


class Odd(nn.Module):
    """Layers with an odd thing between them."""

    def __init__(self, between: Callable[[Tensor], Any], after: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.first, self.act, self.odd, self.head = (
            nn.Linear(64, 16),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(16, 10),
        )
        self.between, self.after = between, after

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.odd(self.between(self.act(self.first(x))))))


class Bare(nn.Module):
    """An activation of one's own that returns what it likes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(64, 16), nn.Hardtanh(), nn.Linear(16, 10)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x)))


ODD: dict[str, Callable[[], nn.Module]] = {
    "dictionaries": lambda: Odd(lambda x: {"a": [x, (x, None)]}, lambda d: d["a"][1][0]),
    "integers beside": lambda: Odd(lambda x: (x.argmax(-1), x), lambda pair: pair[1]),
    "complex": lambda: Odd(lambda x: torch.complex(x, x), lambda z: z.real),
    "sparse": lambda: Odd(lambda x: x.to_sparse(), lambda s: s.to_dense()),
    "half": lambda: Odd(lambda x: x.half(), lambda h: h.to(torch.get_default_dtype())),
    "infinite": lambda: Odd(lambda x: torch.where(x > 1, torch.inf, x), lambda x: x.clamp(max=1)),
    "complex activation": lambda: Bare(lambda x: torch.tanh(torch.complex(x, x)).real),
    "infinite activation": lambda: Bare(lambda x: torch.tanh(torch.where(x > 1, torch.inf, x))),
    "scalar": lambda: Bare(lambda x: x * torch.tanh(x.mean())),
    "permuted": lambda: Bare(lambda x: F.relu(x.t()).t()),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values_are_taken_as_they_come(name: str) -> None:
    """``strict`` makes every fault of nndiag's an error."""
    torch.manual_seed(0)
    run = watch(ODD[name](), batches(4))
    assert run.alarms() == []
    assert {"first", "head"} <= {entry.layer for entry in run.report.coverage}


def poisoned(value: float, step: int = 1) -> Run:
    """One entry of one batch is not finite."""
    torch.manual_seed(0)
    data = [(x.clone(), y) for x, y in batches(5)]
    data[step][0][3, 5] = value
    return watch(stack(nn.Tanh), data, lambda m, b: F.cross_entropy(m(b[0]).nan_to_num(), b[1]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite(value: float) -> None:
    run = poisoned(value)
    assert not {"ND201", "ND202", "ND301", "ND302"} & set(run.findings())
    assert run.report.coverage.of("0", "initialization") is not None


def summed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that an empty batch has, too."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum") / 64


def test_a_batch_without_samples() -> None:
    torch.manual_seed(0)
    data = batches(4)
    data[1] = (data[1][0][:0], data[1][1][:0])
    assert watch(stack(nn.ReLU), data, summed).alarms() == []


def test_only_batches_without_samples() -> None:
    torch.manual_seed(0)
    x = torch.zeros(0, 64)
    run = watch(stack(nn.ReLU), [(x, torch.zeros(0, dtype=torch.long))] * 3, lambda m, b: m(b[0]).sum())
    entry = run.report.coverage.of("1", "saturation")
    assert entry is not None
    assert (entry.status, bool(entry.reason)) == ("not observed", True)
    assert run.alarms() == []


def test_integer_inputs_of_an_embedding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Flatten(), nn.Linear(64, 10))
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randint(50, (32, 4), generator=generator), torch.randint(10, (32,), generator=generator))
        for _ in range(4)
    ]
    assert watch(model, data).alarms() == []


@pytest.mark.parametrize(
    "model", [lambda: Hidden(), lambda: stack(nn.ReLU)], ids=["nothing seen", "all seen"]
)
def test_every_gap_has_a_reason(model: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    coverage: Coverage = watch(model(), batches(2)).report.coverage
    assert all(entry.reason for entry in coverage if entry.status != "measured")
    assert all(entry.measure in MEASURES for entry in coverage)


def test_a_run_without_a_single_step() -> None:
    options = MonitorOptions.checked(every_n_train_steps=1, console=False, strict=True)
    report = Session(stack(nn.ReLU), options).close()
    assert (report.status, report.findings, report.readings) == ("ok", (), ())


def test_a_diagnosis_that_saw_nothing_says_what_failed_and_is_not_ok() -> None:
    diagnosis = Diagnosis()
    diagnosis.tell_faults({"the diagnosis": "KeyError: 'x'"})
    diagnosis.tell_faults({"the diagnosis": "KeyError: 'x'"})
    (finding,) = diagnosis.report().findings
    assert (finding.rule, diagnosis.report().status) == ("ND902", "warning")
    assert "Nothing was observed" in finding.message
    assert "KeyError: 'x'" in finding.message


def test_a_fault_after_the_last_visit_is_a_note() -> None:
    diagnosis = Diagnosis()
    diagnosis.add(Snapshot(step=3, source="live", layers={}, statistics={}))
    diagnosis.tell_faults({"the memory": "OSError: full"})
    report = diagnosis.report()
    assert [finding.rule for finding in report.findings] == ["ND902"]
    assert report.status == "ok"


def test_without_a_session_the_report_says_what_failed() -> None:
    guard = Guard()
    assert as_it_stands(guard, None, Report.empty()) == Report.empty()
    guard.report("the monitor", RuntimeError("no"))
    assert [f.rule for f in as_it_stands(guard, None, Report.empty()).findings] == ["ND902"]
    known = Report(run={"visits": 3})
    assert as_it_stands(guard, None, known) is known
    assert as_it_stands(guard, lambda: known, Report.empty()) is known
