"""What every registered measure owes: merge law, permutation, empty input, bf16, resume, its page, its rules."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.diagnosis import Diagnosis, diagnose
from nndiag.findings import CoverageEntry, Finding, Reading, Severity
from nndiag.ledger import _group
from nndiag.measures import MEASURES, RULES, Measure, Need, Visit
from nndiag.options import Selection
from nndiag.rules import History, Persistence
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import Histogram, Statistic

from .runs import Batch, Run, batches, classify, prototypes, watch

PAGES = Path(__file__).parents[2] / "docs" / "measures"
CATALOGUE = frozenset(
    f"ND{first + offset}"
    for first, count in (
        (101, 2),
        (201, 3),
        (301, 4),
        (311, 3),
        (401, 10),
        (501, 4),
        (601, 6),
        (701, 1),
        (901, 3),
    )
    for offset in range(count)
)
"""The ids of the design; new ones may be appended."""


class Variety(nn.Module):
    """A layer of each kind that some measure speaks about."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mix, self.ln, self.act = nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh()
        self.attention, self.drop = nn.MultiheadAttention(16, 2, batch_first=True), nn.Dropout(0.2)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.conv(x.view(-1, 1, 8, 8)))).mean(3).transpose(1, 2)
        h = self.act(self.ln(self.mix(h)))
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head(self.drop(h.mean(1)))


@functools.cache
def varied(dtype: torch.dtype = torch.float32) -> Run:
    torch.manual_seed(0)
    model = Variety().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches(6)]
    return watch(model, data, optimizer=torch.optim.SGD(model.parameters(), lr=0.05))


def snapshots(run: Run) -> list[Snapshot]:
    return [update.snapshot for update in run.updates if update.snapshot is not None]


def readings(name: str, visits: Iterable[Snapshot]) -> list[Reading]:
    """Everything one measure reads over a run."""
    diagnosis = Diagnosis(Selection(measures=(name,)))
    return [r for visit in visits for r in diagnosis.add(visit).readings if r.measure == name]


each_measure = pytest.mark.parametrize("name", MEASURES)
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@each_measure
def test_it_reads_something(name: str) -> None:
    assert readings(name, snapshots(varied()))


@each_measure
def test_a_loaded_snapshot_gives_the_same(name: str, tmp_path: Path) -> None:
    visits = snapshots(varied())
    for number, visit in enumerate(visits):
        visit.save(tmp_path / f"{number}.safetensors")
    loaded = [Snapshot.load(tmp_path / f"{number}.safetensors") for number in range(len(visits))]
    before, after = (diagnose(series, Selection(measures=(name,))) for series in (visits, loaded))
    assert [r.to_dict() for r in after.readings] == [r.to_dict() for r in before.readings]
    assert [f.to_dict() for f in after.findings] == [f.to_dict() for f in before.findings]
    assert after.coverage == before.coverage


@each_measure
def test_it_is_pure(name: str) -> None:
    visits = snapshots(varied())
    assert [r.to_dict() for r in readings(name, visits)] == [r.to_dict() for r in readings(name, visits)]


@each_measure
@pytest.mark.parametrize("source", ["live", "checkpoint"])
@pytest.mark.parametrize("has_layers", [True, False])
def test_empty_input(name: str, source: str, has_layers: bool) -> None:
    """Nothing was seen: no layer is accused, and each is accounted for."""
    layers = snapshots(varied())[-1].layers if has_layers else {}
    empty = Snapshot(7, source, layers, {})  # type: ignore[arg-type]
    items = list(MEASURES[name].read(Visit(empty, empty)))
    entries = [item for item in items if isinstance(item, CoverageEntry)]
    assert all(item.layer is None for item in items if isinstance(item, Reading))
    assert all(entry.status != "measured" and entry.reason and entry.measure == name for entry in entries)
    report = diagnose([empty], Selection(measures=(name,)))
    assert [f for f in report.findings if f.severity.rank > 0] == []


@each_measure
def test_every_layer_is_accounted_for(name: str) -> None:
    if name == "coverage":
        pytest.skip("it speaks of the run")
    entries = {entry.layer for entry in varied().report.coverage if entry.measure == name}
    per_layer = {r.layer for r in readings(name, snapshots(varied())) if r.layer is not None}
    if per_layer:
        assert set(varied().updates[-1].layers) <= entries


