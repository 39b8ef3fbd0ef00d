"""Inside the sandbox a model may do what it likes; afterwards it never ran."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nndiag.observe.sandbox import Sandbox


class Stubborn(nn.Module):
    """Its ``train`` and ``eval`` are not to be called."""

    def train(self, mode: bool = True) -> Any:
        """Raises."""
        raise AssertionError("train() called")


def test_evaluation_by_the_flag_alone() -> None:
    model = nn.Sequential(nn.Dropout(), Stubborn(), nn.BatchNorm1d(2))
    model[2].__dict__["training"] = False
    with Sandbox(model, []):
        assert [module.training for module in model.modules()] == [False] * 4
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled(), "a model may need versions"
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.is_grad_enabled()


def test_scripted_modules_evaluate_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Dropout(0.5))))
    x = torch.ones(64)
    with Sandbox(model, []):
        assert torch.equal(model(x), x)
    assert not torch.equal(model(x), x)


def test_chance_is_the_same_at_each_visit_and_untouched_outside() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    model, seen = nn.Linear(1, 1), []
    for _ in range(2):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        with Sandbox(model, []):
            seen.append((torch.rand(3).tolist(), random.random(), np.random.rand()))
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
        torch.rand(1)
    assert seen[0] == seen[1]


def test_default_dtype_and_warnings_are_put_back() -> None:
    with Sandbox(nn.Linear(1, 1), []):
        torch.set_default_dtype(torch.float64)
        warnings.warn("not heard", stacklevel=1)
    assert torch.get_default_dtype() == torch.float32
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_logs_are_silent_and_an_own_log_comes_back() -> None:
    class Logging(nn.Module):
        def training_step(self) -> None:
            """Marks the class as one of Lightning's kind."""

        def log(self, *args: Any) -> None:
            raise AssertionError("logged")

        log_dict = log

    plain, own = Logging(), Logging()
    own.log = "the user's"  # type: ignore[method-assign, assignment]
    with Sandbox(nn.Sequential(plain, own), []):
        plain.log("a", 1)
        own.log("a", 1)
        own.log_dict({})
    assert "log" not in vars(plain)
    assert vars(own)["log"] == "the user's"


def test_membership_of_modules_parameters_and_hooks() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    weight = model[0].weight
    with Sandbox(model, []) as sandbox:
        model.add_module("late", nn.ReLU())
        model[0].register_buffer("extra", torch.zeros(1))
        model[0].weight = nn.Parameter(torch.zeros(2, 2))
        model[0].register_forward_hook(lambda *args: None)
        del model[0].bias
    assert list(model._modules) == ["0"]
    assert list(model[0]._buffers) == []
    assert list(model[0]._parameters) == ["weight", "bias"]
    assert model[0].weight is weight
    assert not model[0]._forward_hooks
    assert len(sandbox.changed) == 5


def test_everything_is_put_back_after_an_error() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()

    def misbehave() -> None:
        with Sandbox(model, []):
            model.weight.fill_(7)
            model.__dict__["count"] = 1
            raise KeyError("the user's")

    with pytest.raises(KeyError, match="the user's"):
        misbehave()
    assert torch.equal(model.weight, before)
    assert "count" not in vars(model)
    assert model.training
    assert torch._C._len_torch_dispatch_stack() == 0


def test_what_fails_to_be_set_aside_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    state = torch.get_rng_state()

    def fail(*args: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr("nndiag.observe.sandbox.install", fail)
    with pytest.raises(RuntimeError, match="no room"):
        Sandbox(model, []).__enter__()
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch._C._len_torch_dispatch_stack() == 0
