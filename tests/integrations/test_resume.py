"""A run that goes on from a checkpoint: exact training, what nndiag takes along, and what it says of the seam."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import nndiag
from nndiag.observe.schedule import Schedule
from nndiag.sinks import read_run, rediagnose

from .lightning_runs import BATCHES, RESUME, Classifier, loader, quiet_monitor, quiet_trainer, trained

SEAM = BATCHES


class Locked(Classifier):
    """Its first layer begins with equal rows, so that units stay twins: a finding that outlasts the seam."""

    def __init__(self) -> None:
        super().__init__()
        layer, last = self.network[0], self.network[4]
        with torch.no_grad():
            layer.weight[:] = layer.weight[:1].clone()
            layer.bias[:] = 0.1
            last.weight[:] = last.weight[:, :1].clone()
        self.network[3].p = 0.0


def saved(path: Path, *monitors: Any, module: Classifier | None = None) -> Path:
    """The checkpoint of a run of one epoch."""
    torch.manual_seed(0)
    trainer = quiet_trainer(*monitors)
    trainer.fit(module or Classifier(), loader(shuffle=True), loader())
    trainer.save_checkpoint(path)
    return path


def resumed(path: Path, *monitors: Any, module: Classifier | None = None, epochs: int = 2) -> Trainer:
    """The run that goes on from a checkpoint, loaded with nothing but weights and plain types."""
    torch.manual_seed(1)
    trainer = quiet_trainer(*monitors, max_epochs=epochs)
    trainer.fit(module or Classifier(), loader(shuffle=True), loader(), ckpt_path=path, **RESUME)
    return trainer


def states(path: Path) -> dict[str, Any]:
    """What callbacks left in a checkpoint."""
    return dict(torch.load(path, weights_only=True)["callbacks"])


def leaves(value: Any) -> Iterator[Any]:
    """Everything inside nested containers."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def bytes_of(state: object) -> int:
    """Its size in a file."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


Chain = tuple[Mapping[str, Any], list[float], torch.Tensor]
"""The last checkpoint, the losses of the last run, and random numbers at its end."""


def chain(path: Path, *watched: bool) -> Chain:
    """Runs that each go on from the checkpoint of the one before."""
    module = Classifier()
    saved(path, *([quiet_monitor()] if watched[0] else []))
    for epochs, is_watched in enumerate(watched[1:], 2):
        module = Classifier()
        trainer = resumed(path, *([quiet_monitor()] if is_watched else []), module=module, epochs=epochs)
        trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True), module.losses, torch.get_rng_state()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The chain without a monitor."""
    return chain(tmp_path_factory.mktemp("bare") / "step.ckpt", False, False, False)


@pytest.mark.parametrize("middle", [True, False], ids=["on", "off"])
@pytest.mark.parametrize(("first", "last"), [(True, True), (True, False), (False, True)], ids=str)
def test_chain_of_resumed_runs_is_exact(
    first: bool, middle: bool, last: bool, bare: Chain, tmp_path: Path
) -> None:
    watched = chain(tmp_path / "step.ckpt", first, middle, last)
    assert watched[1] == bare[1]
    for part in ("state_dict", "optimizer_states", "loops", "lr_schedulers"):
        torch.testing.assert_close(watched[0][part], bare[0][part], rtol=0, atol=0)
    assert torch.equal(watched[2], bare[2])


def test_state_is_small_and_of_plain_types(tmp_path: Path) -> None:
    (state,) = states(saved(tmp_path / "half.ckpt", quiet_monitor())).values()
    assert state["version"] == 1
    assert state["step"] == SEAM - 1
    kinds = {type(leaf) for leaf in leaves(state)}
    assert kinds <= {str, int, float, bool, type(None), torch.Tensor}
    assert 0 < bytes_of(state) <= 64_000


