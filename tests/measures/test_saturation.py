"""Saturation on small trainings: ND201, ND202, ND203, each beside a healthy twin."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.diagnosis import diagnose
from nndiag.findings import Finding
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.snapshot import Gap, Key, Snapshot
from nndiag.statistics import AttentionEntropy, Statistic, Tails

from .networks import (
    Attention,
    Convolutions,
    Functional,
    Projected,
    Steep,
    Tokens,
    drawn,
    scaled,
    silenced,
    stack,
)
from .runs import Batch, Run, batches, classify, watch

SQUASHING: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "tanh": (lambda: stack(nn.Tanh), "0", "tanh"),
    "sigmoid": (lambda: stack(nn.Sigmoid), "0", "sigmoid"),
    "hardtanh": (lambda: stack(nn.Hardtanh), "0", "hardtanh"),
    "softsign": (lambda: stack(nn.Softsign), "0", "softsign"),
    "of one's own": (lambda: stack(Steep), "0", "steep"),
    "torch.tanh": (lambda: Functional(torch.tanh), "a", "tanh"),
    "Tensor.sigmoid": (lambda: Functional(Tensor.sigmoid), "a", "sigmoid"),
    "F.hardtanh": (lambda: Functional(F.hardtanh), "a", "hardtanh"),
}


@functools.cache
def early(name: str, std: float | None) -> Run:
    """Weights that are too large from the start; None: torch's default."""
    torch.manual_seed(0)
    model = SQUASHING[name][0]()
    return watch(model if std is None else drawn(model, std), batches(4))


@pytest.mark.parametrize("name", SQUASHING)
def test_large_weights_saturate_from_the_first_visit(name: str) -> None:
    _, layer, kind = SQUASHING[name]
    finding = early(name, 3.0).findings()["ND201"]
    assert finding.layers[0] == layer
    assert finding.first_step == 0
    assert finding.severity.rank >= 1
    assert finding.evidence["activation"] == kind
    assert "from the first visit on" in finding.message
    assert re.search(rf"weights of (layer )?{layer}\b", finding.recommendation)
    assert "divide them by" in finding.recommendation


@pytest.mark.parametrize("name", SQUASHING)
def test_default_weights_do_not(name: str) -> None:
    assert early(name, None).alarms() == []


def test_evidence_tells_then_and_now() -> None:
    run = early("tanh", 3.0)
    finding = run.findings()["ND201"]
    first, last = run.reading("saturated", "1", 0), run.reading("saturated", "1", 3)
    e = finding.evidence
    assert e["saturated_at_first_visit"] == pytest.approx(first.value, abs=1e-4)
    assert e["saturated"] == pytest.approx(last.value, abs=1e-4)
    assert (e["first_visit"], e["seen_at"], e["trainable"]) == (0, "1", True)
    assert float(e["lower_tail"] or 0) + float(e["upper_tail"] or 0) == pytest.approx(last.value, abs=2e-4)
    assert {"transmission", "samples", "preactivation_rms", "preactivation_rms_at_first_visit"} <= set(e)


def test_preactivation_scale_is_that_of_the_raw_tensor() -> None:
    torch.manual_seed(0)
    model, data = drawn(stack(nn.Tanh), 3.0), batches(1)
    with torch.no_grad():
        z = model[0](data[0][0])  # type: ignore[index]
    run = watch(model, data)
    assert run.reading("saturated", "1").detail["preactivation_rms"] == pytest.approx(
        float(z.square().mean().sqrt()), rel=1e-3
    )


def test_fractions_are_those_of_the_raw_tensor() -> None:
    torch.manual_seed(0)
    model, data = drawn(stack(nn.Tanh), 3.0), batches(1)
    with torch.no_grad():
        z = model[0](data[0][0])  # type: ignore[index]
    run, edge = watch(model, data), math.acosh(0.05**-0.5)
    assert run.reading("lower_tail", "1").value == pytest.approx(float((z < -edge).float().mean()))
    assert run.reading("upper_tail", "1").value == pytest.approx(float((z > edge).float().mean()))
    slope = 1 - z.tanh().square()
    assert run.reading("transmission", "1").value == pytest.approx(float(slope.square().mean()), rel=1e-3)
    assert run.reading("phi", "1").value == pytest.approx(float(z.tanh().abs().mean()), rel=1e-3)