@each_measure
def test_bf16_reads_the_same_things(name: str) -> None:
    """The names and layers of readings do not depend on the precision, and all numbers are numbers."""
    single, half = (readings(name, snapshots(varied(dtype))) for dtype in (torch.float32, torch.bfloat16))
    assert {(r.name, r.layer) for r in half} == {(r.name, r.layer) for r in single}
    assert not any(math.isnan(r.value) for r in half)


def test_bf16_is_as_healthy() -> None:
    assert varied(torch.bfloat16).alarms() == varied().alarms()


@each_measure
def test_readings_are_well_formed(name: str) -> None:
    for reading in readings(name, snapshots(varied())):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", reading.name)
        assert reading.tag == f"nndiag/{name}/{reading.name}"
        assert isinstance(reading.value, float)
        assert reading.resolution is None or reading.resolution > 0
        assert reading.n is None or reading.n > 0
        assert all(isinstance(v, (float, int, str, bool, type(None))) for v in reading.detail.values())


@each_measure
def test_no_verdict_reads_a_histogram(name: str) -> None:
    visits = snapshots(varied())
    assert any(isinstance(s, Histogram) for visit in visits for s in visit.statistics.values())
    bare = [
        replace(v, statistics={k: s for k, s in v.statistics.items() if not isinstance(s, Histogram)})
        for v in visits
    ]
    assert [r.to_dict() for r in readings(name, bare)] == [r.to_dict() for r in readings(name, visits)]


class Permutable(nn.Module):
    """Two hidden layers whose units can be put in another order."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.fc1, self.ln, self.fc2, self.head = (
            nn.Linear(64, 24),
            nn.LayerNorm(24),
            nn.Linear(24, 24),
            nn.Linear(24, 10),
        )
        with torch.no_grad():
            self.fc1.weight[5], self.fc1.bias[5] = self.fc1.weight[3], self.fc1.bias[3]
            self.fc2.weight[:, 5] = self.fc2.weight[:, 3]
            self.fc2.bias[:20] = -50
            self.fc1.weight.copy_(self.fc1.weight[order])
            self.fc1.bias.copy_(self.fc1.bias[order])
            self.fc2.weight.copy_(self.fc2.weight[order][:, order])
            self.fc2.bias.copy_(self.fc2.bias[order])
            self.head.weight.copy_(self.head.weight[:, order])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc2(torch.tanh(self.ln(self.fc1(x))))))


@functools.cache
def ordered(seed: int | None) -> Run:
    order = (
        torch.arange(24)
        if seed is None
        else torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    )
    torch.manual_seed(0)
    return watch(Permutable(order), batches(5, size=256))


@each_measure
def test_the_order_of_units_does_not_matter(name: str) -> None:
    plain, other = (readings(name, snapshots(ordered(seed))) for seed in (None, 5))
    assert [(r.name, r.layer, r.step) for r in plain] == [(r.name, r.layer, r.step) for r in other]
    # float32 gradients summed in another order
    assert [r.value for r in plain] == pytest.approx(
        [r.value for r in other], rel=5e-3, abs=1e-6, nan_ok=True
    )
    found = [(f.rule, f.severity, f.layers) for f in ordered(None).findings().values() if f.measure == name]
    assert found == [
        (f.rule, f.severity, f.layers) for f in ordered(5).findings().values() if f.measure == name
    ]


def test_the_permuted_network_is_sick() -> None:
    assert {"ND202", "ND301"} <= set(ordered(None).findings())


def summed(model: nn.Module, batch: Batch) -> Tensor:
    """Each sample's gradient is the same in any batch."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def first_look(batch: Batch) -> Snapshot:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    return snapshots(watch(model, [batch], summed, probe_samples=len(batch[0])))[0]


@functools.cache
def halves() -> tuple[Snapshot, Snapshot]:
    """What was seen of a batch, and of its halves, merged. Parameters are no sample: those of the whole stand."""
    x, y = prototypes(64)
    whole, a, b = first_look((x, y)), first_look((x[:32], y[:32])), first_look((x[32:], y[32:]))
    assert a.statistics.keys() == b.statistics.keys() == whole.statistics.keys()

    def merged(key: Key, statistic: Statistic) -> Statistic:
        return statistic if key.observer == "weights" else a.statistics[key].merge(b.statistics[key])

    return whole, replace(whole, statistics={k: merged(k, s) for k, s in whole.statistics.items()})


