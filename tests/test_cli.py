"""The command line, as a shell sees it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from report.page import Page
from report.samples import is_inert
from sinks.runs import finding, reading, update, watched
from typer.testing import CliRunner

import nndiag
from nndiag.checkpoints import reading as reading_checkpoints
from nndiag.checkpoints.child import read_here
from nndiag.cli import app, main
from nndiag.findings import Severity
from nndiag.measures import RULES
from nndiag.offline import comparing
from nndiag.report import Report
from nndiag.sinks import RecordSink
from nndiag.snapshot import Snapshot

RUNNER = CliRunner()


def invoke(*arguments: object) -> str:
    """Standard output of a command that ends with status 0."""
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None, result.exception
    assert result.exit_code == 0
    return result.stdout


class Shell:
    """Runs the console script in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        self._monkeypatch.setattr(sys, "argv", ["nndiag", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = self._capfd.readouterr()
        return int(caught.value.code or 0), out, err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    """The console script."""
    monkeypatch.setenv("TERM", "dumb")
    return Shell(monkeypatch, capfd)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The directory of a finished run, and its report."""
    directory = tmp_path_factory.mktemp("run")
    return directory, watched(directory).report


def one_line(err: str) -> str:
    """A refusal: one line that says who speaks, and no traceback."""
    assert err.startswith("nndiag: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert is_inert(err.rstrip("\n"))
    return err


# --- what there is --------------------------------------------------------------------------------------------


def test_version() -> None:
    assert nndiag.__version__ in invoke("--version")


def test_help_names_every_command() -> None:
    text = invoke("--help")
    for command in ("demo", "check", "compare", "report", "rules", "explain"):
        assert command in text


@pytest.mark.parametrize("command", ["demo", "check", "compare", "report", "rules", "explain"])
def test_every_command_has_help(command: str) -> None:
    text = invoke(command, "--help")
    assert "Usage" in text
    assert "--help" in text


def test_without_a_command_it_shows_help() -> None:
    result = RUNNER.invoke(app, [])
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments",
    [("unknown",), ("report",), ("check",), ("compare", "a"), ("rules", "--format", "x"), ("explain", "--x")],
)
def test_bad_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    result = RUNNER.invoke(app, list(arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("unknown",), "'unknown'"),
        (("report",), "'run_dir'"),
        (("report", "x", "--fail-on", "sometimes"), "--fail-on"),
        (("rules", "--format", "html"), "text, json or markdown"),
        (("check",), "'PATHS'"),
        (("compare", "a", "b", "--format", "html"), "text or json"),
        (("explain", "--x\x1b[31m\n"), "--x"),
    ],
)
def test_bad_usage_is_one_line(arguments: tuple[str, ...], word: str, shell: Shell) -> None:
    status, out, err = shell(*arguments)
    assert (status, out) == (2, "")
    assert word in one_line(err)


def test_the_script_shows_help_and_version(shell: Shell) -> None:
    assert shell("--version") == (0, f"nndiag {nndiag.__version__}\n", "")
    status, out, err = shell()
    assert status == 2
    assert "Usage" in out + err
    assert "nndiag: " not in err
    status, out, err = shell("--help")
    assert (status, err) == (0, "")
    assert "Usage" in out


# --- rules and explain ----------------------------------------------------------------------------------------


def test_rules_lists_every_rule() -> None:
    lines = invoke("rules").splitlines()
    assert [line.split()[:2] for line in lines] == [[rule.id, rule.name] for rule in RULES.values()]
    assert all(line.endswith(rule.summary) for line, rule in zip(lines, RULES.values(), strict=True))
    assert {"ND201", "ND202", "ND301"} <= {line[:5] for line in lines}


def test_rules_as_json() -> None:
    rows = json.loads(invoke("rules", "--format", "json"))
    assert [row["id"] for row in rows] == list(RULES)
    assert all(set(row) == {"id", "name", "measure", "summary", "threshold"} for row in rows)
    assert next(row["threshold"] for row in rows if row["id"] == "ND201") == 0.7


def test_rules_as_markdown() -> None:
    lines = invoke("rules", "--format", "markdown").splitlines()
    assert len(lines) == len(RULES) + 2
    assert all(line.startswith("| ") and line.count("|") == 5 for line in (lines[0], *lines[2:]))


def test_rules_as_html_is_bad_usage() -> None:
    result = RUNNER.invoke(app, ["rules", "--format", "html"])
    assert result.exit_code == 2
    assert "text, json or markdown" in result.stderr


@pytest.mark.parametrize("rule", ["ND201", "nd201"])
def test_explain(rule: str) -> None:
    text = invoke("explain", rule)
    assert text.startswith("ND201 saturated-activation (measure saturation)\n")
    for words in (
        "Most inputs of a bounded activation lie in its tails, where hardly any gradient passes.",
        "Judged on: nndiag/saturation/saturated; threshold 0.7.",
        "Explains: ND311, ND601.",
        "docs/measures/saturation.md",
    ):
        assert words in text


@pytest.mark.parametrize("rule", list(RULES))
def test_every_rule_is_explained(rule: str) -> None:
    text = invoke("explain", rule)
    assert text.startswith(f"{rule} {RULES[rule].name}")
    assert "Speaks at the first visit" in text or "Speaks when two of three visits" in text


@pytest.mark.parametrize(("given", "near"), [("ND20l", "ND201"), ("ND2011", "ND201"), ("D301", "ND301")])
def test_explain_suggests_the_nearest(given: str, near: str, shell: Shell) -> None:
    status, out, err = shell("explain", given)
    assert (status, out) == (2, "")
    assert f"'{given}' is not known. Did you mean '{near}'?" in one_line(err)


@pytest.mark.parametrize(
    "given", ["", "zzz", "%s{0}", "ND201\n\n", "\x1b[31mND201", "\u202eND201", "[bold]ND201"]
)
def test_explain_of_anything(given: str, shell: Shell) -> None:
    status, out, err = shell("explain", given)
    assert (status, out) == (2, "")
    assert "Expected one of: " in one_line(err)


# --- report ---------------------------------------------------------------------------------------------------


def test_report_is_the_live_report(run: tuple[Path, Report]) -> None:
    text = invoke("report", run[0], "--fail-on", "never", "--format", "json")
    assert Report.from_json(text) == run[1]


def test_report_as_text(run: tuple[Path, Report]) -> None:
    text = invoke("report", run[0], "--fail-on", "never")
    assert text.startswith("nndiag: ")
    assert "■ critical  saturated-activation  ND201" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_report_as_markdown(run: tuple[Path, Report]) -> None:
    text = invoke("report", run[0], "--fail-on", "never", "--format", "markdown")
    assert text.rstrip("\n") == run[1].to_markdown().rstrip("\n")


def test_report_as_html(run: tuple[Path, Report]) -> None:
    page = Page(invoke("report", run[0], "--fail-on", "never", "--format", "html"))
    assert "saturated-activation" in page.words


def test_report_as_html_is_a_whole_page(run: tuple[Path, Report], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    invoke("report", run[0], "--fail-on", "never", "--format", "html", "--output", path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "Content-Security-Policy" in text


@pytest.mark.parametrize("format_", ["text", "json", "html", "markdown"])
def test_report_into_a_file(format_: str, run: tuple[Path, Report], tmp_path: Path) -> None:
    path = tmp_path / "out"
    out = invoke("report", run[0], "--fail-on", "never", "--format", format_, "--output", path)
    assert out == ""
    assert "saturated-activation" in path.read_text(encoding="utf-8")


def test_report_takes_the_file_too(run: tuple[Path, Report]) -> None:
    by_directory = invoke("report", run[0], "--fail-on", "never")
    assert invoke("report", run[0] / "nndiag.jsonl", "--fail-on", "never") == by_directory


def test_exit_status(run: tuple[Path, Report], shell: Shell) -> None:
    assert run[1].status == "critical"
    assert [shell("report", run[0])[0]] == [1]
    for fail_on, status in (("critical", 1), ("warning", 1), ("info", 1), ("never", 0)):
        assert shell("report", run[0], "--fail-on", fail_on)[0] == status


def test_exit_status_of_a_healthy_run(tmp_path: Path, shell: Shell) -> None:
    sink = RecordSink(tmp_path)
    sink.write(update(0, readings=(reading(value=0.1),)))
    sink.close(Report.empty())
    for fail_on in ("critical", "warning", "info", "never"):
        status, out, err = shell("report", tmp_path, "--fail-on", fail_on)
        assert (status, err) == (0, "")
        assert "no warnings" in out


def test_rules_can_be_chosen(run: tuple[Path, Report], shell: Shell) -> None:
    status, out, _ = shell("report", run[0], "--ignore", "ND2", "--ignore", "ND3")
    assert status == 0
    assert "ND201" not in out
    status, out, _ = shell("report", run[0], "--select", "ND201:0", "--fail-on", "info")
    assert status == 1
    assert "ND313" not in out


@pytest.mark.parametrize("option", ["--select", "--ignore"])
def test_a_rule_without_a_like_is_not_suggested(option: str, run: tuple[Path, Report], shell: Shell) -> None:
    status, _, err = shell("report", run[0], option, "zzz")
    assert status == 2
    assert "Did you mean" not in one_line(err)


@pytest.mark.parametrize("option", ["--select", "--ignore"])
def test_unknown_rules_are_refused(option: str, run: tuple[Path, Report], shell: Shell) -> None:
    status, out, err = shell("report", run[0], option, "ND999")
    assert (status, out) == (2, "")
    assert "'ND999' is not known" in one_line(err)


def test_an_interrupted_run_says_so(tmp_path: Path, shell: Shell) -> None:
    sink = RecordSink(tmp_path)
    sink.write(update(0))
    path = tmp_path / "nndiag.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind":"visit","st')
    status, out, _ = shell("report", tmp_path)
    assert status == 0
    assert "the record stops before the run ended" in " ".join(out.split())


def test_a_newer_record_is_judged_not_repeated(tmp_path: Path, shell: Shell) -> None:
    """Findings of the record are not taken over: today's rules speak."""
    sink = RecordSink(tmp_path)
    sink.write(update(0, changed=True, findings=(finding(severity=Severity.CRITICAL),)))
    sink.close(Report.empty())
    status, out, _ = shell("report", tmp_path)
    assert status == 0
    assert "saturated-activation" not in out


# --- check and compare ----------------------------------------------------------------------------------------


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process for each checkpoint would take its time; the reader is the same."""

    def read(path: Path, *, layers: Any = None, process: Any = None) -> Snapshot:
        with reading_checkpoints._about(path):
            return read_here(path, layers)

    monkeypatch.setattr(reading_checkpoints, "read", read)
    monkeypatch.setattr(comparing, "read", read)


def saved(path: Path, weight: float | None = None, step: int = 0) -> Path:
    """A checkpoint of one layer: drawn at random, or filled with one number."""
    drawn = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
    filled = drawn if weight is None else torch.full((8, 6), weight)
    torch.save({"state_dict": {"fc.weight": filled}, "global_step": step}, path)
    return path


def test_check_through_a_process_of_its_own(tmp_path: Path, shell: Shell) -> None:
    status, out, err = shell("check", saved(tmp_path / "x.ckpt"))
    assert (status, err) == (0, "")
    assert out.startswith("nndiag: no warnings")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("weight", "fail_on", "status"),
    [
        (None, "info", 0),
        (0.5, "critical", 0),
        (0.5, "warning", 1),
        (0.5, "info", 1),
        (0.5, "never", 0),
        (float("nan"), "critical", 1),
        (float("nan"), "never", 0),
    ],
)
def test_exit_status_of_check(
    weight: float | None, fail_on: str, status: int, tmp_path: Path, shell: Shell
) -> None:
    path = saved(tmp_path / "x.ckpt", weight, step=1)
    assert shell("check", path, "--fail-on", fail_on)[::2] == (status, "")


@pytest.mark.usefixtures("in_process")
def test_check_of_a_series_as_json_is_alone_on_standard_output(tmp_path: Path, shell: Shell) -> None:
    for step in (0, 10):
        saved(tmp_path / f"step={step}.ckpt", step=step)
    status, out, err = shell("check", tmp_path, "--format", "json")
    assert (status, err) == (0, "")
    assert Report.from_json(out).run["steps"] == "0, 10"


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("format_", ["text", "json", "html", "markdown"])
def test_check_into_a_file(format_: str, tmp_path: Path, shell: Shell) -> None:
    path, out = saved(tmp_path / "x.ckpt", 0.5), tmp_path / "out"
    assert shell("check", path, "--format", format_, "--output", out) == (0, "", "")
    assert "effective-width" in out.read_text(encoding="utf-8")


@pytest.mark.usefixtures("in_process")
def test_check_with_chosen_rules(tmp_path: Path, shell: Shell) -> None:
    path = saved(tmp_path / "x.ckpt", 0.5, step=1)
    assert shell("check", path, "--ignore", "ND304", "--fail-on", "info")[0] == 0
    assert shell("check", path, "--select", "ND304", "--fail-on", "warning")[0] == 1
    status, out, err = shell("check", path, "--select", "ND999")
    assert (status, out) == (2, "")
    assert "'ND999' is not known" in one_line(err)


@pytest.mark.usefixtures("in_process")
def test_check_writes_event_files(tmp_path: Path, shell: Shell) -> None:
    path = saved(tmp_path / "x.ckpt")
    assert shell("check", path, "--log-dir", tmp_path / "events")[0] == 0
    assert list((tmp_path / "events" / "nndiag").glob("events.out.tfevents.*"))


@pytest.mark.usefixtures("in_process")
def test_compare_says_what_appeared(tmp_path: Path, shell: Shell) -> None:
    healthy, sick = saved(tmp_path / "a.ckpt", step=1), saved(tmp_path / "b.ckpt", 0.5, step=2)
    status, out, err = shell("compare", healthy, sick, "--format", "json")
    assert (status, err) == (0, "")
    assert [change["rule"] for change in json.loads(out)["appeared"]] == ["ND304"]
    assert shell("compare", healthy, sick, "--fail-on", "warning")[0] == 1
    assert shell("compare", sick, healthy, "--fail-on", "warning")[0] == 0
    for option in (("--ignore", "ND304"), ("--select", "ND6")):
        assert shell("compare", healthy, sick, "--fail-on", "warning", *option)[0] == 0


@pytest.mark.usefixtures("in_process")
def test_compare_into_a_file(tmp_path: Path, shell: Shell) -> None:
    path, out = saved(tmp_path / "x.ckpt"), tmp_path / "out"
    assert shell("compare", path, path, "--output", out) == (0, "", "")
    assert "findings: the same" in out.read_text(encoding="utf-8")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("command", ["check", "compare"])
def test_a_checkpoint_that_cannot_be_read(command: str, tmp_path: Path, shell: Shell) -> None:
    good, bad = saved(tmp_path / "good.ckpt"), tmp_path / "bad\x1b[31m\n.ckpt"
    bad.write_bytes(b"P")
    status, out, err = shell(command, good, bad)
    assert (status, out) == (2, "")
    assert "is of no kind that is known" in one_line(err)


@pytest.mark.usefixtures("in_process")
def test_an_address_is_said_as_it_was_given(shell: Shell) -> None:
    status, out, err = shell("check", "https://example.invalid/model.pt")
    assert (status, out) == (2, "")
    assert "https://example.invalid/model.pt is an address" in one_line(err)


# --- check with a model -----------------------------------------------------------------------------------------

CODE = """
import torch
from torch import nn

number = 3

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

def loader():
    return (torch.randn(64, 6, generator=torch.Generator().manual_seed(n)) for n in range(3))

def broken():
    raise RuntimeError("two\\nlines")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None) -> Iterator[Path]:
    """A module of the user's in the working directory, and a checkpoint of its model beside it."""
    (tmp_path / "user_nets.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    )
    with torch.no_grad():
        net[1].weight.fill_(60)  # saturates the tanh behind it
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": net.state_dict(), "global_step": 0}, path)
    yield path
    sys.modules.pop("user_nets", None)


MODEL = ("--model", "user_nets:build", "--data", "user_nets:loader")


def test_check_with_a_model_sees_activations(code: Path, shell: Shell) -> None:
    status, out, err = shell("check", code, *MODEL, "--format", "json", "--select", "ND201")
    assert (status, err) == (1, "")
    assert [f.rule for f in Report.from_json(out).findings] == ["ND201"]
    assert shell("check", code, "--select", "ND201")[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "user_nets"), "package.module:name"),
        (("--model", "no_such_module:build"), "no_such_module"),
        (("--model", "user_nets:none"), "has no attribute 'none'"),
        (("--model", "user_nets:broken"), "RuntimeError: two lines"),
        (("--model", "user_nets:number"), "a torch.nn.Module"),
        (("--model", "user_nets:build", "--data", "user_nets:number"), "an iterable of batches"),
        (("--data", "user_nets:loader"), "`model` is missing"),
        (("--repair-bn", "out.ckpt"), "needs --model, --data and one checkpoint"),
        ((*MODEL, "--repair-bn", "x.ckpt"), "exists already"),
    ],
)
def test_a_model_that_cannot_be_used(options: tuple[str, ...], words: str, code: Path, shell: Shell) -> None:
    status, out, err = shell("check", code, *options)
    assert (status, out) == (2, "")
    assert words in one_line(err)


