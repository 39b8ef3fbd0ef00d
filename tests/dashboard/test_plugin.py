"""The data behind the tab, through TensorBoard's own application and both of its loaders."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.samples import HOSTILE
from sinks.runs import finding, reading, update
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from dashboard.runs import ROUTE, block_names, client_of, get, wait_for, write_run
from nndiag import events, page
from nndiag.layers import LayerInfo
from nndiag.page.series import COLUMNS
from nndiag.report import Report
from nndiag.sinks import TensorBoardSink
from nndiag.sinks.tab import TabData

NAMES = block_names(2)
STEPS = [0, 1, 2, 3, 5, 8, 12, 16, 20, 30]
TAG = "nndiag/row/saturation/saturated"
LOADERS = ["false", "true"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def loaded(logdir: Path, fast: str, *more: str, runs: int = 1) -> Client:
    """A client whose TensorBoard has loaded so many runs to the end."""
    client, kept = client_of(logdir, fast, *more)
    client.kept = kept  # type: ignore[attr-defined]

    def is_done() -> bool:
        rows = get(client, "runs")["runs"]
        return len(rows) >= runs and all(row["step"] is not None or row["is_newer"] for row in rows)

    wait_for(is_done)
    return client


def matrix_of(client: Client, run: str, tag: str = TAG) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Header and values of a heat map."""
    answer = client.get(f"{ROUTE}/matrix", query_string={"run": run, "tag": tag})
    assert answer.status_code == 200
    assert answer.mimetype == "application/octet-stream"
    [size] = struct.unpack("<I", answer.data[:4])
    assert (4 + size) % 4 == 0  # the browser reads float32 in place
    header = json.loads(answer.data[4 : 4 + size])
    values = np.frombuffer(answer.data[4 + size :], "<f4")
    return header, values.reshape(-1, len(header["steps"])) if header["steps"] else values


