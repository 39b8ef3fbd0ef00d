"""Runs made by hand, written by the real sink; TensorBoard over them, with and without a server."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from nndiag.diagnosis import Update
from nndiag.findings import Coverage, CoverageEntry, Finding, Reading, Severity
from nndiag.layers import LayerInfo
from nndiag.report import Report
from nndiag.sinks import TensorBoardSink

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorBoard's own copy of bleach is old
    from tensorboard import default, program
    from tensorboard.backend import application

ROUTE = "/data/plugin/nndiag"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


def block_names(blocks: int) -> list[str]:
    """A stem, blocks of four layers, a head."""
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    return ["stem", *(f"blocks.{b}.{part}" for b in range(blocks) for part in parts), "head"]


def infos(names: Sequence[str]) -> dict[str, LayerInfo]:
    """Linear layers in this order, and one activation that reads the third of them."""
    layers = {
        name: LayerInfo(name, "Linear", "weight", 2 * depth, units=16) for depth, name in enumerate(names)
    }
    if len(names) > 2:
        relu = f"{names[2]}:relu"
        layers[relu] = LayerInfo(relu, "relu", "activation", 5, units=16, source=names[2])
    return layers


def saturated(layer: int, step: int, last: int, count: int) -> float:
    """Small, and growing after half of the run in the third quarter of the layers."""
    noise = 0.05 * (1 + math.sin(12.9898 * layer + 0.37 * step))
    is_bad = 0.5 * count <= layer < 0.75 * count
    return noise + (0.75 / (1 + math.exp(-12 * (step / max(1, last) - 0.5))) if is_bad else 0.0)


def readings_at(names: Sequence[str], step: int, last: int, extra: int = 0) -> list[Reading]:
    """Several readings of each layer, one with units, and the loss."""
    found = [Reading("run", "loss", None, step, 2.3 * math.exp(-step / max(1, last)))]
    for place, name in enumerate(names):
        share = saturated(place, step, last, len(names))
        found.append(Reading("saturation", "saturated", name, step, share))
        found.append(
            Reading(
                "gradient_flow", "gradient_norm", name, step, 10.0 ** (-place / len(names) * 4) * (1 + share)
            )
        )
        found.append(Reading("neuron_symmetry", "distinct_share", name, step, 1.0 if place % 7 else 0.75))
        found += [Reading("data", f"extra_{k}", name, step, math.cos(place + k)) for k in range(extra)]
    if len(names) > 2:
        units = tuple(0.0 if unit < 5 else unit / 16 for unit in range(16))
        found.append(Reading("saturation", "dead_share", f"{names[2]}:relu", step, 5 / 16, units=units))
        marks = tuple(float(unit % 12) for unit in range(16))
        found.append(Reading("neuron_symmetry", "effective_width", names[0], step, 0.75, units=marks))
    return found


def findings_at(names: Sequence[str], step: int) -> tuple[Finding, ...]:
    """A cause with a symptom, a warning, a note, and one that is over."""
    bad = tuple(name for place, name in enumerate(names) if 0.5 * len(names) <= place < 0.75 * len(names))

    def finding(rule: str, name: str, measure: str, **changes: Any) -> Finding:
        fields: dict[str, Any] = {
            "severity": Severity.WARNING,
            "layers": (names[min(2, len(names) - 1)],),
            "first_step": 8,
            "last_clean_step": 5,
            "last_step": step,
            "status": "active",
            "value": 0.875,
            "threshold": 0.75,
            "message": f"Something was seen here {HOSTILE}.",
            "recommendation": "Change this by a factor of 2. It worked when `nndiag/x/y` of this layer falls.",
            "evidence": {"units": 16, "dead": 5, "activation": "relu", "applies": True},
        }
        return Finding(rule, name, measure, **(fields | changes))

    symptom = finding("ND304", "effective-width", "neuron_symmetry", layers=(names[0],))
    return (
        finding(
            *("ND201", "saturated-activation", "saturation"),
            severity=Severity.CRITICAL,
            layers=bad,
            value=0.81,
            threshold=0.7,
            related=(symptom,),
        ),
        finding("ND202", "dead-units", "saturation"),
        finding("ND313", "init-law", "initialization", severity=Severity.INFO, layers=(names[0],)),
        finding("ND601", "vanishing-gradient", "gradient_flow", status="resolved", layers=()),
    )


def coverage_of(names: Sequence[str]) -> Coverage:
    """The last layer could not be seen."""
    seen = [CoverageEntry(name, "saturation", "measured") for name in names[:-1]]
    return Coverage((*seen, CoverageEntry(names[-1], "saturation", "not observed", "compiled")), ("A note.",))


def write_run(
    directory: Path,
    names: Sequence[str] = tuple(block_names(2)),
    steps: Sequence[int] = (0, 1, 2, 3, 5, 8, 12, 16, 20, 30),
    *,
    is_sick: bool = True,
    extra: int = 0,
    shift: float = 0.0,
    is_ended: bool = True,
) -> None:
    """Writes one run as the Lightning integration does: through a SummaryWriter that others use too."""
    writer = SummaryWriter(str(directory), max_queue=1000)
    sink, layers = TensorBoardSink(writer), infos(names)
    report = Report.empty()
    for step in steps:
        findings = findings_at(names, step) if is_sick and step >= 8 else ()
        readings = tuple(readings_at(names, step, steps[-1], extra))
        if shift:
            readings = tuple(Reading(r.measure, r.name, r.layer, step, r.value + shift) for r in readings)
        update = Update(step, layers, readings, findings, coverage_of(names), changed=step in (0, 8))
        sink.write(update)
        report = Report(findings, readings, update.coverage, {"last_step": step, "overhead": 0.012})
    if is_ended:
        sink.close(report)
    writer.close()


def client_of(logdir: Path, fast: str = "false", *more: str) -> tuple[Client, Any]:
    """TensorBoard without a socket: its real application, and what must be kept alive with it."""
    board = program.TensorBoard(plugins=default.get_plugins())
    where = () if any(flag.startswith("--logdir_spec") for flag in more) else ("--logdir", str(logdir))
    board.configure(argv=["tensorboard", *where, "--load_fast", fast, "--reload_interval", "1", *more])
    provider, multiplexer = board._make_data_provider()
    app = application.TensorBoardWSGIApp(
        board.flags, board.plugin_loaders, provider, board.assets_zip_provider, multiplexer
    )
    return Client(app), (board, provider, multiplexer)


def get(client: Client, path: str, **query: Any) -> Any:
    """The JSON answer of a route."""
    answer = client.get(f"{ROUTE}/{path}", query_string=query)
    assert answer.status_code == 200, (path, query, answer.status, answer.data[:300])
    return json.loads(answer.data)


def wait_for(condition: Any, seconds: float = 30.0) -> Any:
    """TensorBoard loads in a thread: asks again until there is an answer."""
    end = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        assert time.monotonic() < end, "TensorBoard has not loaded the run"
        time.sleep(0.05)
