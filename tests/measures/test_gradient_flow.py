"""Gradient flow: planted faults found, each at its cause; look-alikes left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nndiag
from nndiag.diagnosis import diagnose
from nndiag.findings import Finding
from nndiag.layers import LayerInfo
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import TimeReach

from .loops import related, session, train, warnings_of
from .networks import stack
from .runs import Batch, Run, batches, classify

Make = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
SGD: Make = partial(torch.optim.SGD, lr=0.1)


def run(
    make: Callable[[], nn.Module],
    steps: int = 42,
    optimize: Make = SGD,
    loss: Callable[[nn.Module, Batch], Tensor] = classify,
    data: list[Batch] | None = None,
) -> Run:
    torch.manual_seed(0)
    model = make()
    return train(model, data or batches(steps), optimize(model.parameters()), loss)


def test_deep_sigmoid_leads_together_with_its_initialization() -> None:
    watched = run(partial(stack, nn.Sigmoid, depth=8))
    top = watched.report.findings[0]
    assert (top.rule, top.severity) == ("ND311", "warning")
    assert "ND601" in related(watched, "ND311")
    assert watched.findings()["ND601"].severity == "warning"
    assert watched.findings()["ND601"].layers == ("0", "2")
    assert warnings_of(watched) == ["ND311"]


def test_its_twin_with_relu_and_his_weights_is_silent() -> None:
    def twin() -> nn.Module:
        model = stack(nn.ReLU, depth=8)
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        return model

    watched = run(twin, optimize=partial(torch.optim.Adam, lr=1e-3))
    assert watched.reading("saliency_ratio", None).value > 1e-3
    assert warnings_of(watched) == []


class Recurrent(nn.Module):
    """A plain recurrent network that reads its sequence ``times`` over."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.times = 1
        self.rnn, self.head = nn.RNN(8, 24, nonlinearity="relu", batch_first=True), nn.Linear(24, 10)
        with torch.no_grad():
            self.rnn.weight_hh_l0.copy_(gain * nn.init.orthogonal_(torch.empty(24, 24)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.view(-1, 8, 8).repeat(1, self.times, 1))[0][:, -1])


def lengthening(model: nn.Module, batch: Batch) -> Tensor:
    """From step 30 on the sequences are six times as long."""
    model.steps = getattr(model, "steps", -1) + 1
    model.times = 6 if model.steps >= 30 else 1
    return classify(model, batch)


def test_a_recurrent_network_explodes_over_time() -> None:
    watched = run(partial(Recurrent, 2.0), optimize=partial(torch.optim.SGD, lr=1e-7), loss=lengthening)
    finding = watched.findings()["ND602"]
    assert finding.severity.rank > 0
    assert finding.value > 100
    assert 29 < finding.first_step <= 31
    assert "orthogonal" in finding.recommendation


def test_what_has_learned_does_not_explode() -> None:
    """Losses that are zero to the last digit from the first step: gradients of 1e-30 have ratios of nothing."""

    def knowing() -> nn.Module:
        model = stack(nn.ReLU)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for batch in batches(100):
            optimizer.zero_grad()
            classify(model, batch).backward()
            optimizer.step()
        with torch.no_grad():
            model[6].weight.mul_(10.0)
        return model

    watched = run(knowing, 26, partial(torch.optim.Adam, lr=1e-4))
    assert watched.reading("global_gradient_norm", None).value < 1e-9
    assert "ND602" not in watched.findings()


def test_a_contracting_one_does_not() -> None:
    watched = run(partial(Recurrent, 0.9), optimize=partial(torch.optim.SGD, lr=1e-3), loss=lengthening)
    assert "ND602" not in watched.findings()