@each_measure
def test_halves_merged_read_as_the_whole(name: str) -> None:
    whole, merged = (readings(name, [snapshot]) for snapshot in halves())
    assert [(r.name, r.layer, r.n) for r in merged] == [(r.name, r.layer, r.n) for r in whole]
    assert [r.value for r in merged] == pytest.approx(
        [r.value for r in whole], rel=1e-4, abs=1e-7, nan_ok=True
    )


@each_measure
def test_its_page_exists_and_lists_its_readings(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    runs: list[Callable[[], Run]] = [varied, lambda: ordered(None)]
    for reading in {r.name for run in runs for r in readings(name, snapshots(run()))}:
        assert f"`{reading}`" in page, f"{reading} is missing in docs/measures/{name}.md"
    for rule in MEASURES[name].rules:
        assert rule.id in page
        assert rule.name in page


@each_measure
def test_measures_declare_what_they_are(name: str) -> None:
    measure: Measure = MEASURES[name]
    assert re.fullmatch(r"[a-z_]+", measure.name)
    assert measure.name == name
    assert measure.summary.endswith(".")
    assert measure.needs <= set(Need)
    assert measure.rules
    assert all(rule.measure == name for rule in measure.rules)


@each_measure
def test_it_reads_only_what_it_asked_for(name: str) -> None:
    """Alone, a measure sees what its needs bring: it must read the same as in company."""
    torch.manual_seed(0)
    model = Variety()
    alone = watch(
        *(model, batches(6), classify, torch.optim.SGD(model.parameters(), lr=0.05)), measures=(name,)
    )
    together = readings(name, snapshots(varied()))
    seen = readings(name, snapshots(alone))
    assert {(r.name, r.layer, r.step) for r in seen} == {(r.name, r.layer, r.step) for r in together}


def test_ids_are_unique() -> None:
    ids = [rule.id for measure in MEASURES.values() for rule in measure.rules]
    assert len(ids) == len(set(ids)) == len(RULES)
    names = [rule.name for rule in RULES.values()]
    assert len(names) == len(set(names))


@each_rule
def test_rules_are_complete(rule) -> None:
    assert re.fullmatch(r"ND\d{3}", rule.id)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert rule.persistence in get_args(Persistence)
    assert 10 < len(rule.summary) < 110
    assert not rule.summary.endswith(".")
    assert math.isfinite(rule.threshold)
    assert (rule.judge.__doc__ or rule.summary).strip()


@each_rule
def test_rules_explain_known_rules_only(rule) -> None:
    assert set(rule.explains) <= CATALOGUE | set(RULES)
    assert rule.id not in rule.explains
    assert len(set(rule.explains)) == len(rule.explains)


def told(rule: str) -> Finding:
    """A finding of the whole run, since the step that all of them began at."""
    return Finding(rule, "", "", Severity.WARNING, (), 3, None, 5, "active", 1.0, 1.0, "", "")


@each_rule
def test_rules_that_explain_each_other_are_both_told(rule) -> None:
    """They may, and then one is the cause: none may be lost in the circle."""
    for other in (RULES[symptom] for symptom in rule.explains if symptom in RULES):
        tops = _group([told(rule.id), told(other.id)], History(), frozenset())
        assert [finding.rule for top in tops for finding in top.walk()] == [rule.id, other.id]


def test_all_rules_at_once_are_all_told() -> None:
    tops = _group([told(rule) for rule in RULES], History(), frozenset())
    assert sorted(finding.rule for top in tops for finding in top.walk()) == sorted(RULES)


@each_rule
def test_rules_that_drift_need_two_of_three_visits(rule) -> None:
    """ND1, ND2, ND4 and ND6 but for ND604; static rules and step-0 rules speak at once."""
    if rule.id[2] == "3" and rule.id != "ND304":
        assert rule.persistence == "at once"
    if rule.id[2] in "12":
        assert rule.persistence == "two of three"


def test_every_finding_has_advice() -> None:
    found = [f for run in (ordered(None), varied()) for f in run.findings().values()]
    assert found
    for finding in found:
        assert finding.message.strip().endswith((".", ")"))
        assert finding.recommendation.strip()
        assert "nan" not in finding.message
        assert finding.severity in Severity
        assert finding.name == RULES[finding.rule].name
