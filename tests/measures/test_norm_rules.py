"""Norm rules on made-up readings: severities, guards, and words that a person can act on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from nndiag.findings import Reading, Scalar
from nndiag.layers import LayerInfo
from nndiag.measures import RULES
from nndiag.rules import Abstention, Case, History, Verdict, View

Facts = dict[str, Scalar]


def judge(
    rule_id: str, visits: Sequence[Sequence[Reading]], layer: str | None = "norm"
) -> Verdict | Abstention | None:
    """The verdict after the last visit; the advice is written too, so that no word is missing."""
    history, rule = History(), RULES[rule_id]
    for readings in visits:
        step = max(reading.step for reading in readings)
        history.add(step, {"norm": LayerInfo("norm", "BatchNorm1d", "norm", 3)}, readings)
    verdict = rule.judge(View(history, rule.measure, layer, rule.threshold))
    if isinstance(verdict, Verdict):
        places = verdict.places or ((layer,) if layer else ())
        advice = rule.advise(Case(places, (verdict,), history.step, 0))
        assert "It worked when" in advice.recommendation
        assert "None" not in advice.message
    return verdict


def severity(verdict: Verdict | Abstention | None) -> str | None:
    if isinstance(verdict, Abstention):
        return "abstains"
    return None if verdict is None else str(verdict.severity)


def of(name: str, value: float, step: int = 60, layer: str | None = "norm", **fields: Any) -> Reading:
    return Reading("norm_drift", name, layer, step, value, **fields)


def icc(value: float, z: float = 50.0, step: int = 60) -> Reading:
    return of("input_icc", value, step, None, detail={"z": z, "batch_size": 64.0})


def distance(value: float, *, floor: float = 0.0005, **changes: Scalar) -> Reading:
    facts: Facts = {"typical": value, "momentum": 0.001, "tracked": 100, "compared": "means", "channels": 8}
    facts |= {"batch_distance": value, "batch_floor": 0.01, "batch_size": 64.0} | changes
    return of("running_distance", value, resolution=floor, n=128, detail=facts)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (distance(0.004), None),
        (distance(0.006), "info"),
        (distance(0.03), "warning"),
        (distance(0.06), "critical"),
        (distance(0.03, floor=0.02), "info"),
        (distance(0.06, typical=0.001), "info"),
        (distance(0.06, batch_distance=0.002), "info"),
        (distance(0.06, batch_distance=0.0, batch_size=2.0), "critical"),
        (distance(float("nan")), None),
    ],
    ids=[
        "healthy",
        "small",
        "stale",
        "worthless",
        "noisy",
        "few channels",
        "old probe",
        "tiny batches",
        "nan",
    ],
)
def test_running_distance(reading: Reading, expected: str | None) -> None:
    assert severity(judge("ND401", [[reading]])) == expected


def test_few_unlike_batches_are_no_population() -> None:
    assert severity(judge("ND401", [[distance(0.06), icc(0.3)]])) == "info"
    assert severity(judge("ND401", [[distance(0.06), icc(0.3, z=2.0)]])) == "critical"
    assert severity(judge("ND401", [[distance(0.06), icc(-0.2)]])) == "critical"


def z2(
    values: Sequence[float], effect: float = 0.03, size: float = 64.0, near: float = 0.0
) -> list[list[Reading]]:
    facts: Facts = {"batch_size": size, "batch_distance": effect, "momentum": 0.1}
    return [[of("batch_z2", v, step, detail=facts), icc(near, step=step)] for step, v in enumerate(values)]


@pytest.mark.parametrize(
    ("visits", "expected"),
    [
        (z2([1.0] * 8), None),
        (z2([9.0] * 3), None),
        (z2([9.0] * 4), "warning"),
        (z2([0.9] * 7 + [60.0]), None),
        (z2([9.0] * 8, effect=0.001), None),
        (z2([9.0] * 8, effect=0.015), "info"),
        (z2([9.0] * 8, size=2.0), "info"),
        (z2([9.0] * 8, near=0.3), "info"),
        (z2([9.0] * 20 + [1.0] * 8), None),
    ],
    ids=["healthy", "early", "far", "one spike", "exact", "near", "two samples", "unlike", "over"],
)
def test_batches_against_running(visits: list[list[Reading]], expected: str | None) -> None:
    assert severity(judge("ND402", visits)) == expected


def gap(value: float, noise: float, values: float, stale: float | None, floor: float = 0.0005) -> Reading:
    facts: Facts = {"distance": stale, "resolution": floor, "stalest": "norm", "fewest": "norm"}
    facts |= {"values_per_statistic": values, "noise_share": noise, "mismatch": 0.2}
    return of("train_eval_gap", value, layer=None, n=128, detail=facts)


@pytest.mark.parametrize(
    ("reading", "stale", "noisy"),
    [
        (gap(0.003, 0.02, 64, 0.0005), None, None),
        (gap(0.3, 0.5, 64, 0.1), "warning", None),
        (gap(0.3, 0.5, 4, 0.1), "warning", None),
        (gap(0.03, 0.4, 4, 0.001), None, "warning"),
        (gap(0.03, 0.4, 4, None), None, "warning"),
        (gap(0.03, 0.15, 4, 0.001), None, "info"),
        (gap(0.03, 0.4, 256, 0.001), None, None),
        (gap(0.06, 0.4, 2, 0.025, floor=0.009), None, "warning"),
        (gap(0.3, 0.5, 64, 0.001), None, None),
    ],
)
def test_gap_is_put_down_to_staleness_or_to_noise(
    reading: Reading, stale: str | None, noisy: str | None
) -> None:
    assert severity(judge("ND403", [[reading]], None)) == stale
    assert severity(judge("ND404", [[reading]], None)) == noisy


def compared(labels: float | None, near: float, layers: str = "norm", worst: float = 20.0) -> list[Reading]:
    found = [of("batches_compared", 20, layer=None, detail={"layers": layers, "worst_z2": worst}), icc(near)]
    facts: Facts = {"classes_in_a_batch": 2.0, "freedom": 100}
    return found if labels is None else [*found, of("label_dispersion", labels, layer=None, detail=facts)]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        (compared(1.0, 0.0), None),
        (compared(0.0, -0.02), None),
        (compared(9.0, 0.2), "warning"),
        (compared(9.0, 0.2, layers=""), "info"),
        (compared(1.0, 0.4), "info"),
        (compared(None, 0.4), "warning"),
        (compared(None, 0.4, worst=1.0), "info"),
        (compared(None, 0.4, layers=""), "info"),
        (compared(None, 0.1), "info"),
    ],
)
def test_likeness_of_batches(readings: list[Reading], expected: str | None) -> None:
    assert severity(judge("ND405", [readings], None)) == expected


def gain(
    value: float, top: float, step: int, *, size: int = 64, entry: bool = False, **more: Scalar
) -> Reading:
    facts: Facts = {
        "scales": value,
        "offsets": 0.1,
        "reach": value,
        "top_share": top,
        "top_features": "5, 1, 2",
    }
    facts |= {"constant": 0, "features": size, "reads_input": entry} | more
    return of("signal_gain", value, step, n=128, detail=facts)


@pytest.mark.parametrize(
    ("visits", "expected"),
    [
        ([gain(0.4, 0.1, 0, entry=True)], "warning"),
        ([gain(0.1, 0.1, 0, entry=True)], "critical"),
        ([gain(0.1, 0.1, 0, entry=True, reach=0.8)], None),
        ([gain(0.48, 0.87, 0, entry=True, size=8)], "warning"),
        ([gain(0.8, 0.2, 0, entry=True, size=8)], None),
        ([gain(0.4, 0.05, 0)], "abstains"),
        ([gain(0.4, 0.05, 0), gain(0.39, 0.05, 60)], "warning"),
        ([gain(0.4, 0.05, 0, scales=0.9), gain(0.39, 0.05, 60, scales=0.9)], None),
        ([gain(0.4, 0.05, 0, scales=0.9), gain(0.39, 0.05, 60)], None),
        ([gain(0.4, 0.5, 0), gain(0.39, 0.5, 60)], "warning"),
        ([gain(0.4, 0.5, 0), gain(0.39, 0.5, 10)], "abstains"),
        ([gain(0.0, 0.0, 0, constant=64), gain(0.0, 0.0, 60, constant=64)], None),
        ([gain(0.9, 0.05, 0), gain(0.4, 0.1, 60)], "warning"),
        ([gain(0.9, 0.05, 0), gain(0.4, 0.5, 60)], "info"),
        ([gain(0.9, 0.6, 0, size=2), gain(0.4, 0.8, 60, size=2)], "info"),
        ([gain(0.9, 0.05, 0), gain(0.5, 0.1, 60)], None),
    ],
)
def test_unlike_features(visits: list[Reading], expected: str | None) -> None:
    assert severity(judge("ND408", [[visit] for visit in visits])) == expected


@pytest.mark.parametrize(
    ("rate", "decay", "losses", "expected"),
    [
        (0.5, 0.0, (2.3, 0.1), None),
        (0.2, 0.0, (2.3, 0.1), "info"),
        (0.05, 0.0, (2.3, 0.1), "info"),
        (0.05, 0.0, (2.3, 2.0), "warning"),
        (0.05, 1e-4, (2.3, 2.0), None),
        (0.05, None, (2.3, 2.0), None),
    ],
)
def test_effective_rate(
    rate: float, decay: float | None, losses: tuple[float, float], expected: str | None
) -> None:
    facts: Facts = {"growth": 4.0, "why": "a normalization follows"}
    visits = []
    for step, loss in ((0, losses[0]), *((step, losses[1]) for step in range(60, 70))):
        readings = [of("effective_rate", rate, step, detail=facts), Reading("run", "loss", None, step, loss)]
        if decay is not None:
            readings.append(Reading("run", "weight_decay", None, step, decay))
        visits.append(readings)
    assert severity(judge("ND409", visits)) == expected


def scale(log: float, share: float, step: int) -> list[Reading]:
    return [of("log_scale", log, step, detail={"spread": 0.1, "zero": 0}), of("eps_share", share, step)]


@pytest.mark.parametrize(
    ("visits", "expected"),
    [
        ([scale(0, 0.001, 0), scale(1, 0.001, 60)], None),
        ([scale(0, 0.001, 0), scale(3, 0.001, 60)], "info"),
        ([scale(0, 0.001, 0), scale(-3, 0.3, 60)], "warning"),
        ([scale(-5, 0.5, 0)], None),
        ([scale(-5, 0.5, 0), scale(-5, 0.5, 30)], "warning"),
    ],
)
def test_scale_that_is_divided_by(visits: list[list[Reading]], expected: str | None) -> None:
    assert severity(judge("ND410", visits)) == expected


def test_causes_name_their_consequences() -> None:
    assert {"ND402", "ND403"} <= set(RULES["ND401"].explains)
    assert {"ND401", "ND402", "ND403", "ND404"} <= set(RULES["ND405"].explains)
    assert "ND401" in RULES["ND407"].explains


@pytest.mark.parametrize(
    ("momentum", "tracked", "step", "expected"),
    [
        (0.01, 100, 100, "info"),  # 37% of the start is left, and less each step
        (0.01, 60, 60, "critical"),  # more than half is left
        (0.0001, 250, 250, "critical"),
        (0.01, 100, 400, "critical"),  # set back on the way
        (0.1, 100, 100, "critical"),  # nothing is left: it is not the warm-up
    ],
)
def test_an_average_on_its_way_is_a_note(momentum: float, tracked: int, step: int, expected: str) -> None:
    reading = replace(distance(0.2, momentum=momentum, tracked=tracked), step=step)
    assert severity(judge("ND401", [[reading]])) == expected


def counted(counts: Sequence[float], mismatch: float) -> list[list[Reading]]:
    facts: Facts = {
        "training": True,
        "trained_at_first_visit": True,
        "trainable": True,
        "input_trainable": True,
    }
    facts |= {"momentum": 0.1, "untouched": False, "moved": 0.1, "still": False}
    shown: Facts = {"mismatch": mismatch}
    return [
        [
            of("batches_tracked", value, 60 + step, detail=facts | {"tracked": value}),
            of("train_eval_gap", 0.5, 60 + step, None, detail=shown),
        ]
        for step, value in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("counts", "mismatch", "expected"),
    [
        ([60, 61, 62], 0.8, None),
        ([60, 5, 6], 0.8, "warning"),
        ([60, 5, 6], 0.1, "info"),
        ([60, 5, 6, 7, 8, 9, 10, 11, 12, 13], 0.8, None),
    ],
    ids=["counts on", "set back", "harmless", "long ago"],
)
def test_statistics_that_are_set_back(counts: Sequence[float], mismatch: float, expected: str | None) -> None:
    assert severity(judge("ND407", counted(counts, mismatch))) == expected


@pytest.mark.parametrize(("updates", "expected"), [(1.0, "warning"), (None, None)], ids=["called", "a copy"])
def test_a_frozen_copy_that_training_does_not_call(updates: float | None, expected: str | None) -> None:
    facts: Facts = {
        "training": True,
        "trained_at_first_visit": True,
        "trainable": False,
        "input_trainable": False,
    }
    facts |= {"momentum": 0.1, "tracked": 9, "untouched": False, "moved": 0.3, "still": False}
    if updates is not None:
        facts["updates_per_batch"] = updates
    assert severity(judge("ND407", [[of("batches_tracked", 9.0, detail=facts)]])) == expected


@pytest.mark.parametrize(
    ("mismatch", "step", "expected"), [(0.7, 61, "warning"), (0.1, 61, "info"), (0.7, 31, "info")]
)
def test_batches_of_unlike_inputs_count_where_evaluation_is_wrong(
    mismatch: float, step: int, expected: str
) -> None:
    shown: Facts = {"mismatch": mismatch}
    readings = [
        of("batches_compared", 40, 100, None, detail={"layers": "norm", "worst_z2": 900.0}),
        of("label_dispersion", 0.9, 100, None, detail={"classes_in_a_batch": 10.0, "freedom": 300}),
        Reading("norm_drift", "input_icc", None, 100, 0.8, detail={"z": 900.0, "batch_size": 64.0}),
    ]
    visits = [[of("train_eval_gap", 0.1, step, None, detail=shown)], readings]
    assert severity(judge("ND405", visits, None)) == expected


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"momentum": 0.001}, "Raise the momentum"),
        ({"momentum": 0.1, "batch_distance": 0.0}, "acts in training only"),
        ({"momentum": 0.1}, "shuffle the training data"),
        ({"momentum": 0.1, "batch_distance": None}, "shuffle the training data"),
    ],
)
def test_stale_statistics_have_several_causes(changes: Facts, cause: str) -> None:
    assert cause in advised("ND401", [distance(0.06, **changes)])


def test_statistics_of_several_places_are_told_by_the_samples() -> None:
    probed = Reading("run", "probe_samples", None, 60, 64.0)
    assert "2 times, in different places" in advised("ND401", [distance(0.06, momentum=0.1), probed])
    probed = replace(probed, value=128.0)
    assert "different places" not in advised("ND401", [distance(0.06, momentum=0.1), probed])


def advised(rule_id: str, readings: Sequence[Reading]) -> str:
    """The recommendation after a single visit."""
    verdict = judge(rule_id, [readings])
    assert isinstance(verdict, Verdict)
    return RULES[rule_id].advise(Case(("norm",), (verdict,), 60, 0)).recommendation


def setting(**changes: Scalar) -> Reading:
    """A layer in training mode whose statistics are its initial ones."""
    facts: Facts = {
        "training": True,
        "trained_at_first_visit": True,
        "trainable": True,
        "input_trainable": None,
    }
    facts |= {"momentum": 0.1, "tracked": 0, "untouched": True, "moved": 0.0, "still": True}
    return of("batches_tracked", 0.0, detail=facts | changes)


@pytest.mark.parametrize(
    ("silent", "is_called", "fault"),
    [(1.0, False, "never used"), (1.0, True, "never updated"), (0.0, False, "never updated")],
)
def test_a_layer_that_nothing_passes_is_told_from_one_that_is_not_updated(
    silent: float, is_called: bool, fault: str
) -> None:
    readings = [setting(), Reading("gradient_flow", "silent_share", "norm", 60, silent)]
    readings += [of("values_per_statistic", 64.0)] if is_called else []
    verdict = judge("ND407", [readings])
    assert isinstance(verdict, Verdict)
    assert (verdict.evidence["fault"], severity(verdict)) == (fault, "warning")
    assert "ND311" in RULES["ND407"].spares(verdict.evidence)


def test_only_what_changes_the_training_pass_explains_what_happens_in_it() -> None:
    verdict = judge("ND407", [[setting(training=False, still=False)]])
    assert isinstance(verdict, Verdict)
    assert verdict.evidence["fault"] == "evaluates its initial values"
    assert {"ND101", "ND202", "ND311"} <= set(RULES["ND407"].explains)
    assert not RULES["ND407"].spares(verdict.evidence)