@pytest.fixture(scope="module", params=LOADERS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """TensorBoard over two runs, and one that has nothing of nndiag."""
    logdir = tmp_path_factory.mktemp("logs")
    write_run(logdir / "a" / "version_0")
    write_run(logdir / "b", is_sick=False, is_ended=False)
    other = SummaryWriter(str(logdir / "other"))
    other.add_scalar("loss", 1.0, 0)
    other.close()
    return loaded(logdir, request.param, runs=2)


# --- what TensorBoard shows -----------------------------------------------------------------------------------


def test_the_tab_is_active_and_a_frame(client: Client) -> None:
    listing = json.loads(client.get("/data/plugins_listing").data)["nndiag"]
    assert listing["enabled"] is True
    assert listing["tab_name"] == "NNDiag"
    assert listing["loading_mechanism"] == {"type": "IFRAME", "module_path": f"{ROUTE}/static/index.js"}
    assert listing["disable_reload"] is False


def test_runs_and_how_they_stand(client: Client) -> None:
    first, second = get(client, "runs")["runs"]
    assert (first["name"], first["step"], first["visits"]) == ("a/version_0", 30, 10)
    assert [(row["rule"], row["severity"]) for row in first["findings"]][:2] == [
        ("ND201", "critical"),
        ("ND202", "warning"),
    ]
    assert first["findings"][0]["related"][0]["rule"] == "ND304"
    assert (second["name"], second["findings"]) == ("b", [])


def test_a_run(client: Client) -> None:
    run = get(client, "run", run="a/version_0")
    assert [layer["name"] for layer in run["layers"]] == [*NAMES, f"{NAMES[2]}:relu"]
    assert run["layers"][-1]["source"] == NAMES[2]
    assert run["is_complete"] is True
    assert run["facts"]["overhead"] == 0.012
    assert run["findings"][0]["layers"] == [name for k, name in enumerate(NAMES) if 5 <= k < 7.5]
    assert run["findings"][0]["related"][0]["layers"] == ["stem"]
    unseen = [group for group in run["coverage"] if group["status"] == "not observed"]
    assert [(group["reason"], group["layers"]) for group in unseen] == [("compiled", ["head"])]
    assert run["notes"] == ["A note."]
    assert [row["layer"] for row in run["units"]] == ["stem", "blocks.0.attn.proj:relu"]
    assert get(client, "run", run="b")["is_complete"] is False


def test_newest_values_and_what_they_mean(client: Client) -> None:
    run = get(client, "run", run="a/version_0")
    by_tag = {row["tag"]: row for row in run["readings"]}
    assert [row["tag"] for row in run["readings"]] == sorted(by_tag)
    row, (header, values) = by_tag[TAG], matrix_of(client, "a/version_0")
    assert header["steps"] == STEPS
    np.testing.assert_allclose(row["values"][:-1], values[:-1, -1], rtol=1e-5)
    assert row["values"][-1] is None  # the activation has no such reading
    assert row["steps"] == [30] * len(NAMES) + [None]
    assert (row["worst"], row["range"], row["limits"]) == ("high", [0, 1], {"ND201": 0.7})


def test_a_heat_map_holds_what_was_written(client: Client) -> None:
    header, values = matrix_of(client, "a/version_0", "nndiag/row/gradient_flow/gradient_norm")
    assert header["samples"] == 10
    assert values.shape == (len(NAMES) + 1, 10)
    assert np.isnan(values[-1]).all()
    assert header["smallest"] == pytest.approx(float(np.nanmin(values)))
    expected = [10.0 ** (-k / len(NAMES) * 4) for k in range(len(NAMES))]
    assert (values[:-1, 0] >= np.float32(expected) * 0.999).all()
    assert (values[:-1, 0] <= np.float32(expected) * 2).all()


def test_curves_of_a_layer_and_its_activation(client: Client) -> None:
    found = get(client, "curves", run="a/version_0", layer=[2, len(NAMES)])["curves"]
    by_name = {(row["tag"].rpartition("/")[2], row["layer"]): row for row in found}
    assert set(by_name) == {
        ("saturated", 2),
        ("gradient_norm", 2),
        ("distinct_share", 2),
        ("dead_share", len(NAMES)),
    }
    _, values = matrix_of(client, "a/version_0")
    assert by_name["saturated", 2]["steps"] == STEPS
    np.testing.assert_allclose(by_name["saturated", 2]["values"], values[2], rtol=1e-5)


def test_numbers_of_the_run(client: Client) -> None:
    [row] = get(client, "numbers", run="b")["curves"]
    assert (row["tag"], row["steps"]) == ("nndiag/run/run/loss", STEPS)
    assert row["values"][0] == 2.3


def test_units(client: Client) -> None:
    tags = [row["tag"] for row in get(client, "run", run="a/version_0")["units"]]
    groups, dead = get(client, "units", run="a/version_0", tag=tags)["units"]
    assert (dead["form"], dead["total"]) == ("each", 16)
    assert [shot["step"] for shot in dead["snapshots"]] == [8, 12, 16, 20, 30]  # since there is a finding
    assert dead["snapshots"][-1]["values"][:6] == [0, 0, 0, 0, 0, 5 / 16]
    assert groups["form"] == "groups"
    assert groups["snapshots"][0]["values"] == [unit % 12 for unit in range(16)]


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("run", {}, 400),
        ("run", {"run": "nobody"}, 404),
        ("run", {"run": "other"}, 404),
        ("matrix", {"run": "b"}, 404),
        ("matrix", {"run": "b", "tag": "../../etc/passwd"}, 404),
        ("matrix", {"run": "b", "tag": events.FINDINGS_TAG}, 404),
        ("curves", {"run": "b", "layer": "x"}, 400),
        ("curves", {"run": "b", "layer": "99"}, 404),
        ("curves", {"run": "b", "layer": "-1"}, 404),
        ("units", {"run": "b", "tag": "x"}, 404),
        ("static/../plugin.py", {}, 404),
        ("static/%2e%2e/plugin.py", {}, 404),
        ("static/", {}, 404),
    ],
)
def test_bad_requests_are_refused_in_a_line(
    client: Client, path: str, query: dict[str, str], status: int
) -> None:
    answer = client.get(f"{ROUTE}/{path}", query_string=query)
    assert answer.status_code == status
    assert b"Traceback" not in answer.data


def test_the_page_is_served_with_its_types(client: Client) -> None:
    static = Path(page.__file__).parent / "static"
    names = {path.name for path in static.iterdir()}
    assert {"index.js", "style.css", "source.js"} <= names
    for name in names:
        answer = client.get(f"{ROUTE}/static/{name}")
        assert answer.status_code == 200
        assert answer.mimetype == ("text/css" if name.endswith(".css") else "text/javascript")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.data == (static / name).read_bytes()


# --- without data, with a prefix, with several directories -----------------------------------------------------


