"""The watch sees every module call and functional operation, with its place in the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nndiag.observe.watch import Call, Watch, canonical_name

from .programs import network
from .recordings import draw


class Noting:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.calls: dict[str, Call] = {}
        self.outputs: dict[str, Any] = {}
        self.circumstances: set[tuple[bool, bool, int]] = set()

    def before(self, call: Call) -> None:
        """Begins."""
        self.begun.append(call.key)
        self.calls[call.key] = call
        modes = torch._C._len_torch_function_stack() if torch._C._is_torch_function_enabled() else 0
        self.circumstances.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), modes))

    def after(self, call: Call, output: Any) -> None:
        """Ends."""
        self.ended.append(call.key)
        self.outputs[call.key] = output


def seen(model: nn.Module, *inputs: Any, lexical: bool = True, **options: Any) -> Noting:
    """One forward pass."""
    noting = Noting()
    with Watch(model, noting, lexical=lexical, **options):
        model(*inputs)
    assert sorted(noting.begun) == sorted(noting.ended)
    return noting


BOTH = pytest.mark.parametrize("lexical", [True, False], ids=["replay", "training"])

FORMS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "F.relu": (lambda x: F.relu(x), ["relu"]),
    "torch.relu": (lambda x: torch.relu(x), ["relu"]),
    "method": (lambda x: x.relu(), ["relu"]),
    "in place": (lambda x: (x * 1).relu_(), ["relu"]),
    "F.relu in place": (lambda x: F.relu(x * 1, inplace=True), ["relu"]),
    "F.relu_": (lambda x: F.relu_(x * 1), ["relu"]),
    "torch.relu_": (lambda x: torch.relu_(x * 1), ["relu"]),
    "F.sigmoid": (lambda x: F.sigmoid(x), ["sigmoid"]),
    "torch.sigmoid": (lambda x: torch.sigmoid(x), ["sigmoid"]),
    "sigmoid method": (lambda x: x.sigmoid(), ["sigmoid"]),
    "torch.tanh": (lambda x: torch.tanh(x), ["tanh"]),
    "F.gelu": (lambda x: F.gelu(x), ["gelu"]),
    "F.silu": (lambda x: F.silu(x), ["silu"]),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.2), ["leaky_relu"]),
    "F.hardtanh": (lambda x: F.hardtanh(x), ["hardtanh"]),
    "F.logsigmoid": (lambda x: F.logsigmoid(x), ["logsigmoid"]),
    "F.softmax": (lambda x: F.softmax(x, -1), ["softmax"]),
    "softmax method": (lambda x: x.softmax(-1), ["softmax"]),
    "F.dropout": (lambda x: F.dropout(x, 0.5), ["dropout"]),
    "F.layer_norm": (lambda x: F.layer_norm(x, (4,)), ["layer_norm"]),
    "F.group_norm": (lambda x: F.group_norm(x, 2), ["group_norm"]),
    "F.batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), ["batch_norm"]),
    "F.linear": (lambda x: F.linear(x, x), ["linear"]),
    "F.conv1d": (lambda x: F.conv1d(x[None], x[:, :, None]), ["conv1d"]),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
        ["scaled_dot_product_attention"],
    ),
    "twice": (lambda x: F.relu(F.relu(x)), ["relu", "relu#1"]),
    "none of these": (lambda x: (x + 1).sum().exp() * x.shape[0], []),
}


@BOTH
@pytest.mark.parametrize(("form", "names"), FORMS.values(), ids=FORMS.keys())
def test_functional_forms_have_their_place(
    form: Callable[[Tensor], Any], names: list[str], lexical: bool
) -> None:
    model = nn.Sequential(nn.Identity(), network(lambda m, x: form(x)))
    found = seen(model, draw(4, 4, seed=1).requires_grad_(), lexical=lexical)
    assert found.begun == ["", "0", "1", *(f"1:{name}" for name in names)]
    assert all(found.calls[f"1:{name}"].function == name.partition("#")[0] for name in names)
    assert all(found.calls[f"1:{name}"].owner == "1" for name in names)


@BOTH
def test_inside_of_torchs_modules_is_the_module(lexical: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Dropout(0.5), nn.Softmax(-1))
    found = seen(model, draw(2, 4).requires_grad_(), lexical=lexical)
    assert found.begun == ["", "0", "1", "2", "3", "4"]
    assert all(call.function is None and call.module is not None for call in found.calls.values())


def test_attention_of_a_module_is_one_operation() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True))
    found = seen(model, draw(2, 3, 4).requires_grad_(), lexical=False)
    assert "0.self_attn:multi_head_attention_forward" in found.begun
    assert "0.self_attn.out_proj" not in found.begun, "used by its weights only"
    assert "0:relu" in found.begun


@BOTH
def test_module_that_is_called_three_times(lexical: bool) -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), shared)
    found = seen(model, draw(2, 4).requires_grad_(), lexical=lexical)
    assert found.begun == ["", "0", "1", "0#1", "3", "0#2"]
    assert torch.equal(found.outputs["0#2"], found.outputs[""])


class Pair(NamedTuple):
    """A tuple of a kind of its own."""

    a: Tensor
    b: Tensor


@dataclasses.dataclass
class Held:
    """No container of torch's."""

    a: Tensor


