"""A recorded step is a tape: the model's calls, what lies between them, and the data it began with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.observe.recorder import Recorder
from nndiag.observe.replay import play
from nndiag.observe.tape import Tape

from .cases import SGD
from .programs import network
from .recordings import draw, record, tape_of


def pair(**parts: Any) -> Any:
    """Two layers, called apart."""
    torch.manual_seed(0)
    return network(first=nn.Linear(4, 6), last=nn.Linear(6, 2), **parts)


def operations(tape: Tape) -> list[str]:
    """Names in order; calls are marked."""
    return [f"{o.name}()" if o.kind == "call" else o.name for o in tape.operations]


def outputs(tape: Tape) -> list[Tensor]:
    """The first output of each call of a replay."""
    with torch.no_grad():
        return [tensors[0] for tensors in play(tape)]


def test_outermost_calls_only() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.ReLU())
    tape = tape_of(model, lambda: model(draw(2, 4)))
    assert operations(tape) == ["()"]
    assert len(tape.leaves) == 1


def test_what_calls_do_not_need_is_cut_away() -> None:
    model, x = pair(), draw(3, 4)

    def step() -> None:
        h = model.first(x)
        (h * 3).sum()
        model.last(h.tanh()).square().mean().backward()

    assert operations(tape_of(model, step)) == ["first()", "tanh", "last()"]


def test_data_is_kept_by_value_not_by_how_it_was_made() -> None:
    """Noise, masks and preprocessing are data of the step."""
    model, x = pair(), draw(3, 4)

    def step() -> None:
        noisy = (x * 2 + torch.randn_like(x)).flip(0)
        model.last(model.first(noisy))
        expected.append(noisy)

    expected: list[Tensor] = []
    tape = tape_of(model, step)
    assert operations(tape) == ["first()", "last()"]
    assert [torch.equal(leaf.value, expected[0]) for leaf in tape.leaves.values()] == [True]


def test_noise_made_like_an_output_is_data_too() -> None:
    model, x = pair(), draw(3, 4)

    def step() -> None:
        h = model.first(x)
        model.last(h + torch.randn_like(h))

    tape = tape_of(model, step)
    assert "randn_like" not in operations(tape)
    assert len(tape.leaves) == 2


def test_replay_follows_the_parameters() -> None:
    model, x = pair(scale=nn.Parameter(torch.ones(6))), draw(3, 4)

    def step() -> Tensor:
        return model.last((model.first(x) * model.scale).relu())

    tape = tape_of(model, step)
    with torch.no_grad():
        model.scale.mul_(2)
        model.first.weight.add_(1)
        expected = step()
    assert torch.equal(outputs(tape)[1], expected)


def test_input_that_the_step_overwrites() -> None:
    model, x = pair(), draw(3, 4)
    before = x.clone()

    def step() -> None:
        model.first(x)
        x.zero_()

    tape = tape_of(model, step)
    assert torch.equal(next(iter(tape.leaves.values())).value, before)


@pytest.mark.parametrize(
    "drop",
    [
        lambda h: F.dropout(h, 0.5, training=True),
        lambda h: F.dropout(h, 0.5, True),
        lambda h: F.dropout(h),
        lambda h: torch.dropout(h, 0.5, True),
        lambda h: F.alpha_dropout(h, 0.5, True),
    ],
    ids=["keyword", "position", "default", "torch", "alpha"],
)
def test_glue_has_evaluation_arguments(drop: Any) -> None:
    """A training flag is baked into the recorded operation."""
    model, x = pair(), draw(64, 4)
    tape = tape_of(model, lambda: model.last(drop(model.first(x))))
    with torch.no_grad():
        assert torch.equal(outputs(tape)[1], model.last(model.first(x)))


def test_loss_modules_are_no_layers() -> None:
    model = pair(criterion=nn.MSELoss())
    x = draw(3, 4)
    assert operations(tape_of(model, lambda: model.criterion(model.first(x), draw(3, 6)))) == ["first()"]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.add_(1),
        lambda h: h.__setitem__((slice(None), 0), 0.0),
        lambda h: h.view(-1).mul_(2),
        lambda h: F.relu(h, inplace=True),
        lambda h: torch.add(h, 1, out=h),
    ],
    ids=["method", "item", "through a view", "function", "out"],
)
def test_in_place_glue_is_replayed(change: Any) -> None:
    model, x = pair(), draw(3, 4)

    def step() -> Tensor:
        with torch.no_grad():
            h = model.first(x)
            change(h)
            return model.last(h)

    tape = tape_of(model, step)
    expected = step()
    assert tape.stale_calls == []
    assert torch.equal(outputs(tape)[1], expected)


@pytest.mark.parametrize(
    "change",
    [lambda h: h.add_(1), lambda h: h * 2, lambda h: h.view(-1).mul_(2).view(3, 6)],
    ids=["in place", "out of place", "through a view"],
)
def test_without_glue_changed_values_are_stale(change: Any) -> None:
    """Only identity is left: the same object may hold another value."""
    model, x = pair(), draw(3, 4)
    tape = tape_of(model, lambda: model.last(change(model.first(x))), glue=False)
    assert tape.stale_calls == ["last"]


@pytest.mark.parametrize(
    "view",
    [lambda h: h, lambda h: h.detach(), lambda h: h[:, :6], lambda h: h.t().t(), lambda h: h.reshape(3, 6)],
    ids=["itself", "detached", "slice", "transposed twice", "reshaped"],
)
def test_without_glue_views_are_linked(view: Any) -> None:
    model, x = pair(), draw(3, 4)
    tape = tape_of(model, lambda: model.last(view(model.first(x))), glue=False)
    assert tape.stale_calls == []
    with torch.no_grad():
        model.first.weight.mul_(3)
        expected = model.last(model.first(x))
    assert torch.equal(outputs(tape)[1], expected)


def test_parts_of_outputs_are_linked_as_views() -> None:
    model, x = network(first=nn.Linear(4, 12), last=nn.Linear(6, 2)), draw(3, 4)
    tape = tape_of(model, lambda: model.last(model.first(x)[:, 6:]), glue=False)
    with torch.no_grad():
        model.first.weight.mul_(3)
        expected = model.last(model.first(x)[:, 6:])
    torch.testing.assert_close(outputs(tape)[1], expected)


def test_values_that_leave_torch_are_noted() -> None:
    model, x = pair(), draw(3, 4)
    tape = tape_of(model, lambda: model.last(model.first(x) * float(model.first(x).mean().detach())))
    assert any("leaves torch" in note for note in tape.notes)


def test_optimizer_steps_are_not_recorded() -> None:
    """Manual optimization: updates happen inside the window."""
    model, x = pair(), draw(3, 4)
    optimizer = SGD(model.parameters())

    def step() -> None:
        model.last(model.first(x)).mean().backward()
        optimizer.step()
        model.last(model.first(x))

    assert operations(tape_of(model, step)) == ["first()", "last()", "first()", "last()"]


def test_autocast_is_replayed() -> None:
    model, x = pair(), draw(3, 4)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model.last(model.first(x))

    tape = tape_of(model, step)
    assert [output.dtype for output in outputs(tape)] == [torch.bfloat16] * 2


def test_two_recordings_of_one_program_are_alike() -> None:
    """Also when what is cut away differs."""
    model = pair()

    def step(x: Tensor, extra: int) -> None:
        h = model.first(x)
        for _ in range(extra):
            h.exp().sum()
        model.last(h.tanh())

    tapes = [tape_of(model, lambda i=i: step(draw(3, 4, seed=i), i)) for i in range(3)]
    assert tapes[0].structure == tapes[1].structure == tapes[2].structure
    assert tapes[0].leaves.keys() == tapes[2].leaves.keys()


def test_other_programs_are_not_alike() -> None:
    model = pair()
    one = tape_of(model, lambda: model.last(model.first(draw(3, 4))))
    other = tape_of(model, lambda: model.last(model.first(draw(3, 4)).tanh()))
    assert one.structure != other.structure


def test_error_of_the_users_passes_and_leaves_no_hook() -> None:
    model = pair()

    def fail() -> None:
        model.first(draw(3, 4))
        model.first(draw(3, 5))

    with pytest.raises(RuntimeError, match="shapes"):
        record(model, fail)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch._C._len_torch_function_stack() == 0


def test_fault_of_ours_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Recorder, "_begin", fail)
    model = pair()
    recorder = record(model, lambda: model.first(draw(3, 4)))
    assert recorder.refusal is not None
    assert "ours" in recorder.refusal.reason


def test_outside_the_window_nothing_is_recorded() -> None:
    model = pair()
    recorder = Recorder(model)
    recorder.arm()
    model.first(draw(3, 4))
    recorder.open(glue=True)
    recorder.close()
    model.first(draw(3, 4))
    assert recorder.disarm().calls == []
    assert recorder.refusal is not None
    assert recorder.refusal.code == "no-call"


def test_disarming_twice_is_harmless() -> None:
    model = pair()
    recorder = record(model, lambda: model.first(draw(3, 4)))
    assert recorder.disarm().calls == ["first"]