@pytest.mark.parametrize("fast", LOADERS)
def test_not_active_without_data(fast: str, tmp_path: Path) -> None:
    other = SummaryWriter(str(tmp_path / "other"))
    other.add_scalar("loss", 1.0, 0)
    other.close()
    client, _kept = client_of(tmp_path, fast)
    wait_for(lambda: json.loads(client.get("/data/runs").data))
    assert json.loads(client.get("/data/plugins_listing").data)["nndiag"]["enabled"] is False
    assert get(client, "runs") == {"runs": []}


def test_a_path_prefix(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    client, _kept = client_of(tmp_path, "false", "--path_prefix", "/tb")
    wait_for(lambda: json.loads(client.get(f"/tb{ROUTE}/runs").data)["runs"])
    assert client.get(f"/tb{ROUTE}/static/index.js").status_code == 200
    assert client.get(f"/tb{ROUTE}/run?run=a").status_code == 200


def test_several_directories(tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "r", is_sick=False)
    write_run(tmp_path / "y", is_sick=False)
    client = loaded(tmp_path, "false", f"--logdir_spec=one:{tmp_path / 'x'},two:{tmp_path / 'y'}", runs=2)
    assert [row["name"] for row in get(client, "runs")["runs"]] == ["one/r", "two/."]
    assert matrix_of(client, "one/r")[0]["steps"] == STEPS


# --- runs that go on ------------------------------------------------------------------------------------------


def in_order(directory: Path) -> None:
    """Names event files by their sessions: within one second their own names need not sort."""
    for number, path in enumerate(
        sorted(directory.glob("*tfevents*"), key=lambda path: path.stat().st_mtime_ns)
    ):
        path.rename(path.with_name(f"events.out.tfevents.{number}"))


@pytest.mark.parametrize("fast", LOADERS)
def test_a_resumed_run_replaces_what_it_goes_over_again(fast: str, tmp_path: Path) -> None:
    write_run(tmp_path / "r", steps=range(10), is_sick=False)
    write_run(tmp_path / "r", names=["new", *NAMES], steps=range(5, 8), is_sick=False)
    in_order(tmp_path / "r")
    client = loaded(tmp_path, fast)
    wait_for(lambda: get(client, "runs")["runs"][0]["step"] == 7)
    wait_for(lambda: matrix_of(client, "r")[0]["steps"] == list(range(8)))
    _, values = matrix_of(client, "r")
    run = get(client, "run", run="r")
    places = {layer["name"]: place for place, layer in enumerate(run["layers"])}
    assert run["layers"][0]["name"] == "new"  # the newest session's list
    assert np.isnan(values[places["new"], :5]).all()
    assert np.isfinite(values[places["new"], 5:]).all()
    assert np.isfinite(values[places["stem"]]).all()  # found again under its name, at another place


def test_live_reload(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path / "r"))
    sink = TensorBoardSink(writer)
    layers = {"fc1": LayerInfo("fc1", "Linear", "weight", 0)}
    sink.write(update(0, layers=layers))
    writer.flush()
    client = loaded(tmp_path, "false")
    assert matrix_of(client, "r")[0]["steps"] == [0]
    sink.write(update(1, layers=layers, findings=(finding(),)))
    writer.flush()
    wait_for(lambda: get(client, "runs")["runs"][0]["step"] == 1)
    assert matrix_of(client, "r")[0]["steps"] == [0, 1]
    assert get(client, "run", run="r")["findings"][0]["rule"] == "ND201"
    writer.close()


@pytest.mark.parametrize("fast", LOADERS)
def test_a_thousand_visits_are_kept_without_being_asked_for(fast: str, tmp_path: Path) -> None:
    write_run(tmp_path / "r", names=["a"], steps=range(1100), is_sick=False)
    client = loaded(tmp_path, fast)
    wait_for(lambda: get(client, "runs")["runs"][0]["step"] == 1099)
    wait_for(lambda: matrix_of(client, "r")[0]["samples"] == 1000)
    header, values = matrix_of(client, "r")
    assert len(header["steps"]) <= COLUMNS
    assert header["steps"] == sorted(set(header["steps"]))
    assert header["steps"][-1] == 1099
    assert values.shape == (1, len(header["steps"]))


# --- what others may have written -----------------------------------------------------------------------------