def test_check_writes_a_repaired_copy(code: Path, shell: Shell) -> None:
    before = code.read_bytes()
    status, out, err = shell("check", code, *MODEL, "--repair-bn", "out.ckpt", "--fail-on", "never")
    assert (status, err) == (0, "")
    assert out.startswith("nndiag: ")
    assert code.read_bytes() == before
    fresh = torch.load("out.ckpt", weights_only=True)["state_dict"]["1.running_mean"]
    assert not torch.equal(fresh, torch.zeros(8))


# --- what cannot be read --------------------------------------------------------------------------------------

HOSTILE_PATHS = {
    "missing": "no-such-run",
    "empty": "",
    "parent directories": "../" * 50 + "etc/passwd",
    "very long": "x" * 5000,
    "very deep": "x/" * 3000,
    "markup": "[bold]x[/] <b> {{ x }} %s {0}",
    "newline": "a\nb",
    "device": "/dev/null",
    "below a file": "/etc/passwd/run",
}


@pytest.mark.parametrize("kind", HOSTILE_PATHS)
def test_a_path_that_holds_no_run(
    kind: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = shell("report", HOSTILE_PATHS[kind])
    assert (status, out) == (2, "")
    one_line(err)


@pytest.mark.parametrize("name", ["\x9b31mrun", "run\u202e", "a\x00b", "bell\x07"])
def test_a_path_that_would_act_on_the_terminal(name: str, shell: Shell) -> None:
    status, _, err = shell("report", name)
    assert status == 2
    one_line(err)


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
        {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"},
    ],
    ids=["ascii", "utf-8"],
)
def test_a_path_that_is_not_utf8(locale: dict[str, str], tmp_path: Path) -> None:
    """Bytes of no encoding are spelled, the same whatever the terminal's encoding is."""
    command = [os.fsencode(sys.executable), b"-m", b"nndiag", b"report", b"run\xff\xfe"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | locale
    done = subprocess.run(
        command, capture_output=True, cwd=tmp_path, env=environment, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "run\\udcff\\udcfe does not exist" in one_line(done.stderr.decode("ascii"))


@pytest.mark.parametrize("format_", ["text", "markdown"])
def test_a_terminal_without_the_marks(
    format_: str, run: tuple[Path, Report], shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks of severity are in few encodings; what cannot be printed is no reason to print nothing."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    assert shell("report", run[0], "--fail-on", "never", "--format", format_)[0] == 0
    stream.flush()
    assert "? critical" in stream.buffer.getvalue().decode("cp1252")  # type: ignore[attr-defined]


DAMAGED = {
    "empty": b"",
    "binary": bytes(range(256)) * 10,
    "other json": b'{"a": 1}\n{"b": 2}\n',
    "deep": b"[" * 100_000 + b"\n",
    "endless line": b"x" * 1_000_000,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_record(kind: str, tmp_path: Path, shell: Shell) -> None:
    path = tmp_path / "nndiag.jsonl"
    path.write_bytes(DAMAGED[kind])
    for given in (tmp_path, path):
        status, out, err = shell("report", given)
        assert (status, out) == (2, "")
        assert str(path) in one_line(err)


def test_a_damaged_record_names_the_line(run: tuple[Path, Report], tmp_path: Path, shell: Shell) -> None:
    lines = (run[0] / "nndiag.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"step"', b'"stop"', 1)
    (tmp_path / "nndiag.jsonl").write_bytes(b"".join(lines))
    status, out, err = shell("report", tmp_path)
    assert (status, out) == (2, "")
    assert "line 4 is damaged" in one_line(err)


@pytest.mark.parametrize("output", ["missing/out.txt", "."])
def test_an_output_that_cannot_be_written(
    output: str, run: tuple[Path, Report], tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = shell("report", run[0], "--output", output)
    assert (status, out) == (2, "")
    one_line(err)
