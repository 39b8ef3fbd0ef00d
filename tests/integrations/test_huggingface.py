"""DiagnosticsCallback under Hugging Face's Trainer: exact, complete, silent about its own faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import nndiag

pytest.importorskip("transformers", reason="needs transformers: pip install 'transformers[torch]'")
pytest.importorskip("accelerate", reason="needs accelerate: pip install 'transformers[torch]'")

from .huggingface_runs import STEPS, bert, gpt, history, hooks_on, trained, trainer, watching
from .loop_runs import differences

PROGRAMS = {
    "plain": {},
    "evaluation between steps": {"eval_strategy": "steps", "eval_steps": 3},
    "no clipping": {"max_grad_norm": 0.0},
    "half precision": {"bf16": True},
    "another loss": {"label_smoothing_factor": 0.1},
    "checkpointing": {"gradient_checkpointing": True},
}


def test_training_is_exact(tmp_path: Path) -> None:
    check_exact(tmp_path, {"gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 3})


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_other_training_is_exact(program: dict[str, Any], tmp_path: Path) -> None:
    check_exact(tmp_path, program)


def check_exact(tmp_path: Path, program: dict[str, Any]) -> None:
    """The same training with and without the callback: weights, buffers, logs, random numbers, hooks."""
    callback = watching()
    watched = trained(tmp_path, callback, **program)
    after = torch.get_rng_state()
    bare = trained(tmp_path, **program)
    assert torch.equal(after, torch.get_rng_state())
    assert differences(watched.model, bare.model) == []
    assert history(watched) == history(bare)
    assert hooks_on(watched.model) == hooks_on(bare.model)
    assert callback.report.run["last_step"] == STEPS - 1
    assert callback.guard.causes == {}
    read = {reading.tag for reading in callback.report.readings}
    assert {"nndiag/gradient_flow/gradient_norm", "nndiag/gradient_flow/update_ratio"} <= read


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("make", [bert, gpt])
def test_the_loss_is_the_trainers(make: Any, accumulate: int, tmp_path: Path) -> None:
    callback = watching()
    used = trainer(tmp_path, callback, make(), gradient_accumulation_steps=accumulate)
    used.train()
    logged = [logs["loss"] for logs in used.state.log_history if "loss" in logs]
    (last,) = (reading.value for reading in callback.report.readings if reading.tag == "nndiag/run/loss")
    assert last == pytest.approx(logged[-1], abs=6e-5)


@pytest.mark.slow
def test_a_step_is_an_optimizer_step(tmp_path: Path) -> None:
    callback = watching()
    trained(tmp_path, callback, gradient_accumulation_steps=4, max_steps=4)
    assert callback.report.run["total_steps"] == 4
    assert callback.report.run["last_step"] == 3
    assert callback.report.run["visits"] == 4


def test_event_files_lie_beside_the_trainers(tmp_path: Path) -> None:
    trained(tmp_path, watching(), report_to=["tensorboard"])
    (record,) = tmp_path.rglob("nndiag.jsonl")
    own, theirs = (list(record.parent.glob(f"{part}events.out.tfevents.*")) for part in ("nndiag/", ""))
    assert len(own) == len(theirs) == 1


@pytest.mark.slow
def test_log_dir_is_enough(tmp_path: Path) -> None:
    trained(tmp_path / "out", watching(log_dir=tmp_path / "run", html=True))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"nndiag", "nndiag.jsonl", "nndiag.html"}


@pytest.mark.slow
def test_nothing_is_written_unless_told(tmp_path: Path) -> None:
    trained(tmp_path, watching(html=True, strict=False))
    assert [path for path in tmp_path.rglob("*") if "nndiag" in path.name] == []


@pytest.mark.slow
def test_a_finding_names_the_layer_and_can_stop(tmp_path: Path) -> None:
    model = bert()
    torch.nn.init.constant_(model.bert.pooler.dense.bias, 100.0)
    callback = watching(stop_on="warning")
    used = trainer(tmp_path, callback, model)
    used.train()
    found = {layer for top in callback.report.findings for each in top.walk() for layer in each.layers}
    assert any(layer.startswith("bert.pooler") for layer in found)
    assert used.state.global_step < STEPS


def test_users_exception_is_the_one_raised(tmp_path: Path) -> None:
    callback = watching()
    used = trainer(tmp_path, callback)
    inputs = iter([None] * 3)

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(inputs, "over") == "over":
            raise ValueError("the user's own")
        return type(used).compute_loss(used, *args, **kwargs)

    used.compute_loss = failing  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the user's own"):
        used.train()
    assert callback.report.run["visits"] == 3
    callback.close()
    assert callback.report.run["visits"] == 3
    assert hooks_on(used.model) == 0


@pytest.mark.slow
def test_faults_are_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("begin_batch", "before_update", "end_batch", "close"):
        monkeypatch.setattr(f"nndiag.session.Session.{name}", lambda *args, **kwargs: 1 / 0)
    watched, bare = trained(tmp_path, watching(strict=False)), trained(tmp_path)
    assert differences(watched.model, bare.model) == []


@pytest.mark.slow
def test_a_resumed_run_goes_on(tmp_path: Path) -> None:
    half = {"save_strategy": "steps", "save_steps": 6}
    trained(tmp_path, watching(), **half)
    assert (tmp_path / "checkpoint-6" / "nndiag.pt").stat().st_size < 2**16
    callback = watching()
    resumed = trainer(tmp_path, callback, **half)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert callback.report.run["watched_from"] == 6
    assert callback.report.run["visits"] > STEPS - 6


def test_unknown_layer_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(nndiag.ConfigurationError, match=r"layers.*bret"):
        trained(tmp_path, watching(layers=["bret.*"]))


def test_environment_switches_everything_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNDIAG", "0")
    callback = watching(log_dir=tmp_path / "run")
    trained(tmp_path, callback, max_steps=1)
    assert callback.report.readings == ()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_compiled_model_costs_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    counts, models, callback = [], [], watching()
    for each in (callback, None):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        used = trainer(tmp_path, each, torch_compile=True, torch_compile_backend="aot_eager")
        used.train()
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        models.append(used.model)
    monkeypatch.delenv("ACCELERATE_DYNAMO_BACKEND", raising=False)
    assert counts[0] == counts[1]
    assert differences(*models) == []
    assert "nndiag/gradient_flow/gradient_norm" in {reading.tag for reading in callback.report.readings}