def test_a_step_larger_than_the_weights() -> None:
    """SGD at a rate of 2 blows up within five steps; every unit is dead when judging begins."""
    watched = run(partial(stack, nn.ReLU, depth=2), optimize=partial(torch.optim.SGD, lr=2.0, momentum=0.9))
    assert warnings_of(watched) == ["ND603"]
    assert watched.findings()["ND603"].value > 1
    assert "Lower the learning rate (now 2.0)" in watched.findings()["ND603"].recommendation
    assert "ND202" in related(watched, "ND603")


def test_steps_that_never_get_smaller() -> None:
    """A tenth of the weights at each step, after step 60."""
    watched = run(partial(stack, nn.Tanh), 72, partial(torch.optim.SGD, lr=20.0))
    assert watched.findings()["ND603"].severity.rank > 0
    assert any(r.value > 0.1 for u in watched.updates for r in u.readings if r.name == "update_ratio")


def test_steps_too_small_to_matter_are_a_note() -> None:
    watched = run(partial(stack, nn.ReLU), 64, partial(torch.optim.SGD, lr=1e-7))
    assert watched.findings()["ND603"].severity == "info"
    assert "Raise the learning rate" in watched.findings()["ND603"].recommendation
    assert warnings_of(watched) == []


def test_the_end_of_a_decay_is_no_fault() -> None:
    torch.manual_seed(0)
    model = stack(nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1e-6 if step > 50 else 1.0)
    assert "ND603" not in train(model, batches(70), optimizer, scheduler=decay).findings()


def naive(model: nn.Module, batch: Batch, scale: float) -> Tensor:
    logarithms = torch.log(torch.softmax(scale * model(batch[0]), 1))
    return -(F.one_hot(batch[1], 10) * logarithms).sum(1).mean()


@pytest.mark.parametrize("as_float", [False, True], ids=["tensor", "float"])
@pytest.mark.parametrize("begin", [25, 30], ids=["between visits", "at a visit"])
def test_log_of_softmax(as_float: bool, begin: int) -> None:
    """The step is exact whether it was visited or not; no layer is to blame for a loss."""
    torch.manual_seed(0)
    model, data = stack(nn.ReLU), batches(45)
    optimizer, watcher = SGD(model.parameters()), session(model, 45)
    for step, (x, y) in enumerate(data):
        watcher.begin_batch(step)
        loss = naive(model, (x, y), 1e4 if step == begin else 1.0)
        optimizer.zero_grad()
        loss.backward()
        watcher.before_update(optimizer=optimizer)
        optimizer.step()
        watcher.end_batch(float(loss.detach()) if as_float else loss.detach(), y)
    findings = [f for f in watcher.close().findings if f.severity.rank > 0]
    assert [f.rule for f in findings] == ["ND604"]
    assert (findings[0].severity, findings[0].evidence["first_step"]) == ("critical", begin)
    assert findings[0].layers == ()
    assert math.isfinite(findings[0].evidence["last_finite_loss"])


class Roots(nn.Module):
    """The square root of a negative number, inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(torch.relu(self.a(x)).add(-1e3 if self.broken else 0).sqrt())
        return self.head(torch.relu(h))

    broken = False


def breaking(model: nn.Module, batch: Batch) -> Tensor:
    model.steps += 1
    model.broken = model.steps > 30
    return classify(model, batch)


def test_the_layer_is_named_when_it_was_seen() -> None:
    class Sound(Roots):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.broken else self.head(torch.relu(self.b(torch.relu(self.a(x)))))

    finding = run(Sound, 45, loss=breaking).findings()["ND604"]
    assert finding.evidence["first_step"] == 30
    assert finding.layers in {("b",), ()}


def test_one_bad_batch_that_is_skipped_is_over() -> None:
    torch.manual_seed(0)
    model = stack(nn.ReLU)
    with nndiag.Monitor(
        model, optimizer=(o := SGD(model.parameters())), console=False, strict=True
    ) as monitor:
        for step, batch in enumerate(batches(52)):
            loss = classify(model, batch)
            o.zero_grad()
            loss.backward()
            o.step()
            monitor.step(math.nan if step == 25 else loss)
    finding = next(f for f in monitor.report.findings if f.rule == "ND604")
    assert (finding.status, finding.evidence["first_step"]) == ("resolved", 25)


class Cut(nn.Module):
    """Most of it stands before a detach."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.neck, self.head = nn.Linear(64, 64), nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.neck(F.relu(self.body(x)).detach())))