@pytest.mark.parametrize("fast", LOADERS)
def test_hostile_names(fast: str, tmp_path: Path) -> None:
    names = [name for kind, name in HOSTILE.items() if kind != "nothing"]
    writer = SummaryWriter(str(tmp_path / "<b>run"))
    sink = TensorBoardSink(writer)
    layers = {name: LayerInfo(name, "Linear", "weight", depth) for depth, name in enumerate(names)}
    readings = tuple(reading(name, k / 100, measure=name, name=name) for k, name in enumerate(names))
    sink.write(update(0, layers=layers, readings=readings, findings=(finding(tuple(names)),)))
    sink.close(Report.empty())
    writer.close()
    client = loaded(tmp_path, fast)
    run = get(client, "run", run="<b>run")
    assert [layer["name"] for layer in run["layers"]] == names
    assert run["findings"][0]["layers"] == names
    for place, name in enumerate(names):
        [row] = [row for row in run["readings"] if row["measure"] == name]
        assert row["values"][place] == pytest.approx(place / 100)
        if place % 8 == 0:
            assert matrix_of(client, "<b>run", row["tag"])[0]["reading"] == name
    answer = client.get(f"{ROUTE}/run", query_string={"run": "<b>run"})
    assert answer.mimetype == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def altered(directory: Path, change: Callable[[Any], None]) -> None:
    """A run whose every value was changed on the way."""
    writer = SummaryWriter(str(directory))
    from tensorboard.compat.proto.summary_pb2 import Summary

    layers = {"fc1": LayerInfo("fc1", "Linear", "weight", 0)}
    values = list(TabData().values(update(0, layers=layers, findings=(finding(),)), "file"))
    for value in values:
        change(value)
    writer._get_file_writer().add_summary(Summary(value=values), 0)
    writer.close()


def test_a_newer_version_is_said_and_does_no_harm(tmp_path: Path) -> None:
    def newer(value: Any) -> None:
        content = json.loads(value.metadata.plugin_data.content)
        value.metadata.plugin_data.content = json.dumps(content | {"v": 2}).encode()

    altered(tmp_path / "new", newer)
    write_run(tmp_path / "old", is_sick=False)
    client = loaded(tmp_path, "false", runs=2)
    assert [(row["name"], row["is_newer"]) for row in get(client, "runs")["runs"]] == [
        ("new", True),
        ("old", False),
    ]
    run = get(client, "run", run="new")
    assert run["is_newer"] is True
    assert run["readings"] == run["layers"] == []


def put_text(text: str) -> Callable[[Any], None]:
    """Puts another text in the place of the findings."""

    def damage(value: Any) -> None:
        if value.tag == events.FINDINGS_TAG:
            value.tensor.string_val[0] = text.encode()

    return damage


def put_content(content: bytes) -> Callable[[Any], None]:
    """Puts another description in the place of a row's."""

    def damage(value: Any) -> None:
        if value.tag == TAG:
            value.metadata.plugin_data.content = content

    return damage


def test_damaged_texts_do_no_harm(tmp_path: Path) -> None:
    texts = (
        "",
        "[]",
        "{",
        '{"findings": 3}',
        '{"findings": [3, {"layers": 7}]}',
        "NaN",
        '{"step": NaN, "run": 3}',
    )
    for number, text in enumerate(texts):
        altered(tmp_path / f"r{number}", put_text(text))
    client, _kept = client_of(tmp_path)
    wait_for(lambda: len(get(client, "runs")["runs"]) == len(texts))
    for number in range(len(texts)):
        run = get(client, "run", run=f"r{number}")
        assert [layer["name"] for layer in run["layers"]] == ["fc1"]
        assert all(isinstance(row, dict) for row in run["findings"])


def test_damaged_descriptions_do_no_harm(tmp_path: Path) -> None:
    contents = (b"", b"[]", b"{", b'{"v": "1"}', b'{"v": 1}', b'{"v": NaN, "kind": "row"}', b"\xff")
    for number, content in enumerate(contents):
        altered(tmp_path / f"r{number}", put_content(content))
    client = loaded(tmp_path, "false", runs=len(contents))
    for number in range(len(contents)):
        assert get(client, "run", run=f"r{number}")["readings"] == []
        answer = client.get(f"{ROUTE}/matrix", query_string={"run": f"r{number}", "tag": TAG})
        assert answer.status_code == 404


def test_rows_longer_than_the_list_of_layers_do_no_harm(tmp_path: Path) -> None:
    def damage(value: Any) -> None:
        if value.tag == TAG:
            value.tensor.tensor_shape.dim[0].size = 3
            value.tensor.tensor_content = np.float32([1, 2, 3]).tobytes()

    altered(tmp_path / "r", damage)
    client = loaded(tmp_path, "false")
    _, values = matrix_of(client, "r")
    assert values.shape == (1, 1)
    assert np.isnan(values).all()