@functools.cache
def driven(lr: float) -> Run:
    torch.manual_seed(0)
    model = stack(nn.Tanh)
    return watch(model, batches(10), optimizer=torch.optim.Adam(model.parameters(), lr=lr))


def test_training_drives_into_saturation() -> None:
    finding = driven(1.0).findings()["ND201"]
    assert set(finding.layers) == {"0", "2", "4"}
    assert finding.severity == "critical"
    assert finding.last_clean_step == 0
    assert float(finding.evidence["saturated_at_first_visit"] or 0) < 0.05
    assert float(finding.evidence["saturated"] or 0) > 0.9
    rms = finding.evidence
    assert float(rms["preactivation_rms"] or 0) > 5 * float(rms["preactivation_rms_at_first_visit"] or 1)
    assert "At step 0 it was 0%" in finding.message
    assert "learning rate" in finding.recommendation
    assert "initial weights" not in finding.recommendation


def test_a_moderate_learning_rate_does_not() -> None:
    assert driven(1e-3).alarms() == []


def test_numbers_are_those_of_the_layer_named_beside_them() -> None:
    run = driven(1.0)
    finding = run.findings()["ND201"]
    worst = run.reading("saturated", str(int(finding.layers[0]) + 1)).value
    assert f"{worst:.0%} of the inputs of tanh behind layer {finding.layers[0]} lie" in finding.message
    assert (
        f"Over the limit, too: {', '.join(f'layer {name}' for name in finding.layers[1:])}."
        in finding.message
    )


@functools.cache
def half_dead(units: int, width: int = 64, *, frozen: bool = False) -> Run:
    """Three visits after 512 samples; the second of three hidden layers is hurt."""
    torch.manual_seed(0)
    model = silenced(stack(nn.ReLU, width=width), "2", units)
    if frozen:
        for parameter in (*model[2].parameters(), *model[0].parameters()):  # type: ignore[index]
            parameter.requires_grad_(False)
    return watch(model, batches(4, size=512))


def own_share(run: Run) -> float:
    return run.reading("dead_share", "3").value


@pytest.mark.parametrize(
    ("dead", "severity"),
    [(0, None), (16, None), (24, "info"), (48, "info"), (52, "warning"), (57, "warning"), (64, "critical")],
)
def test_dead_units_are_judged_by_those_alive(dead: int, severity: str | None) -> None:
    """64 units, ten outputs: alive below max(5% of 64, min(9, 10% of 64)) = 6.4 is critical, so 58 dead are."""
    run = half_dead(dead)
    assert own_share(run) >= dead / 64
    finding = run.findings().get("ND202")
    assert (finding.severity if finding else None) == severity
    if finding is not None:
        assert finding.layer == "2"


def test_few_alive_are_critical() -> None:
    finding = half_dead(60).findings()["ND202"]
    assert finding.severity == "critical"
    assert (finding.layer, finding.evidence["alive"]) == ("2", 64 - int(own_share(half_dead(60)) * 64))


def test_a_dead_layer_is_told_with_its_bound() -> None:
    run = half_dead(64)
    finding, e = run.findings()["ND202"], run.findings()["ND202"].evidence
    assert (e["dead"], e["units"], e["alive"], e["dead_share"]) == (64, 64, 0, 1.0)
    assert e["on_rate_below"] == pytest.approx(1 - 0.05 ** (1 / int(e["samples"] or 1)), abs=1e-6)
    assert (e["activation"], e["seen_at"]) == ("relu", "3")
    assert "64 of 64 units of layer 2 were off (relu)" in finding.message
    assert "zero biases" in finding.recommendation


def test_what_follows_from_a_dead_layer_is_listed_under_it() -> None:
    tops = [finding.rule for finding in half_dead(64).report.findings]
    assert tops[0] == "ND202"
    assert "ND311" not in tops


def test_frozen_layers_are_not_accused() -> None:
    assert own_share(half_dead(64, frozen=True)) == 1.0
    finding = half_dead(64, frozen=True).findings().get("ND202")
    assert finding is None or (finding.severity, finding.layers) == ("info", ("4",))