class Spare(nn.Module):
    """A head that no loss asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.spare = nn.Linear(64, 64), nn.Linear(64, 10), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        self.spare(h)
        return self.head(h)


def silent(watched: Run) -> Finding:
    return watched.findings()["ND605"]


def test_a_detached_branch_is_a_warning_by_its_share() -> None:
    watched = run(Cut, 22)
    assert (silent(watched).severity, silent(watched).layers) == ("warning", ("body",))
    assert silent(watched).evidence["silent_share_of_network"] == pytest.approx(4160 / 5370, abs=1e-3)


def test_an_unused_head_is_a_note() -> None:
    watched = run(Spare, 22)
    assert (silent(watched).severity, silent(watched).layers) == ("info", ("spare",))


class Adapted(nn.Module):
    """A frozen layer with a low-rank correction that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 32).requires_grad_(False)
        self.down, self.up, self.head = nn.Linear(64, 4), nn.Linear(4, 32), nn.Linear(32, 10)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.base(x) + self.up(self.down(x))))


class Experts(nn.Module):
    """Four experts, of which each batch asks one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(64, 32) for _ in range(4))
        self.head, self.turn = nn.Linear(32, 10), 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.turn += 1
        return self.head(F.relu(self.experts[self.turn // 3 % 4](x)))


class Zeroed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)))


@pytest.mark.parametrize("make", [Adapted, Experts, Zeroed])
def test_parameters_that_wait_are_not_silent(make: Callable[[], nn.Module]) -> None:
    watched = run(make, 50)
    assert not {"ND601", "ND605", "ND606"} & set(watched.findings())
    assert warnings_of(watched) == []


def some(parameters: Iterator[nn.Parameter], *, idle: bool) -> torch.optim.Optimizer:
    """The first layer is left out, or is given a rate of zero."""
    first, rest = (all_ := list(parameters))[:2], all_[2:]
    return torch.optim.SGD([*([{"params": first, "lr": 0.0}] if idle else []), {"params": rest}], lr=0.1)


@pytest.mark.parametrize("idle", [False, True], ids=["in no optimizer", "rate of zero"])
def test_a_small_layer_that_nobody_updates_is_a_note(idle: bool) -> None:
    watched = run(partial(stack, nn.ReLU, width=3), 22, partial(some, idle=idle))
    finding = watched.findings()["ND606"]
    assert (finding.severity, finding.layers) == ("info", ("0",))
    assert (finding.evidence["in_optimizer"], finding.evidence["lr"]) == (idle, 0.0 if idle else 0.1)
    assert finding.evidence["initial_law"] is None
    assert warnings_of(watched) == []


def wide(*, is_learned: bool) -> nn.Sequential:
    """Enough weights in the first layer to tell learned ones from drawn ones."""
    model = stack(nn.ReLU, width=128)
    if is_learned:
        with torch.no_grad():
            model[0].weight.pow_(3).mul_(50)
    return model


@pytest.mark.parametrize("is_learned", [False, True])
def test_a_layer_left_as_it_was_drawn_is_a_warning_and_a_learned_one_a_note(is_learned: bool) -> None:
    watched = run(partial(wide, is_learned=is_learned), 22, partial(some, idle=False))
    finding = watched.findings()["ND606"]
    assert finding.severity == ("info" if is_learned else "warning")
    assert ("as they were drawn" in finding.message) == (not is_learned)


def test_updates_below_the_resolution_of_bf16() -> None:
    data = [(x.bfloat16(), y) for x, y in batches(22)]
    watched = run(lambda: stack(nn.ReLU).bfloat16(), 22, partial(torch.optim.SGD, lr=1e-6), data=data)
    finding = watched.findings()["ND606"]
    assert finding.severity == "warning"
    assert "precision" in finding.recommendation
    assert "something puts them back" in finding.recommendation


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_gradients_of_any_size_are_neither_dead_nor_exploded(size: float) -> None:
    def sized(model: nn.Module, batch: Batch) -> Tensor:
        return classify(model, batch) * size

    watched = run(partial(stack, nn.ReLU), 22, partial(torch.optim.SGD, lr=0.1 / size), sized)
    assert not {"ND601", "ND602", "ND604", "ND605"} & set(watched.findings())
    norm = watched.reading("global_gradient_norm", None)
    assert 1e-3 < norm.value / size < 1e3


def test_the_norm_is_that_of_all_gradients() -> None:
    torch.manual_seed(0)
    model, norms = stack(nn.ReLU), []

    def noting(model: nn.Module, batch: Batch) -> Tensor:
        loss = classify(model, batch)
        norms.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]).norm())
        return classify(model, batch)

    watched = train(model, batches(6), SGD(model.parameters()), noting)
    assert watched.reading("global_gradient_norm", None, 5).value == pytest.approx(float(norms[5]), rel=1e-5)


def test_plain_steps_have_a_known_ratio() -> None:
    """|dW| / |W| = lr |G| / |W|."""
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    x, y = batches(1)[0]
    gradient = torch.autograd.grad(classify(model, (x, y)), model.weight)[0]
    expected = float(0.1 * gradient.norm() / model.weight.detach().norm())
    watched = train(model, [(x, y)], SGD(model.parameters()))
    assert watched.reading("update_ratio", "", 0).value == pytest.approx(expected, rel=1e-4)


def test_two_optimizers_and_a_critic() -> None:
    """Manual optimization: each step updates the critic, then the generator; each read at its own update."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)),
            "critic": nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)),
        }
    )
    parts = [model["critic"], model["generator"]]
    optimizers = [torch.optim.Adam(part.parameters(), 1e-3, betas=(0.5, 0.9)) for part in parts]
    generator = torch.Generator().manual_seed(1)
    with nndiag.Monitor(model, optimizer=optimizers, console=False, strict=True) as monitor:
        for _ in range(42):
            real, noise = (torch.randn(32, n, generator=generator) for n in (4, 8))
            fake = model["generator"](noise)
            critic = (
                F.softplus(model["critic"](fake.detach())).mean() + F.softplus(-model["critic"](real)).mean()
            )
            optimizers[0].zero_grad()
            critic.backward()
            optimizers[0].step()
            deceit = F.softplus(-model["critic"](fake)).mean()
            optimizers[1].zero_grad()
            deceit.backward()
            optimizers[1].step()
            monitor.step(critic)
    report = monitor.report
    assert [f.rule for f in report.findings if f.severity.rank > 0] == []
    ratios = {r.layer for r in report.readings if r.name == "update_ratio"}
    assert ratios == {"generator.0", "generator.2", "critic.0", "critic.2"}
    assert not {"ND605", "ND606"} & {f.rule for f in report.findings}


