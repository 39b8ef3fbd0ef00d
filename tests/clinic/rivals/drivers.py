"""``python -m tests.clinic.rivals.drivers TOOL``: trains programs under one tool, in the tool's own environment.

Reads a JSON list of ``[case, is_twin]`` from standard input; writes one line of JSON a run to standard output.
Every tool is attached as its documentation shows, with its default thresholds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch.optim import Optimizer

from ..case import Program, alone
from . import sagemaker
from .statement import Level, Statement, once
from .tensors import optimizers, turns

Watch = Callable[[Program], list[Statement]]


def nndiag_monitor(program: Program) -> list[Statement]:
    """nndiag with the options of the clinic."""
    monitor, _ = program.train_watched({})
    return [
        Statement(each.rule, each.name, each.severity.value, tuple(each.layers))
        for top in monitor.report.findings
        for each in top.walk()
    ]


def torchmortem_autopsy(program: Program) -> list[Statement]:
    """``Autopsy`` as a context, with its default sampling; a second optimizer has no place in it."""
    from torchmortem import Autopsy

    with Autopsy(program.model, optimizer=optimizers(program)[0]) as autopsy:
        for _, _, loss in turns(program):
            autopsy.step(loss=float(loss))
    report = autopsy.get_report()
    return [
        Statement(each.title, each.summary, _level(each.severity.name), tuple(each.affected_layers))
        for each in (report.findings if report else ())
    ]


def observatory(program: Program) -> list[Statement]:
    """``Observatory`` with its default configuration; one statement a layer and analyzer."""
    from neural_observatory import Observatory

    watcher = Observatory(program.model)
    watcher.watch()
    for _, batch, _ in turns(program):
        watcher.step(targets=batch.labels)
    results = watcher.report().results
    watcher.stop()
    return [
        Statement(each.analyzer_name, " ".join(each.warnings), _level(each.status.value), (each.layer_name,))
        for each in results
        if each.warnings
    ]


AUDIT_EVERY = 10
"""torch-audit looks every 1,000 steps by default, which is once in most programs."""


def torch_audit(program: Program) -> list[Statement]:
    """``autopatch``; without the rules on hardware (TA2xx), which are about speed."""
    from torch_audit import autopatch

    first = optimizers(program)[0]
    auditor = autopatch(program.model, optimizer=first, every_n_steps=AUDIT_EVERY)
    for _ in turns(program):
        pass
    found = auditor.finish().findings
    auditor.unpatch()
    return [
        Statement(
            each.rule_id, each.message, _level(each.severity.value), tuple(filter(None, [each.module_path]))
        )
        for each in found
        if not each.rule_id.startswith("TA2")
    ]


PROBE_EVERY = 50
"""traintools probes plasticity every 200 steps by default, which is never in the shorter programs."""


def traintools_monitors(program: Program) -> list[Statement]:
    """The monitors of the quick start: batches and gradients at each step, plasticity now and then.

    A layer that the plasticity probe calls critical is an alarm, its milder flags are notes.
    """
    from traintools import BatchInspector, GradientHealthMonitor, PlasticityProbe

    said: list[Statement] = []
    health, inspector, probe = GradientHealthMonitor(), BatchInspector(), PlasticityProbe(program.model)

    def before_update(optimizer: Optimizer, arguments: object, options: object) -> None:
        result = health.inspect(program.model, lr=optimizer.param_groups[0]["lr"])
        said.extend(of_a_parameter(words) for words in result.warnings)

    handles = [optimizer.register_step_pre_hook(before_update) for optimizer in optimizers(program)]
    for step, batch, _ in turns(program):
        said.extend(of_a_batch(words) for words in inspector.inspect(batch.x, batch.y).warnings)
        if (step + 1) % PROBE_EVERY == 0:
            said.extend(
                Statement(
                    flag.lower(), str(layer), "warning" if layer.is_critical() else "info", (layer.name,)
                )
                for layer in probe.measure().layers
                for flag in layer.flags
            )
            probe.reset_buffers()
    for handle in handles:
        handle.remove()
    probe.remove_hooks()
    return [without_numbers(each) for each in said]


def of_a_parameter(words: str) -> Statement:
    """ "fc1.weight gradient is very large (norm=1e5)": the place, then what is wrong with it."""
    place, _, rest = words.partition(" ")
    is_global = place in ("global", "no")
    return Statement(words if is_global else rest, words, "warning", () if is_global else (place,))


def of_a_batch(words: str) -> Statement:
    """A warning about inputs or targets, which are no layers."""
    return Statement(words, words)


def without_numbers(said: Statement) -> Statement:
    """The same words at another value are the same statement."""
    words = said.kind.partition("(")[0].partition(">")[0].split()
    kind = " ".join(word for word in words if not any(letter.isdigit() for letter in word))
    return replace(said, kind=kind)


def _level(name: str) -> Level:
    """The severities of all tools on one scale."""
    levels: dict[str, Level] = {"critical": "critical", "fatal": "critical", "error": "critical"}
    levels |= {"warning": "warning", "warn": "warning"}
    return levels.get(name.lower(), "info")


WATCHES: Mapping[str, Watch] = {
    "nndiag": nndiag_monitor,
    "SageMaker Debugger rules": sagemaker.watch,
    "SageMaker Debugger rules, every 500": partial(sagemaker.watch, interval=500),
    "torchmortem": torchmortem_autopsy,
    "neural-observatory": observatory,
    "torch-audit": torch_audit,
    "traintools": traintools_monitors,
}


def drive(watch: Watch, program: Program) -> dict[str, Any]:
    """Trains one program; what the tool said, or why it failed."""
    begin = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = once(watch(program))
    except Exception as error:
        return {"error": "".join(traceback.format_exception_only(error)).strip()}
    return {"said": [each.to_dict() for each in said], "seconds": time.perf_counter() - begin}


def main() -> None:
    """The command."""
    from ..programs import CASES

    logging.disable(logging.CRITICAL)
    watch, cases = WATCHES[sys.argv[1]], {case.name: case for case in CASES}
    for name, twin in json.load(sys.stdin):
        with alone():
            outcome = drive(watch, cases[name].build(twin=twin))
        sys.stdout.write(json.dumps({"case": name, "twin": twin, **outcome}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
