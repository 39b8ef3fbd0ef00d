"""200 steps of compiled programs with nndiag: the same numbers, and the compiler did nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch

import nndiag

from .programs import PROGRAMS, Program, Run, eager, trained

pytestmark = [  # the compiler's own
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]
STEPS = 200
HIDDEN = [name for name, program in PROGRAMS.items() if not program.sees]
BRIEF = ["whole model, sizes change", "inner modules, fullgraph"]
"""Those of the default run; the others are marked slow."""


@pytest.fixture(autouse=True)
def _compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@cache
def both(name: str, backend: str) -> tuple[Run, Run]:
    """The bare and the watched training; the first use of the compiler changes a process."""
    trained(PROGRAMS[name], backend, 2, watched=False)
    bare, watched = (trained(PROGRAMS[name], backend, STEPS, watched=flag) for flag in (False, True))
    return bare, watched


def cases(*left_out: str) -> Iterator[object]:
    """Programs and backends."""
    for name in (name for name in PROGRAMS if name not in left_out):
        for backend in ("aot_eager", "inductor"):
            is_brief = name in BRIEF and backend == "aot_eager"
            marks = [] if is_brief else [pytest.mark.slow]
            yield pytest.param(name, backend, marks=marks, id=f"{name}-{backend}")


def differing(bare: Run, watched: Run) -> int:
    """Values that are not the same to the bit."""
    pairs = [*zip(bare.losses, watched.losses, strict=True), (bare.random, watched.random)]
    pairs += [(tensor, watched.weights[name]) for name, tensor in bare.weights.items()]
    return sum(int((a != b).sum()) for a, b in pairs)


OF_REAL_BATCHES = {
    *("activation_shift/input_change", "dropout_capacity/idle_in_training", "initialization/gradient_gain"),
    *("initialization/gradient_ratio", "initialization/mean_square_gradient", "norm_drift/batch_z2"),
    *("norm_drift/input_icc", "norm_drift/values_per_statistic"),
}
"""What cannot be read of a replay: gradients at outputs, and how training batches differ from each other."""

OF_THE_UPDATE = {
    *("gradient_flow/saliency_ratio", "gradient_flow/silent_share", "gradient_flow/update_ratio"),
    *("neuron_symmetry/healing_share", "neuron_symmetry/locked_share", "neuron_symmetry/stuck_share"),
    *("run/lr", "run/weight_decay", "run/optimizers", "gradient_flow/resting_share"),
    *("gradient_flow/gradient_norm", "gradient_flow/global_gradient_norm", "norm_drift/effective_rate"),
}
"""What is read where an optimizer is about to update, which a compiled step does not tell."""

Shown = set[tuple[str, str | None]]


def shown(report: nndiag.Report) -> Shown:
    """What was read, and of which layer."""
    return {(reading.tag, reading.layer) for reading in report.readings}


@cache
def shown_of_eager(sizes: tuple[int, ...]) -> Shown:
    """What the same network shows when nothing is compiled."""
    report = trained(Program(eager, sizes=sizes), "", STEPS, watched=True).report
    assert report is not None
    return shown(report)


@pytest.mark.parametrize(("name", "backend"), list(cases()))
def test_compiler_does_nothing_more(
    name: str, backend: str, record_property: Callable[[str, object], None]
) -> None:
    bare, watched = both(name, backend)
    report = watched.report
    assert report is not None
    probe, values = str(report.run["probe"]), differing(bare, watched)
    record_property("compiled", (name, backend, tuple(bare.compiler), tuple(watched.compiler), values, probe))
    assert bare.compiler.graphs > 0
    assert watched.compiler == bare.compiler
    assert values == 0
    assert watched.faults == {}


@pytest.mark.parametrize(("name", "backend"), list(cases(*HIDDEN)))
def test_what_only_the_stream_could_see_is_said_to_be_compiled(name: str, backend: str) -> None:
    program, report = PROGRAMS[name], both(name, backend)[1].report
    assert report is not None
    missing = {tag.removeprefix("nndiag/") for tag, _ in shown_of_eager(program.sizes) - shown(report)}
    if program.region is None:
        assert missing <= (OF_THE_UPDATE if name == "optimizer step" else set())
        return
    assert str(report.run["probe"]).endswith("samples")
    assert missing
    assert missing <= OF_REAL_BATCHES
    assert [note for note in report.coverage.notes if note.startswith(f"inside {program.region} ")]
    assert not any("_orig_mod" in str(layer) for _, layer in shown(report))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in HIDDEN])
def test_what_nobody_can_see_is_held_against_nobody(name: str) -> None:
    report = both(name, "aot_eager")[1].report
    assert report is not None
    assert report.run["probe"] == "refused: no-call"
    assert [f.rule for f in report.findings if f.severity is not nndiag.Severity.INFO] == []
    assert "give nndiag the model that torch.compile returns" in next(
        f.message for f in report.findings if f.rule == "ND903"
    )
    reasons = {entry.reason for entry in report.coverage if entry.status == "not observed"}
    assert any("inside compiled code" in reason for reason in reasons)