def test_accumulated_gradients() -> None:
    """Four micro-batches an update: the gradient that is read is their sum, once a step."""
    torch.manual_seed(0)
    model, optimizer, norms = stack(nn.ReLU), None, []
    optimizer = SGD(model.parameters())
    watcher = session(model, 22)
    data = batches(88, 16)
    for step in range(22):
        optimizer.zero_grad()
        for micro in data[4 * step : 4 * step + 4]:
            watcher.begin_batch(step)
            loss = classify(model, micro) / 4
            loss.backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
        watcher.before_update(optimizer=optimizer)
        optimizer.step()
        update = watcher.end_batch(loss * 4, micro[1])
    found = next(r for r in update.readings if r.name == "global_gradient_norm")
    assert found.value == pytest.approx(float(norms[-1]), rel=1e-5)
    assert [f.rule for f in watcher.close().findings if f.severity.rank > 0] == []


def test_a_scaled_gradient_is_divided_by_its_scale() -> None:
    torch.manual_seed(0)
    model, (x, y) = stack(nn.ReLU), batches(1)[0]
    watcher = session(model, 1)
    watcher.begin_batch(0)
    loss = classify(model, (x, y))
    (1024 * loss).backward()
    expected = float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()) / 1024
    watcher.before_update(scale=1024.0)
    update = watcher.end_batch(loss, y)
    found = next(r for r in update.readings if r.name == "global_gradient_norm")
    assert found.value == pytest.approx(expected, rel=1e-5)
    watcher.close()


