"""What an attention call multiplies is read as the kernels read it: its rows are the module's own weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.observe.attention import MAX_QUERIES, Attention, attention_of
from nndiag.observe.watch import Call, Watch

from .programs import network
from .recordings import draw


class Reading:
    """A listener that reads attention calls."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def before(self, call: Call) -> None:
        """Reads."""
        found = attention_of(call)
        if found is not None:
            self.found.append(found)

    def after(self, call: Call, output: Any) -> None:
        """Nothing."""


def read(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What was read, and the output."""
    reading = Reading()
    with Watch(model, reading), torch.no_grad():
        output = model(*args, **kwargs)
    (found,) = reading.found
    return found, output


def rows(attention: Attention) -> Tensor:
    """The attention matrix."""
    scores = attention.queries @ attention.keys.transpose(-1, -2)
    if attention.allowed is not None:
        scores = scores.masked_fill(~attention.allowed, -math.inf)
    return scores.softmax(-1)


MASKS = {
    "none": {},
    "boolean": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
    "additive": {"attn_mask": torch.full((5, 5), -math.inf).triu(1)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False, False, True, True, True]])},
    "additive padding": {
        "key_padding_mask": torch.tensor([[0.0] * 5, [0.0, 0.0, 0.0, -math.inf, -math.inf]])
    },
    "both": {
        "attn_mask": torch.full((5, 5), -math.inf).triu(1),
        "key_padding_mask": torch.tensor([[0.0] * 5, [0.0, 0.0, 0.0, 0.0, -math.inf]]),
    },
    "for each head": {"attn_mask": (draw(4, 5, 5) > 1) & ~torch.eye(5, dtype=torch.bool)},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("batch_first", [True, False])
def test_rows_are_those_that_the_module_returns(mask: dict[str, Tensor], batch_first: bool) -> None:
    torch.manual_seed(0)
    inner = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    model = network(lambda m, x, **k: m.inner(x, x, x, average_attn_weights=False, **k), inner=inner)
    x = draw(2, 5, 8)
    found, (_, weights) = read(model, x if batch_first else x.transpose(0, 1), **mask)
    torch.testing.assert_close(rows(found), weights)


def test_keys_of_another_width() -> None:
    torch.manual_seed(0)
    inner = nn.MultiheadAttention(8, 2, kdim=6, vdim=3, batch_first=True, bias=False)
    model = network(lambda m, q, k, v: m.inner(q, k, v, average_attn_weights=False), inner=inner)
    found, (_, weights) = read(model, draw(2, 5, 8), draw(2, 7, 6), draw(2, 7, 3))
    torch.testing.assert_close(rows(found), weights)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.1},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.zeros(5, 5).masked_fill(torch.eye(5, dtype=torch.bool).roll(1, 0), -math.inf)},
    ],
    ids=["plain", "causal", "scaled", "boolean", "additive"],
)
@pytest.mark.parametrize("heads", [None, 3])
def test_fused_attention(options: dict[str, Any], heads: int | None) -> None:
    """With values that are the unit vectors, the output is the attention matrix."""
    shape = (2, 5, 4) if heads is None else (2, heads, 5, 4)
    q, k = draw(*shape), draw(*shape, seed=1)
    v = torch.eye(5).expand(*shape[:-2], 5, 5)
    model = network(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, **options))
    found, output = read(model, q, k, v)
    torch.testing.assert_close(rows(found).reshape(output.shape), output)


def test_grouped_queries() -> None:
    q, k = draw(2, 4, 5, 4), draw(2, 2, 5, 4, seed=1)
    v = torch.eye(5).expand(2, 2, 5, 5)
    model = network(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    found, output = read(model, q, k, v)
    torch.testing.assert_close(rows(found), output)


def test_many_queries_are_cut_to_few_that_are_evenly_spread() -> None:
    length = 3 * MAX_QUERIES
    q, k = draw(1, 1, length, 2), draw(1, 1, length, 2, seed=1)
    model = network(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    found, output = read(model, q, k, torch.eye(length).view(1, 1, length, length))
    kept = torch.linspace(0, length - 1, MAX_QUERIES).round().long()
    assert found.queries.shape[-2] == MAX_QUERIES
    torch.testing.assert_close(rows(found), output[:, :, kept])


@pytest.mark.parametrize("extra", [{"add_zero_attn": True}, {"add_bias_kv": True}])
def test_what_cannot_be_read_has_a_reason(extra: dict[str, bool]) -> None:
    torch.manual_seed(0)
    model = network(
        lambda m, x: m.inner(x, x, x), inner=nn.MultiheadAttention(8, 2, batch_first=True, **extra)
    )
    found, _ = read(model, draw(2, 5, 8))
    assert "extra keys" in found


def test_too_many_axes_have_a_reason() -> None:
    model = network(lambda m, q: F.scaled_dot_product_attention(q, q, q))
    assert "5-dimensional" in read(model, draw(1, 1, 2, 3, 4))[0]
