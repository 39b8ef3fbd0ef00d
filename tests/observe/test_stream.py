"""The stream reads real batches through hooks that live for one step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nndiag.layers import discover
from nndiag.measures import Need
from nndiag.observe.stream import WINDOW_SAMPLES, Stream
from nndiag.observe.wiring import Wiring
from nndiag.snapshot import Key

from .recordings import draw

NEEDS = frozenset({Need.INPUT_TAILS, Need.GRADIENT_MOMENTS})


def fail(error: Exception) -> None:
    """Faults are errors here."""
    raise error


def stream_of(model: nn.Module, needs: frozenset[Need] = NEEDS) -> Stream:
    """A stream over all layers."""
    return Stream(model, Wiring(discover(model)), needs, lambda name: True, fail)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def step(stream: Stream, model: nn.Module, x: Tensor, *, gradients: bool = True) -> None:
    """One training step."""
    stream.attach(gradients=gradients)
    model(x).square().mean().backward()
    stream.detach()


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_gradients_at_outputs_are_those_of_autograd() -> None:
    model, x = mlp(), draw(8, 4)
    stream = stream_of(model)
    step(stream, model, x)
    moments: Any = stream.take().statistics[Key("0", "grad_output", "stream", "moments")]
    hidden = model[0](x).detach().requires_grad_()
    model[1:](hidden).square().mean().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(moments.mean.float(), hidden.grad.mean(0))


def test_without_gradients_none_are_read() -> None:
    model = mlp()
    stream = stream_of(model)
    for _ in range(2):  # which inputs are tails is found out between two steps
        step(stream, model, draw(8, 4), gradients=False)
    assert {key.tap for key in stream.take().statistics} == {"input"}


def test_hooks_live_for_one_step() -> None:
    model = mlp()
    stream = stream_of(model)
    stream.attach(gradients=True)
    assert stream.is_attached
    assert hooks_on(model) > 0
    stream.detach()
    stream.detach()
    assert not stream.is_attached
    assert hooks_on(model) == 0


def test_attaching_again_is_attaching_once() -> None:
    model = mlp()
    stream = stream_of(model)
    stream.attach(gradients=True)
    once = hooks_on(model)
    stream.attach(gradients=True)
    assert hooks_on(model) == once
    stream.detach()
    assert hooks_on(model) == 0


def test_tensor_hooks_are_taken_off_before_a_late_backward() -> None:
    """The step's graph may live on."""
    model = mlp()
    stream = stream_of(model)
    stream.attach(gradients=True)
    loss = model(draw(8, 4)).square().mean()
    stream.detach()
    loss.backward()
    assert not any(key.tap == "grad_output" for key in stream.take().statistics)


@pytest.mark.parametrize("batch", [8, 100, 512, 1000])
def test_tails_are_counted_over_a_window(batch: int) -> None:
    """At least as many samples as the window has, at most a batch or an eighth of it more."""
    model = mlp()
    stream = stream_of(model)
    for seed in range(2 * WINDOW_SAMPLES // batch + 3):
        step(stream, model, draw(batch, 4, seed=seed), gradients=False)
    tails: Any = stream.take().statistics[Key("1", "input", "stream", "tails")]
    assert WINDOW_SAMPLES <= tails.k <= WINDOW_SAMPLES + max(2 * batch, WINDOW_SAMPLES // 4)


def test_the_window_survives_a_visit() -> None:
    model = mlp()
    stream = stream_of(model)
    counts = []
    step(stream, model, draw(8, 4), gradients=False)
    for seed in range(3):
        step(stream, model, draw(8, 4, seed=seed), gradients=False)
        tails: Any = stream.take().statistics[Key("1", "input", "stream", "tails")]
        counts.append(tails.k)
    assert counts == [8, 16, 24]


def test_accumulated_batches_of_one_step_are_all_seen() -> None:
    model = mlp()
    stream = stream_of(model)
    for seed in range(3):
        step(stream, model, draw(8, 4, seed=seed))
    moments: Any = stream.take().statistics[Key("0", "grad_output", "stream", "moments")]
    assert int(moments.k if hasattr(moments, "k") else moments.n.max()) == 24


def test_error_of_the_users_leaves_nothing_after_detaching() -> None:
    model = mlp()
    stream = stream_of(model)
    stream.attach(gradients=True)
    with pytest.raises(RuntimeError, match="shapes"):
        model(draw(8, 5))
    stream.detach()
    assert hooks_on(model) == 0
    assert torch._C._len_torch_function_stack() == 0
    step(stream, model, draw(8, 4))
    assert any(key.tap == "grad_output" for key in stream.take().statistics)


def test_frozen_layers_have_no_gradient_to_read() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    stream = stream_of(model)
    step(stream, model, draw(8, 4))
    assert {key.layer for key in stream.take().statistics if key.tap == "grad_output"} == {"2"}