@functools.cache
def dead_channels(count: int) -> Run:
    torch.manual_seed(0)
    return watch(silenced(Convolutions(), "c2", count), batches(3, size=512))


@pytest.mark.parametrize(("count", "severity"), [(0, None), (16, "critical")])
def test_units_of_convolutions_are_channels(count: int, severity: str | None) -> None:
    run = dead_channels(count)
    reading = run.reading("dead_share", "act")
    assert reading.detail["units"] == 16
    assert len(reading.units or ()) == 16
    finding = run.findings().get("ND202")
    assert (finding.severity if finding else None) == severity
    assert finding is None or finding.layer == "c2"


def test_a_channel_that_is_on_somewhere_is_alive() -> None:
    x = torch.full((512, 9, 2), -1.0)
    x[7, 3, 1] = 1.0
    report = judged(Tails.of(x, 0.0, None))
    reading = next(r for r in report.readings if r.name == "dead_share")
    assert reading.value == 0.5
    assert reading.units == (0.0, 1 / 512)


def rectifier(**changes: object) -> dict[str, LayerInfo]:
    names = {
        "name": "act",
        "kind": "ReLU",
        "role": "activation",
        "depth": 1,
        "edges": (0.0, None),
        "source": "fc",
        "activation": "relu",
    }
    return {
        "fc": LayerInfo("fc", "Linear", "weight", 0, units=40),
        "act": LayerInfo(**(names | changes)),  # type: ignore[arg-type]
    }


def snapshot(step: int, layers: dict[str, LayerInfo], **seen: Statistic) -> Snapshot:
    """A visit with tails seen by the probe and the stream, or the entropy of attention rows."""
    keys = {
        name: Key("act", "input", "stream" if name == "stream" else "probe", statistic.name)
        for name, statistic in seen.items()
    }
    return Snapshot(step, "live", layers, {keys[name]: statistic for name, statistic in seen.items()})


def judged(probe: Tails, stream: Tails | None = None) -> Report:
    """The verdict on one rectifier after three equal visits."""
    seen = {"probe": probe} | ({"stream": stream} if stream is not None else {})
    return diagnose([snapshot(step, rectifier(), **seen) for step in range(3)])


def off(samples: int, alive: int = 0, units: int = 40) -> Tails:
    x = torch.full((samples, 1, units), -1.0)
    x[:, :, :alive] = 1.0
    return Tails.of(x, 0.0, None)


@pytest.mark.parametrize(
    ("probe", "stream", "alive", "is_judged"),
    [
        (127, None, 0, False),
        (128, None, 0, True),
        (128, 512, 1, True),
        (128, 511, 1, False),
        (511, None, 1, False),
        (512, None, 1, True),
    ],
)
def test_samples_needed(probe: int, stream: int | None, alive: int, is_judged: bool) -> None:
    """A whole layer needs 128 samples, single units 512; the probe's are among those of the stream."""
    report = judged(off(probe, alive), None if stream is None else off(stream, alive))
    assert any(f.rule == "ND202" for f in report.findings) == is_judged
    entry = report.coverage.of("act", "saturation")
    assert entry is not None
    assert entry.status == "measured"


def test_the_bound_counts_each_sample_once() -> None:
    finding = judged(off(128), off(512)).findings[0]
    assert finding.evidence["samples"] == 512
    exact = stats.beta.ppf(0.95, 1, 512)  # Clopper-Pearson for 0 of 512
    assert finding.evidence["on_rate_below"] == pytest.approx(exact, abs=1e-6)


def test_a_unit_on_in_the_stream_only_is_alive() -> None:
    reading = next(r for r in judged(off(512), off(512, alive=10)).readings if r.name == "dead_share")
    assert reading.value == 0.75


def test_one_bad_visit_is_not_a_finding() -> None:
    layers = rectifier()
    visits = [snapshot(0, layers, probe=off(512)), *(snapshot(s, layers, probe=off(512, 40)) for s in (1, 2))]
    assert diagnose(visits).findings == ()


