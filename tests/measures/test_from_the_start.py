"""Faults that are there before the first update, each beside a twin without it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nndiag
from nndiag.report import Report
from nndiag.rules import Case

from .runs import Batch, Run, batches, classify, watch

CLASSES = 10


def monitored(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    jump: int | None = None,
    decay: float = 1.0,
) -> Report:
    """A plain loop whose learning rate is known; it decays at each step, and from step ``jump`` on it is 1e12."""
    options = {"every_n_train_steps": 5, "max_overhead": None, "console": False, "strict": True}
    with nndiag.Monitor(model, optimizer=optimizer, **options) as monitor:
        for step, batch in enumerate(batches(steps)):
            optimizer.param_groups[0]["lr"] *= decay if step else 1.0
            if jump is not None and step >= jump:
                optimizer.param_groups[0]["lr"] = 1e12
            optimizer.zero_grad()
            loss = regress(model, batch) if jump else classify(model, batch)
            loss.backward()
            optimizer.step()
            monitor.step(loss)
    return monitor.report


class Sequences(nn.Module):
    """The features of a sample as 8 steps of 8, read by a recurrent layer."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.rnn, self.head = cell, nn.Linear(cell.hidden_size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.unflatten(1, (8, 8)))[0][:, -1])


def lstm(bias: float) -> Run:
    torch.manual_seed(0)
    model = Sequences(nn.LSTM(8, 16, batch_first=True))
    nn.init.constant_(model.rnn.bias_ih_l0, bias)
    return watch(model, batches(12))


def test_gates_that_are_open_for_good() -> None:
    finding = lstm(10.0).findings()["ND201"]
    assert finding.layers == ("rnn",)
    assert finding.evidence["saturated"] == 1.0
    assert "biases" in finding.recommendation
    assert "ND201" not in lstm(0.0).findings()


class Scored(nn.Module):
    """Attention of one query over 8 places, written out."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.key, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.query = nn.Parameter(torch.randn(8))
        self.key.weight.data *= scale

    def forward(self, x: Tensor) -> Tensor:
        rows = x.unflatten(1, (8, 8))
        shares = torch.softmax(self.key(rows) @ self.query, dim=1)
        return self.head((shares.unsqueeze(-1) * rows).sum(1))


class Searching(nn.Module):
    """A module around it, so that it has a name."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.attention = Scored(scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


def test_scores_that_begin_too_large() -> None:
    torch.manual_seed(0)
    finding = watch(Searching(50.0), batches(6)).findings()["ND203"]
    assert finding.severity == "warning"
    assert finding.layers == ("attention", "attention.key")
    assert "square root" in finding.recommendation
    assert "ND203" not in watch(Searching(1.0), batches(6)).findings()


class Bounded(nn.Module):
    """Actions between -1 and 1."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.body, self.mu = nn.Linear(64, 32), nn.Linear(32, CLASSES)
        nn.init.uniform_(self.mu.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mu(torch.tanh(self.body(x))))


def regress(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), F.one_hot(batch[1], CLASSES).float())


def test_outputs_at_their_bounds() -> None:
    torch.manual_seed(0)
    finding = watch(Bounded(30.0), batches(6), regress).findings()["ND201"]
    assert finding.layers == ("mu",)
    assert "ND201" not in watch(Bounded(3e-3), batches(6), regress).findings()


def test_outputs_that_learned_to_be_sure_are_not_judged() -> None:
    torch.manual_seed(0)
    model = Bounded(0.01)
    run = watch(
        model, batches(6), lambda net, batch: -net(batch[0]).sum(), torch.optim.SGD(model.parameters(), 1.0)
    )
    assert run.reading("saturated", ":tanh#1").value > 0.9
    assert "ND201" not in run.findings()


class Branches(nn.Module):
    """Two kinds of features under one LayerNorm."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.pixels, self.counts = nn.Linear(32, 32), nn.Linear(32, 16)
        self.join, self.head, self.factor = nn.LayerNorm(48), nn.Linear(48, CLASSES), factor

    def forward(self, x: Tensor) -> Tensor:
        pixels, counts = x.chunk(2, 1)
        return self.head(self.join(torch.cat((self.pixels(pixels), self.factor * self.counts(counts)), 1)))


def test_branches_of_unlike_scale() -> None:
    torch.manual_seed(0)
    finding = watch(Branches(100.0), batches(30)).findings()["ND408"]
    assert (finding.layers, finding.severity) == (("join",), "warning")
    assert "ND408" not in watch(Branches(1.0), batches(30)).findings()


