"""What TensorBoard reads back of a run."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from report.samples import HOSTILE, finding, is_inert
from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator, tag_types
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader, LegacyEventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

import nndiag
from nndiag.findings import Severity
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.sinks import TensorBoardSink, own_writer
from nndiag.sinks.tensorboard import MAX_HISTOGRAMS, MAX_SCALARS, TEXT_TAG, stable_tag
from nndiag.snapshot import Key, Snapshot
from nndiag.statistics import Histogram
from sinks.runs import VISITS, reading, update, watched

PLAIN_TAG = re.compile(r"[A-Za-z0-9_./:#-]{1,200}")


def event_files(directory: Path) -> list[Path]:
    """Event files below a directory."""
    return sorted(directory.rglob("*tfevents*"))


def raw_events(directory: Path) -> list[Any]:
    """Every event with a summary, as it was written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            event
            for path in event_files(directory)
            for event in LegacyEventFileLoader(str(path)).Load()
            if event.HasField("summary")
        ]


def tags_of(directory: Path, field: str) -> Counter[str]:
    """How often each tag of one kind was written."""
    return Counter(
        value.tag for event in raw_events(directory) for value in event.summary.value if value.HasField(field)
    )


def loaded(directory: Path) -> Any:
    """The directory as TensorBoard's server loads it, every sample kept."""
    accumulator = plugin_event_accumulator.EventAccumulator(str(directory), {tag_types.TENSORS: 0})
    accumulator.Reload()
    return accumulator


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag."""
    accumulator, found = loaded(directory), {}
    for tag in accumulator.Tags()["tensors"]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            events = accumulator.Tensors(tag)
            found[tag] = [(event.step, make_ndarray(event.tensor_proto).item()) for event in events]
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nndiag.Report]:
    """The directory of a finished run, and its report."""
    directory = tmp_path_factory.mktemp("run")
    return directory, watched(directory).report


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[TensorBoardSink]:
    """A sink with a writer of its own in ``tmp_path / "nndiag"``."""
    made = TensorBoardSink(own_writer(tmp_path))
    yield made
    made.close(Report.empty())


# --- a whole run ----------------------------------------------------------------------------------------------


def test_one_event_a_visit(run: tuple[Path, nndiag.Report]) -> None:
    after = VISITS[-1] + 1  # the report as it ended
    assert [event.step for event in raw_events(run[0])] == [*VISITS, after]
    assert len(event_files(run[0])) == 1
    assert event_files(run[0])[0].parent == run[0] / "nndiag"


def test_few_scalars_and_each_at_every_visit(run: tuple[Path, nndiag.Report]) -> None:
    found = scalars(run[0] / "nndiag")
    assert 5 < len(found) <= MAX_SCALARS == 60
    assert all(tag.startswith("nndiag_summary/") and PLAIN_TAG.fullmatch(tag) for tag in found)
    for points in found.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))
        assert set(steps) <= set(VISITS)
    assert [step for step, _ in found["nndiag_summary/saturation/saturated"]] == VISITS


def test_scalars_are_those_of_the_report(run: tuple[Path, nndiag.Report]) -> None:
    found, report = scalars(run[0] / "nndiag"), run[1]
    worst = max(r.value for r in report.readings if (r.measure, r.name) == ("saturation", "saturated"))
    assert found["nndiag_summary/saturation/saturated"][-1] == (VISITS[-1], pytest.approx(worst, rel=1e-6))
    for severity in Severity:
        count = sum(f.is_active and f.severity is severity for f in report.findings)
        assert found[f"nndiag_summary/findings_{severity}"][-1] == (VISITS[-1], count)
    assert found["nndiag_summary/findings_critical"][-1][1] >= 1


def test_the_report_is_under_text(run: tuple[Path, nndiag.Report]) -> None:
    accumulator = loaded(run[0] / "nndiag")
    assert TEXT_TAG.endswith("/text_summary")
    assert accumulator.SummaryMetadata(TEXT_TAG).plugin_data.plugin_name == "text"
    texts = accumulator.Tensors(TEXT_TAG)
    assert 1 <= len(texts) < len(VISITS)
    [markdown] = texts[-1].tensor_proto.string_val
    text = markdown.decode()
    assert text.startswith("# nndiag: ")
    assert "## ■ critical: saturated-activation (ND201)" in text
    assert "| evidence | value |" in text


def test_histograms_only_where_something_is_wrong(run: tuple[Path, nndiag.Report]) -> None:
    named = {
        layer for top in run[1].findings for each in top.walk() if each.is_active for layer in each.layers
    }
    found = tags_of(run[0], "histo")
    assert "nndiag_inputs/1" in found  # the tanh that reads layer 0
    assert "0" in named
    places = {"nndiag_inputs/1": "0", "nndiag_inputs/3": "2"}
    assert {places[tag] for tag in found} <= named
    assert found["nndiag_inputs/1"] == len(VISITS)  # a note names its layer from the first visit on


def test_loaders_agree_with_what_was_written(run: tuple[Path, nndiag.Report]) -> None:
    """TensorBoard rewrites old events while loading; each value must survive with its kind of data."""
    old = event_accumulator.EventAccumulator(str(run[0] / "nndiag"), {tag_types.SCALARS: 0})
    old.Reload()
    points = {tag: [(point.step, point.value) for point in old.Scalars(tag)] for tag in old.Tags()["scalars"]}
    assert points == scalars(run[0] / "nndiag")
    [path] = event_files(run[0])
    classes = Counter(
        value.metadata.plugin_data.plugin_name
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    )
    assert set(classes) == {
        "scalars",
        "text",
        "histograms",
        "nndiag",
        "",
    }  # described once a file: the rest ""
    assert classes["scalars"] == sum(tags_of(run[0], "simple_value").values())
    assert classes["histograms"] == sum(tags_of(run[0], "histo").values())


def test_no_second_file_beside_the_logger(tmp_path: Path) -> None:
    """With a writer given, nothing but that writer writes, and it stays open."""
    writer = SummaryWriter(str(tmp_path))
    sink = TensorBoardSink(writer)
    sink.write(update(0))
    sink.close(Report.empty())
    writer.add_scalar("train_loss", 1.0, 1)
    writer.close()
    assert len(event_files(tmp_path)) == 1
    assert {"train_loss", "nndiag_summary/saturation/saturated"} <= set(tags_of(tmp_path, "simple_value"))


# --- updates --------------------------------------------------------------------------------------------------


def test_steps_that_do_not_go_on_are_left_out(tmp_path: Path, sink: TensorBoardSink) -> None:
    for step in (0, 5, 5, 3, 6):
        sink.write(update(step))
    sink.close(Report.empty())
    assert [event.step for event in raw_events(tmp_path)] == [0, 5, 6]


def test_text_at_first_and_when_something_changed(tmp_path: Path, sink: TensorBoardSink) -> None:
    for step, changed in enumerate((False, True, False, True)):
        sink.write(update(step, changed=changed))
    sink.close(Report.empty())
    texts = [
        event.step for event in raw_events(tmp_path) for value in event.summary.value if value.tag == TEXT_TAG
    ]
    assert texts == [0, 1, 3]


def test_never_more_than_sixty_scalars(tmp_path: Path, sink: TensorBoardSink) -> None:
    for step in range(6):
        names = [f"reading{i}" for i in range(30 * step, 30 * step + 60)]
        sink.write(
            update(step, readings=tuple(reading(name=name, step=step) for name in (*names, "reading0")))
        )
    sink.close(Report.empty())
    found = tags_of(tmp_path, "simple_value")
    assert len(found) == MAX_SCALARS
    assert found["nndiag_summary/saturation/reading0"] == 6  # those that came first stay


def test_layers_do_not_multiply_tags(tmp_path: Path, sink: TensorBoardSink) -> None:
    sink.write(update(0, readings=tuple(reading(f"blocks.{i}", i / 500) for i in range(500))))
    sink.close(Report.empty())
    assert scalars(tmp_path / "nndiag")["nndiag_summary/saturation/saturated"] == [(0, pytest.approx(0.998))]
    assert len(tags_of(tmp_path, "simple_value")) == 4


def test_values_that_are_not_finite_are_left_out(tmp_path: Path, sink: TensorBoardSink) -> None:
    odd = (reading(value=float("nan")), reading(value=float("inf")), reading(name="x", value=float("nan")))
    sink.write(update(0, readings=(*odd, reading(value=0.25))))
    sink.close(Report.empty())
    found = scalars(tmp_path / "nndiag")
    assert found["nndiag_summary/saturation/saturated"] == [(0, 0.25)]
    assert "nndiag_summary/saturation/x" not in found


def test_findings_are_counted_by_severity(tmp_path: Path, sink: TensorBoardSink) -> None:
    over = finding(status="resolved", severity=Severity.CRITICAL)
    sink.write(update(0, findings=(finding(), finding(), finding(severity=Severity.INFO), over)))
    sink.close(Report.empty())
    found = scalars(tmp_path / "nndiag")
    counts = {str(severity): found[f"nndiag_summary/findings_{severity}"][0][1] for severity in Severity}
    assert counts == {"info": 1.0, "warning": 2.0, "critical": 0.0}


def test_a_new_critical_finding_is_flushed_at_once() -> None:
    flushed = 0

    class Writer:
        """Counts."""

        def _get_file_writer(self) -> Any:
            return self

        def add_summary(self, summary: object, step: int) -> None:
            pass

        def flush(self) -> None:
            nonlocal flushed
            flushed += 1

    sink, counts = TensorBoardSink(Writer()), []
    critical = finding(severity=Severity.CRITICAL)
    other = finding(severity=Severity.CRITICAL, rule="ND202")
    found = ((), (finding(),), (critical,), (critical,), (critical, other), (), (finding(related=(other,)),))
    for step, findings in enumerate(found):
        sink.write(update(step, findings=findings))
        counts.append(flushed)
    assert counts == [0, 0, 1, 1, 2, 2, 3]


# --- histograms -----------------------------------------------------------------------------------------------


def with_histograms(names: list[str], findings: tuple[Any, ...], x: torch.Tensor | None = None) -> Any:
    """An update whose snapshot holds the inputs of activations behind layers of the same names."""
    x = torch.linspace(-3, 5, 400).reshape(100, 1, 4) if x is None else x
    layers, statistics = {}, {}
    for depth, name in enumerate(names):
        layers[f"{name}:tanh"] = LayerInfo(f"{name}:tanh", "tanh", "activation", depth, source=name)
        statistics[Key(f"{name}:tanh", "input", "probe", "histogram")] = Histogram.of(x).cpu()
    snapshot = Snapshot(0, "live", layers, statistics)
    return update(0, layers=layers, findings=findings, snapshot=snapshot)


def histograms(directory: Path) -> dict[str, Any]:
    """Histograms by tag."""
    return {v.tag: v.histo for e in raw_events(directory) for v in e.summary.value if v.HasField("histo")}


def test_histograms_of_named_layers_alone(tmp_path: Path, sink: TensorBoardSink) -> None:
    symptom, over = finding(("b",)), finding(("c",), status="resolved")
    sink.write(with_histograms(["a", "b", "c", "d"], (finding(("a",), related=(symptom,)), over)))
    sink.close(Report.empty())
    assert set(histograms(tmp_path)) == {"nndiag_inputs/a:tanh", "nndiag_inputs/b:tanh"}


def test_counts_are_right(tmp_path: Path, sink: TensorBoardSink) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, 8, generator=generator) * 3 + 1
    sink.write(with_histograms(["a"], (finding(("a",)),), x))
    sink.close(Report.empty())
    histogram = histograms(tmp_path)["nndiag_inputs/a:tanh"]
    values, limits = x.flatten().double(), list(histogram.bucket_limit)
    assert len(limits) == len(histogram.bucket)
    assert limits == sorted(set(limits))
    assert histogram.num == sum(histogram.bucket) == 400
    assert (histogram.min, histogram.max) == (values.min().item(), values.max().item())
    assert histogram.sum == pytest.approx(values.sum().item())
    assert histogram.sum_squares == pytest.approx(values.square().sum().item())
    assert histogram.bucket[0] > 0
    assert histogram.bucket[-1] > 0
    assert limits[0] >= histogram.min
    assert limits[-1] >= histogram.max
    for limit, count in zip(limits, torch.tensor(histogram.bucket).cumsum(0).tolist(), strict=True):
        assert count == (values < limit).sum().item()


def test_tensorboard_keeps_every_count(tmp_path: Path, sink: TensorBoardSink) -> None:
    sink.write(with_histograms(["a"], (finding(("a",)),)))
    sink.close(Report.empty())
    accumulator = loaded(tmp_path / "nndiag")
    [event] = accumulator.Tensors("nndiag_inputs/a:tanh")
    assert accumulator.SummaryMetadata("nndiag_inputs/a:tanh").plugin_data.plugin_name == "histograms"
    buckets = make_ndarray(event.tensor_proto)  # [buckets, (left, right, count)]
    assert buckets[:, 2].sum() == 400
    assert (buckets[:, 1] >= buckets[:, 0]).all()
    assert (buckets[0, 0], buckets[-1, 1]) == (-3.0, 5.0)


def test_an_empty_histogram_is_left_out(tmp_path: Path, sink: TensorBoardSink) -> None:
    sink.write(with_histograms(["a"], (finding(("a",)),), torch.full((3, 1, 2), float("nan"))))
    sink.close(Report.empty())
    assert histograms(tmp_path) == {}
    assert len(raw_events(tmp_path)) == 1


def test_not_too_many_histograms(tmp_path: Path, sink: TensorBoardSink) -> None:
    names = [f"blocks.{i}" for i in range(30)]
    sink.write(with_histograms(names, (finding(tuple(names)),)))
    sink.close(Report.empty())
    assert len(histograms(tmp_path)) == MAX_HISTOGRAMS == 8


def test_the_probe_comes_before_the_stream(tmp_path: Path, sink: TensorBoardSink) -> None:
    given = with_histograms(["a"], (finding(("a",)),))
    few = Histogram.of(torch.ones(1, 1, 1)).cpu()
    streamed = {Key("a:tanh", "input", "stream", "histogram"): few} | dict(given.snapshot.statistics)
    sink.write(
        update(
            0,
            layers=given.layers,
            findings=given.findings,
            snapshot=Snapshot(0, "live", given.layers, streamed),
        )
    )
    sink.close(Report.empty())
    assert histograms(tmp_path)["nndiag_inputs/a:tanh"].num == 400


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind != "nothing"])
def test_hostile_names(kind: str, tmp_path: Path, sink: TensorBoardSink) -> None:
    name = HOSTILE[kind]
    sink.write(with_histograms([name, "fc1"], (finding((name, "fc1"), message=name),)))
    bad = reading(name, measure=name, name=name)
    sink.write(update(1, readings=(bad,), findings=(finding((name,)),), changed=True))
    sink.close(Report.empty())
    tags = [value.tag for event in raw_events(tmp_path) for value in event.summary.value]
    assert all(PLAIN_TAG.fullmatch(tag) for tag in tags)
    assert len(histograms(tmp_path)) == 2
    assert len([tag for tag in tags if tag.startswith("nndiag_summary/") and "findings" not in tag]) == 2
    texts = loaded(tmp_path / "nndiag").Tensors(TEXT_TAG)
    assert all(is_inert(line) for t in texts for line in t.tensor_proto.string_val[0].decode().split("\n"))
    assert event_files(tmp_path)[0].parent == tmp_path / "nndiag"


# --- tags -----------------------------------------------------------------------------------------------------


def test_hostile_names_have_tags_of_their_own() -> None:
    tags = {kind: stable_tag(f"nndiag_inputs/{name}") for kind, name in HOSTILE.items()}
    assert len(set(tags.values())) == len(HOSTILE)
    assert all(PLAIN_TAG.fullmatch(tag) and tag.startswith("nndiag_inputs/") for tag in tags.values())


@pytest.mark.parametrize("name", ["nndiag_inputs/blocks.0.mlp:relu#1", "a/b_c-d", "x" * 200])
def test_plain_names_stay(name: str) -> None:
    assert stable_tag(name) == name


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", "a  b"), ("a b", "a_b"), ("x" * 201, "x" * 202), ("x" * 300 + "1", "x" * 300 + "2"), ("é", "ê")],
)
def test_distinct_names_have_distinct_tags(one: str, other: str) -> None:
    assert stable_tag(one) != stable_tag(other)


@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=250), unique=True, max_size=5))
def test_any_names(names: list[str]) -> None:
    tags = [stable_tag(f"t/{name}") for name in names]
    assert len(set(tags)) == len(names)
    assert all(PLAIN_TAG.fullmatch(tag) for tag in tags)
    assert tags == [stable_tag(f"t/{name}") for name in names]


# --- resuming -------------------------------------------------------------------------------------------------


def in_order(directory: Path) -> None:
    """Names event files by their sessions: within one second their own names need not sort."""
    for number, path in enumerate(sorted(event_files(directory), key=lambda path: path.stat().st_mtime_ns)):
        path.rename(path.with_name(f"events.out.tfevents.{number}"))


def test_a_resumed_run_replaces_what_it_goes_over_again(tmp_path: Path) -> None:
    for value, steps in ((0.25, range(10)), (0.75, range(5, 8))):
        sink = TensorBoardSink(own_writer(tmp_path))
        for step in steps:
            sink.write(update(step, readings=(reading(value=value, step=step),)))
        sink.close(Report.empty())
    assert len(event_files(tmp_path / "nndiag")) == 2
    in_order(tmp_path / "nndiag")
    points = scalars(tmp_path / "nndiag")["nndiag_summary/saturation/saturated"]
    assert points == [(step, 0.25) for step in range(5)] + [(step, 0.75) for step in (5, 6, 7)]


def test_the_writer_is_opened_late_and_closed(tmp_path: Path) -> None:
    sink = TensorBoardSink(own_writer(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
    sink.close(Report.empty())
    assert list(tmp_path.iterdir()) == []
    sink.write(update(3))
    sink.close(Report.empty())
    sink.close(Report.empty())
    assert [event.step for event in raw_events(tmp_path / "run" / "nndiag")] == [3]