def test_a_bias_before_a_norm_is_not_silent_or_faded() -> None:
    """Its true gradient is zero: rounding is all there is."""

    def normed() -> nn.Module:
        parts: list[nn.Module] = []
        for place in range(5):
            parts += [nn.Linear(64 if place == 0 else 32, 32), nn.BatchNorm1d(32), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(32, 10))

    watched = run(normed, 42, partial(torch.optim.Adam, lr=3e-3))
    assert watched.reading("saliency_ratio", None).value > 1e-3
    assert not {"ND601", "ND605"} & set(watched.findings())


class Taught(nn.Module):
    """A student, and a teacher that runs along without learning."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = stack(nn.ReLU), stack(nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.student(x) + self.teacher(x).detach()


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "left out"])
def test_a_teacher_outside_the_optimizer_is_no_warning(is_held: bool) -> None:
    def optimize(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        every = list(parameters)
        return torch.optim.SGD(every if is_held else every[: len(every) // 2], lr=0.1)

    finding = run(Taught, 22, optimize).findings()["ND605"]
    assert finding.severity == ("warning" if is_held else "info")
    assert all(layer.startswith("teacher") for layer in finding.layers)


def test_gradients_of_a_closure_are_not_taken_for_none() -> None:
    torch.manual_seed(0)
    model = stack(nn.ReLU)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    with nndiag.Monitor(model, optimizer=optimizer, console=False, max_overhead=None) as monitor:
        for batch in batches(22):

            def closure(batch: Batch = batch) -> Tensor:
                optimizer.zero_grad()
                loss = classify(model, batch)
                loss.backward()
                return loss

            monitor.step(optimizer.step(closure))
    assert "ND605" not in {finding.rule for finding in monitor.report.findings}
    assert not [r for r in monitor.report.readings if r.name == "silent_share"]


def reach(step: int, ratio: float, loss: float) -> Snapshot:
    """A visit of a recurrent layer whose last output depends on the first quarter by so much."""
    gradient = torch.ones(2, 16, 1)
    gradient[:, :4] = ratio
    info = LayerInfo("rnn", "LSTM", "recurrent", 0, units=4)
    key = Key("rnn", "input", "probe", "time_reach")
    return Snapshot(step, "live", {"rnn": info}, {key: TimeReach.of(gradient).cpu()}, facts={"loss": loss})


@pytest.mark.parametrize(
    ("ratio", "last", "step", "severity"),
    [
        (1e-5, 2.0, 100, "warning"),
        (1e-5, 0.5, 100, "info"),  # short memory is enough
        (1e-5, 2.0, 40, None),
        (1e-2, 2.0, 100, None),
    ],
)
def test_gradients_that_fade_over_time(ratio: float, last: float, step: int, severity: str | None) -> None:
    visits = [reach(0, ratio, 2.0), *(reach(step + i, ratio, last) for i in range(4))]
    found = [f for f in diagnose(visits).findings if f.rule == "ND601"]
    assert [(f.severity, f.layers) for f in found] == ([(severity, ("rnn",))] if severity else [])
    if severity:
        assert "16 time steps" in found[0].message