def frozen_statistics(offset: float) -> Run:
    """Statistics of data that lie ``offset`` standard deviations away, in evaluation mode."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        z = model[0](batches(1, 512)[0][0])
        model[1].running_mean.copy_(z.mean(0) + offset * z.std(0))
        model[1].running_var.copy_(z.var(0))
        model[1].num_batches_tracked.fill_(100)
    model[1].eval()
    return watch(model, batches(24), optimizer=torch.optim.SGD(model.parameters(), 1e-3))


def test_frozen_statistics_of_other_data() -> None:
    run = frozen_statistics(4.0)
    finding = run.findings()["ND407"]
    assert (finding.layers, finding.severity, finding.evidence["fault"]) == (("1",), "warning", "other data")
    # Two normals of one variance, four standard deviations apart: 1 - exp(-4^2 / 8).
    assert run.reading("running_distance", "1").value == pytest.approx(1 - math.exp(-2), abs=0.05)
    assert "ND401" not in run.findings()
    assert "ND407" not in frozen_statistics(0.5).findings()


class Adapted(nn.Module):
    """A body that learned elsewhere, a new neck, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.neck, self.head = nn.Linear(64, 64), nn.Linear(64, 16), nn.Linear(16, CLASSES)
        with torch.no_grad():
            self.body.weight.add_(0.2 * torch.randn(64, 64) ** 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.neck(F.relu(self.body(x)))))


def adapt(model: Adapted, *frozen: str) -> Run:
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    return watch(
        model, batches(6), optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    )


def test_a_new_layer_that_is_frozen_with_the_others() -> None:
    torch.manual_seed(0)
    finding = adapt(Adapted(), "body", "neck").findings()["ND606"]
    assert (finding.layers, finding.severity) == (("neck",), "warning")
    assert "requires_grad_(True)" in finding.recommendation
    assert "ND606" not in adapt(Adapted(), "body").findings()


def test_frozen_layers_that_had_learned_or_were_all_drawn_are_meant() -> None:
    torch.manual_seed(0)
    learned = Adapted()
    with torch.no_grad():
        learned.neck.weight.add_(0.1 * torch.randn(16, 64))
    assert "ND606" not in adapt(learned, "body", "neck").findings()
    drawn = Adapted()
    drawn.body.reset_parameters()
    assert "ND606" not in adapt(drawn, "body", "neck").findings()


def test_a_recurrent_layer_whose_rate_is_zero() -> None:
    torch.manual_seed(0)
    model = Sequences(nn.GRU(8, 24, batch_first=True))
    groups = [{"params": model.rnn.parameters(), "lr": 0.0}, {"params": model.head.parameters()}]
    report = monitored(model, torch.optim.SGD(groups, 0.1), 40)
    finding = next(found for found in report.findings if found.rule == "ND606")
    assert (finding.layers, finding.severity) == (("rnn",), "warning")
    assert str(finding.evidence["initial_law"]).startswith("torch default")


def test_momentum_of_another_library() -> None:
    def run(momentum: float) -> Run:
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(16, momentum=momentum)
        return watch(nn.Sequential(nn.Linear(64, 16), norm, nn.ReLU(), nn.Linear(16, CLASSES)), batches(6))

    assert run(0.99).findings()["ND407"].evidence["fault"] == "newest only"
    assert "ND407" not in run(0.1).findings()


def test_a_rate_that_jumps_leads_the_nan_it_brings() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    top = monitored(model, optimizer, 40, jump=24).findings[0]
    assert (top.rule, top.evidence["lr_before"]) == ("ND603", 0.01)
    assert "ND604" in {finding.rule for finding in top.walk()}
    assert "schedule" in top.recommendation


def test_a_case_names_its_other_layers() -> None:
    case = Case(tuple("abcdefg"), (), 0, 0)
    assert (case.worst, case.others) == ("a", " Over the limit, too: b, c, d, e and 2 more.")
    assert Case((), (), 0, 0).worst == "the run"
    assert Case(("a",), (), 0, 0).others == ""


def test_a_state_that_is_never_written() -> None:
    """The update gate of a GRU at its upper end keeps the state; at its lower end it forgets, which is no fault."""

    def run(bias: float) -> Run:
        torch.manual_seed(0)
        model = Sequences(nn.GRU(8, 16, batch_first=True))
        nn.init.constant_(model.rnn.bias_ih_l0[16:32], bias)
        return watch(model, batches(6))

    assert run(12.0).findings()["ND201"].evidence["activation"] == "update gate"
    assert "ND201" not in run(-12.0).findings()


def test_an_output_that_is_never_on() -> None:
    def run(bias: float) -> Run:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1), nn.ReLU())
        nn.init.constant_(model[2].bias, bias)
        return watch(
            model, batches(12), lambda net, batch: (net(batch[0])[:, 0] + 5 - batch[1]).square().mean()
        )

    finding = run(-9.0).findings()["ND202"]
    assert (finding.layers, finding.severity) == (("2",), "critical")
    assert "ND202" not in run(1.0).findings()


def test_a_small_head_that_no_optimizer_holds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    report = monitored(model, torch.optim.SGD(model[0].parameters(), 0.1), 40)
    finding = next(found for found in report.findings if found.rule == "ND606")
    assert (finding.layers, finding.severity) == (("2",), "warning")


def test_a_rate_that_has_run_out() -> None:
    """A decay by half at each step; at 8 visits in a row next to nothing is left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    report = monitored(model, optimizer, 90, decay=0.5)
    finding = next(found for found in report.findings if found.rule == "ND603")
    assert finding.evidence["lr_at_first"] == 0.1
    assert "epoch" in finding.recommendation
    assert "ND603" not in {
        f.rule for f in monitored(model, torch.optim.SGD(model.parameters(), 0.1), 90).findings
    }