def test_a_layer_that_recovers_is_resolved() -> None:
    layers = rectifier()
    seen = [off(512), off(512), off(512, 40), off(512, 40)]
    (finding,) = diagnose([snapshot(s, layers, probe=tails) for s, tails in enumerate(seen)]).findings
    assert (finding.status, finding.last_step) == ("resolved", 2)


@pytest.mark.parametrize(
    "changes",
    [{"edges": (None, None), "kind": "LeakyReLU"}],
    ids=["leaky slope"],
)
def test_what_has_no_dead_units(changes: dict[str, object]) -> None:
    layers = rectifier(**changes)
    assert diagnose([snapshot(step, layers, probe=off(512)) for step in range(3)]).findings == ()


def test_an_output_is_dead_only_as_a_whole() -> None:
    layers = rectifier(is_output=True)
    part, whole = off(512, 1), off(512)
    assert diagnose([snapshot(step, layers, probe=part) for step in range(3)]).findings == ()
    (finding,) = diagnose([snapshot(step, layers, probe=whole) for step in range(3)]).findings
    assert (finding.rule, finding.severity) == ("ND202", "critical")
    assert "An output needs no relu: take it out" in finding.recommendation


def test_units_killed_by_steps_too_large_are_told_from_those_that_began_dead() -> None:
    torch.manual_seed(0)
    model = stack(nn.ReLU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch[1])
        optimizer.param_groups[0]["lr"] = 200.0 if len(seen) == 20 else 0.01
        return classify(model, batch)

    finding = watch(model, batches(40), loss_of=loss, optimizer=optimizer).findings()["ND202"]
    assert float(finding.evidence["grew"] or 0) > 10
    assert "they were on; what they read has grown" in finding.message
    assert "Lower the learning rate by about 100 times" in finding.recommendation
    began = half_dead(64).findings()["ND202"]
    assert "grew" not in began.evidence
    assert "Re-initialize it with zero biases" in began.recommendation