def test_checkpoint_in_the_middle_of_a_run(tmp_path: Path) -> None:
    def run(*monitors: Any) -> list[float]:
        keeping = ModelCheckpoint(tmp_path, "step", every_n_train_steps=4, save_on_train_epoch_end=False)
        torch.manual_seed(0)
        quiet_trainer(*monitors, keeping, enable_checkpointing=True).fit(Classifier(), loader(), loader())
        (path,) = tmp_path.glob("*.ckpt")
        kept.append(states(path))
        module = Classifier()
        resumed(path, *([quiet_monitor()] if monitors else []), module=module, epochs=1)
        path.unlink()
        return module.losses

    kept: list[dict[str, Any]] = []
    assert run(quiet_monitor()) == run()
    assert kept[0]["DiagnosticsMonitor"]["step"] == 3
    assert not [key for key in kept[1] if key.startswith("DiagnosticsMonitor")]


def test_visits_are_counted_on(tmp_path: Path) -> None:
    monitor = quiet_monitor()
    resumed(saved(tmp_path / "half.ckpt", quiet_monitor()), monitor)
    schedules = (Schedule(1, SEAM), range(SEAM)), (Schedule(1, 2 * SEAM), range(SEAM, 2 * SEAM))
    expected = sum(schedule.is_visit(step) for schedule, steps in schedules for step in steps)
    assert monitor.report.run["visits"] == expected