@BOTH
@pytest.mark.parametrize(
    "wrap",
    [lambda y: (y, y), lambda y: [y], lambda y: {"a": y}, Held, lambda y: Pair(y, y), lambda y: None],
    ids=["tuple", "list", "dict", "dataclass", "named tuple", "nothing"],
)
def test_outputs_of_any_kind_are_handed_on_as_they_are(wrap: Callable[[Tensor], Any], lexical: bool) -> None:
    made: list[Any] = []

    def forward(m: Any, x: Tensor) -> Any:
        made.append(wrap(m.inner(x)))
        return made[-1]

    model = network(forward, inner=nn.Linear(4, 4))
    noting = Noting()
    with Watch(model, noting, lexical=lexical):
        output = model(draw(2, 4).requires_grad_())
    assert output is made[0]
    assert noting.outputs[""] is made[0]


def test_keywords_are_told() -> None:
    model = network(lambda m, *, x, factor: m.inner(x) * factor, inner=nn.Linear(4, 4))
    noting = Noting()
    with Watch(model, noting):
        model(x=draw(2, 4), factor=3)
    assert noting.calls[""].args == ()
    assert set(noting.calls[""].kwargs) == {"x", "factor"}


def test_names_have_no_wrappers() -> None:
    inner = nn.Sequential(nn.Linear(4, 4))
    model = nn.Module()
    model.add_module("_orig_mod", inner)
    model.forward = inner.forward  # type: ignore[method-assign]
    assert seen(model, draw(2, 4)).begun == ["", "0"]


@BOTH
def test_place_is_right_after_an_error(lexical: bool) -> None:
    """The same watch, the next call."""

    def forward(m: Any, x: Tensor, fail: bool) -> Tensor:
        h = m.inner(x, fail)
        return torch.tanh(h)

    def inner(m: Any, x: Tensor, fail: bool) -> Tensor:
        if fail:
            raise ValueError("the user's")
        return torch.relu(x)

    model = network(forward, inner=network(inner))
    noting, x = Noting(), draw(2, 4).requires_grad_()
    with Watch(model, noting, lexical=lexical):
        with pytest.raises(ValueError, match="the user's"):
            model(x, True)
        noting.begun.clear()
        model(x, False)
    assert noting.begun == ["#1", "inner#1", "inner:relu", ":tanh"]
    assert torch._C._len_torch_function_stack() == 0


def test_error_caught_by_the_model_leaves_the_place_right() -> None:
    def trying(m: Any, x: Tensor) -> Tensor:
        try:
            return m.risky(x)
        except ValueError:
            return torch.relu(x)

    def risky(m: Any, x: Tensor) -> Tensor:
        raise ValueError

    assert seen(network(trying, risky=network(risky)), draw(2, 4)).begun == ["", "risky", ":relu"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_is_not_seen(reentrant: bool) -> None:
    """A checkpointed block runs again in backward: it is one call."""
    model = network(
        lambda m, x: m.last(checkpoint(m.block, m.first(x), use_reentrant=reentrant)),
        first=nn.Linear(4, 4),
        block=nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        last=nn.Linear(4, 1),
    )
    noting = Noting()
    with Watch(model, noting, lexical=False):
        model(draw(2, 4)).sum().backward()
    inside = [] if reentrant else ["block", "block.0", "block.1"]  # re-entrant runs it without gradients
    assert noting.begun == ["", "first", *inside, "last"]


def test_listener_runs_without_gradients_autocast_or_modes() -> None:
    model = nn.Sequential(nn.Linear(4, 4), network(lambda m, x: torch.relu(x)))
    noting = Noting()
    with torch.autocast("cpu", torch.bfloat16), Watch(model, noting, lexical=False):
        model(draw(2, 4))
    assert noting.circumstances == {(False, False, 0)}


@BOTH
def test_nothing_is_left_behind(lexical: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    seen(model, draw(2, 4).requires_grad_(), lexical=lexical)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch._C._len_torch_function_stack() == 0


def test_training_without_gradients_is_not_seen() -> None:
    """Validation and momentum encoders are none of the stream's business."""
    model = nn.Sequential(nn.Linear(4, 4))
    noting = Noting()
    with Watch(model, noting, lexical=False), torch.no_grad():
        model(draw(2, 4))
    assert noting.begun == []


def test_functions_between_calls_of_a_training_step_are_not_the_models() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    noting = Noting()
    with Watch(model, noting, lexical=False):
        torch.relu(model(draw(2, 4)))
    assert noting.begun == ["", "0"]


def test_functions_can_be_left_out() -> None:
    model = network(lambda m, x: torch.relu(x))
    assert seen(model, draw(2, 4), functions=False).begun == [""]


def test_vectorized_calls_are_passed_over() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    noting = Noting()
    with Watch(model, noting, lexical=False):
        torch.vmap(model)(draw(3, 4))
    assert noting.begun == []


def test_fast_paths_for_evaluation_stay() -> None:
    """A frozen encoder inside a training model: a hook would make it take another kernel."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1).eval()
    model = network(lambda m, x: m.head(m.encoder(x)), encoder=encoder, head=nn.Linear(4, 1))
    noting = Noting()
    with Watch(model, noting, lexical=False):
        assert not any(m._forward_hooks for m in encoder.modules())
        model(draw(2, 3, 4))
    assert noting.begun == ["", "head"]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (Tensor.relu_, "relu"),
        (torch.nn.functional.hardsigmoid, "hardsigmoid"),
        (F.logsigmoid, "logsigmoid"),
        (Tensor.add, None),
        (torch.matmul, None),
        (len, None),
    ],
)
def test_canonical_names(function: Callable[..., Any], name: str | None) -> None:
    assert canonical_name(function) == name