def test_an_output_held_at_its_bounds_is_told_from_a_layer_driven_there() -> None:
    """The loss wants numbers far beyond what a sigmoid can say."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8), nn.Sigmoid())
    target = 100 * torch.randn(64, generator=torch.Generator().manual_seed(1)).reshape(8, 8)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(model(batch[0]), batch[0] @ target.repeat(8, 1))

    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    finding = watch(model, batches(150), loss_of=loss, optimizer=optimizer).findings()["ND201"]
    assert finding.evidence["is_output"]
    assert "keeps it at its bounds" in finding.message
    assert "scale the targets" in finding.recommendation


def test_the_saturated_output_of_a_network_is_not_judged() -> None:
    changes = {"edges": (-2.18, 2.18), "bounded": True, "activation": "tanh"}
    tails = Tails.of(torch.full((128, 1, 40), 9.0), -2.18, 2.18)
    for is_output, rules in ((True, []), (False, ["ND201"])):
        layers = rectifier(**changes, is_output=is_output)
        report = diagnose([snapshot(step, layers, probe=tails) for step in range(3)])
        assert [finding.rule for finding in report.findings] == rules


ATTENTIONS: dict[str, tuple[Callable[[], nn.Module], str, tuple[str, ...]]] = {
    "plain": (Attention, "attention", ("attention.q", "attention.k")),
    "causal": (lambda: Attention(causal=True), "attention", ("attention.q", "attention.k")),
    "padded": (lambda: Attention(padded=True), "attention", ("attention.q", "attention.k")),
    "grouped": (lambda: Attention(causal=True, groups=2), "attention", ("attention.q", "attention.k")),
    "packed": (Projected, "attention.mha", ("attention.mha",)),
    "packed, padded": (lambda: Projected(padded=True), "attention.mha", ("attention.mha",)),
    "separate": (lambda: Projected(separate=True), "attention.mha", ("attention.mha",)),
}


@functools.cache
def sharpened(name: str, at: int | None, factor: float = 40.0) -> Run:
    """Queries and keys are scaled up at a step, or never."""
    build, _, layers = ATTENTIONS[name]
    torch.manual_seed(0)
    model, count = Tokens(build()), [0]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if count[0] == at:
            scaled(model, factor, *layers)
        count[0] += 1
        return classify(model, batch)

    return watch(model, batches(6), loss, torch.optim.SGD(model.parameters(), lr=0.01))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_that_collapses(name: str) -> None:
    finding = sharpened(name, 2).findings()["ND203"]
    assert finding.severity == "warning"
    assert finding.layers == (ATTENTIONS[name][1],)
    assert (finding.last_clean_step, finding.first_step) == (1, 2)
    e = finding.evidence
    assert float(e["entropy_at_first_visit"] or 0) > 0.9
    assert float(e["entropy"] or 1) < 0.05
    assert 1 <= int(e["heads_collapsed"] or 0) <= int(e["heads"] or 0) == 4
    assert "QK norm" in finding.recommendation


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_that_stays_as_it_was(name: str) -> None:
    assert sharpened(name, None).alarms() == []


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_sharp_from_the_start(name: str) -> None:
    run = sharpened(name, 0)
    entropies = [r.value for u in run.updates for r in u.readings if r.name == "attention_entropy"]
    assert max(entropies) < 0.1
    assert run.findings()["ND203"].layers[0] in ("attention", "attention.mha")


def test_entropy_is_that_of_the_softmax_over_visible_keys() -> None:
    torch.manual_seed(0)
    model, data = Tokens(Attention(causal=True)), batches(1)
    attention = model.attention
    assert isinstance(attention, Attention)
    with torch.no_grad():
        h = model.stem(data[0][0].view(-1, 8, 8))
        q, k = (f(h).unflatten(-1, (4, 8)).transpose(1, 2) for f in (attention.q, attention.k))
        scores = q @ k.transpose(-2, -1) / math.sqrt(8)
    lower = torch.ones(8, 8, dtype=torch.bool).tril()
    p = scores.masked_fill(~lower, -math.inf).softmax(-1).double().numpy()
    rows = [stats.entropy(p[:, :, i, : i + 1], axis=-1) / math.log(i + 1) for i in range(1, 8)]
    per_head = sum(row.mean(0) for row in rows) / 7
    run = watch(model, data)
    (reading,) = [r for r in run.updates[0].readings if r.name == "attention_entropy"]
    assert reading.units == pytest.approx(tuple(per_head), rel=1e-5)
    assert reading.value == pytest.approx(per_head.min(), rel=1e-5)


@pytest.mark.parametrize(
    ("then", "now", "is_found"), [(0.35, 0.04, True), (0.25, 0.04, False), (0.35, 0.06, False)]
)
def test_collapse_is_from_above_a_third_to_below_a_twentieth(then: float, now: float, is_found: bool) -> None:
    layers = {"act": LayerInfo("act", "MultiheadAttention", "attention", 0)}

    def rows(entropy: float) -> AttentionEntropy:
        """The other head stays as it is."""
        count = torch.tensor([100, 100])
        return AttentionEntropy(count, torch.tensor([0.9, entropy]).double() * 100, torch.tensor([0, 0]))

    visits = [snapshot(step, layers, probe=rows(then if step == 0 else now)) for step in range(4)]
    findings = diagnose(visits).findings
    assert [finding.rule for finding in findings] == (["ND203"] if is_found else [])
    if findings:
        assert (findings[0].evidence["head"], findings[0].evidence["heads_collapsed"]) == (1, 1)


def test_a_reason_is_given_for_what_was_not_seen() -> None:
    gaps = {Gap("act", "input", "probe"): "nested tensor"}
    report = diagnose([Snapshot(0, "live", rectifier(), {}, gaps)])
    entry = report.coverage.of("act", "saturation")
    assert entry is not None
    assert (entry.status, entry.reason) == ("not observed", "nested tensor")


def every_finding() -> list[Finding]:
    runs = [early("tanh", 3.0), driven(1.0), half_dead(24), half_dead(64), sharpened("packed", 2)]
    return [f for run in runs for f in run.findings().values() if f.measure == "saturation"]


def test_every_recommendation_says_how_to_see_that_it_worked() -> None:
    found = every_finding()
    assert {finding.rule for finding in found} == {"ND201", "ND202", "ND203"}
    for finding in found:
        assert "It worked when `nndiag/saturation/" in finding.recommendation