def test_growth_is_counted_from_the_start_of_the_run(tmp_path: Path) -> None:
    norms: list[float] = []

    class Measured(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            norms.append(float(self.network[0].weight.detach().double().norm()))

    monitor = quiet_monitor()
    resumed(saved(tmp_path / "half.ckpt", quiet_monitor(), module=Measured()), monitor, module=Measured())
    (rate,) = [reading for reading in monitor.report.readings if reading.name == "effective_rate"]
    assert rate.detail["growth"] == pytest.approx(norms[rate.step] / norms[0], abs=1e-5)
    assert abs(norms[SEAM] / norms[0] - 1) > 1e-4  # counted from the seam, it would differ


def test_findings_outlast_the_seam(tmp_path: Path) -> None:
    before, after = quiet_monitor(), quiet_monitor()
    path = saved(tmp_path / "half.ckpt", before, module=Locked())
    (locked,) = [f for f in before.report.findings if f.rule == "ND301"]
    resumed(path, after, module=Locked())
    (still,) = [f for f in after.report.findings if f.rule == "ND301"]
    assert (still.first_step, still.layers) == (locked.first_step, locked.layers)
    assert still.first_step < SEAM


def test_without_a_memory_a_trained_network_is_not_taken_for_a_fresh_one(tmp_path: Path) -> None:
    monitor = quiet_monitor()
    resumed(saved(tmp_path / "half.ckpt"), monitor)
    tags = {reading.tag for reading in monitor.report.readings}
    assert tags
    assert not [tag for tag in tags if tag.endswith("weight_gain")]
    assert (
        f"watched from step {SEAM} on: nothing is known of the steps before" in monitor.report.coverage.notes
    )


def test_the_seam_is_marked_in_the_report_and_in_the_record(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    monitor = quiet_monitor(log_dir=run)
    resumed(saved(tmp_path / "half.ckpt", quiet_monitor(log_dir=run)), monitor)
    marks = [note for note in monitor.report.coverage.notes if note.startswith(f"resumed at step {SEAM}:")]
    assert len(marks) == 1
    assert monitor.report.run["watched_from"] == SEAM
    assert marks[0] in rediagnose(read_run(run)).coverage.notes
    assert f"resumed at step {SEAM}" in str(monitor.report)
    assert [visit.step for visit in read_run(run).visits][-1] == 2 * BATCHES - 1


def test_nothing_of_the_probe_is_compared_across_the_seam(tmp_path: Path) -> None:
    path = saved(tmp_path / "half.ckpt", quiet_monitor())
    monitor = quiet_monitor(probe_samples=8)
    seen: list[Any] = []

    class Keeping(Classifier):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.append([r for r in monitor.report.readings if r.name.endswith("_shift")])

    resumed(path, monitor, module=Keeping())
    new = [[r.step for r in readings if r.step >= SEAM] for readings in seen]
    assert new[0] == []  # one visit alone has nothing to be compared with
    assert any(new)


def test_a_newer_state_is_left_out_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "half.ckpt", quiet_monitor())
    checkpoint = torch.load(path, weights_only=True)
    (key,) = checkpoint["callbacks"]
    checkpoint["callbacks"][key] = {"version": 2, "what": "is not known here"}
    torch.save(checkpoint, path)
    monitor = quiet_monitor()
    with caplog.at_level(logging.WARNING, "nndiag"):
        resumed(path, monitor)
    assert [record.message for record in caplog.records if record.name == "nndiag"] == [
        "What nndiag saved in the checkpoint is left out: a newer nndiag wrote it: upgrade nndiag to go on from"
        " there. The run goes on without it."
    ]
    assert monitor.report.run["last_step"] == 2 * BATCHES - 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state | {"memory": state["memory"][:40]},
        lambda state: state | {"memory": torch.zeros(8, dtype=torch.uint8)},
        lambda state: {"version": 1},
        lambda state: state | {"version": "one"},
        lambda state: state | {"memory": 3},
    ],
    ids=["cut off", "zeros", "empty", "version in words", "a number"],
)
def test_a_damaged_state_is_left_out(damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    monitor = quiet_monitor()
    trained(monitor)
    fresh = quiet_monitor()
    with caplog.at_level(logging.WARNING, "nndiag"):
        fresh.load_state_dict(damage(monitor.state_dict()))
        fresh.setup(quiet_trainer(fresh), None, "fit")
        fresh.load_state_dict(damage(monitor.state_dict()))
        fresh.on_train_start(quiet_trainer(fresh), Classifier())
    (record,) = [record for record in caplog.records if record.name == "nndiag"]
    assert "left out: it is damaged" in record.message


def test_two_monitors_keep_two_states_also_when_they_are_equal(tmp_path: Path) -> None:
    before = quiet_monitor(), quiet_monitor(), quiet_monitor(measures=["saturation"])
    path = saved(tmp_path / "half.ckpt", *before)
    assert set(states(path)) == {"DiagnosticsMonitor", "DiagnosticsMonitor.1", "DiagnosticsMonitor.2"}
    after = quiet_monitor(), quiet_monitor(), quiet_monitor(measures=["saturation"])
    resumed(path, *after)
    visits = [monitor.report.run["visits"] for monitor in after]
    assert visits[0] == visits[1] > before[0].report.run["visits"]
    assert {r.measure for r in after[2].report.readings} <= {"saturation", "run"}


def test_a_run_without_a_checkpoint_resumes_nothing(tmp_path: Path) -> None:
    monitor, once = quiet_monitor(), quiet_monitor()
    resumed(saved(tmp_path / "half.ckpt", quiet_monitor()), monitor)
    trained(monitor)
    trained(once)
    assert monitor.report.run["visits"] == once.report.run["visits"]


def test_switched_off_monitor_hands_the_state_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "half.ckpt", quiet_monitor())
    monkeypatch.setenv("NNDIAG", "0")
    trainer = resumed(path, quiet_monitor())
    trainer.save_checkpoint(tmp_path / "more.ckpt")
    assert states(tmp_path / "more.ckpt")["DiagnosticsMonitor"]["step"] == SEAM - 1


def test_a_fault_while_saving_leaves_the_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nndiag.session.Session.memory", lambda self: 1 / 0)
    path = saved(tmp_path / "half.ckpt", quiet_monitor(strict=False))
    assert states(path) == {}


def test_plain_loop_goes_on(tmp_path: Path) -> None:
    def run(monitor: nndiag.Monitor, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with monitor:
            for _ in range(4):
                loss = model(torch.randn(16, 6)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                monitor.step(loss)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = nndiag.Monitor(model, optimizer=optimizer, console=False, strict=True)
    run(first, model, optimizer)
    torch.save(first.state_dict(), tmp_path / "nndiag.pt")
    second = nndiag.Monitor(model, optimizer=optimizer, console=False, strict=True)
    second.load_state_dict(torch.load(tmp_path / "nndiag.pt", weights_only=True))
    run(second, model, optimizer)
    assert second.report.run["watched_from"] == 4
    assert second.report.run["last_step"] == 7
