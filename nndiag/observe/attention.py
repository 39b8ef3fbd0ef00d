"""Queries and keys of an attention call, cut to few queries: enough to see how sharp its rows are.

Fused kernels never show the attention matrix; on the probe's samples it is computed again from these.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nndiag.observe.watch import Call

MAX_QUERIES = 64
_FUSED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
"""Arguments of ``scaled_dot_product_attention``, which is built in and has no signature to ask for."""


class Attention(NamedTuple):
    """Scaled queries [N, H, L, E], keys [N, H, S, E], and which keys [.., L, S] each query may look at."""

    queries: Tensor
    keys: Tensor
    allowed: Tensor | None


def attention_of(call: Call) -> Attention | str | None:
    """What an attention call multiplies.

    Returns:
        The factors; a reason, where they cannot be read; None for a module whose function call follows.
    """
    if call.function == "scaled_dot_product_attention":
        return _from_fused(*call.args, **call.kwargs)
    if call.function == "multi_head_attention_forward":
        return _from_projections(call)
    return None


def scores_of(call: Call) -> Tensor | str:
    """[N, H, L, S] what a softmax that is written out is given, cut to few rows; or why it cannot be read.

    Additive masks push forbidden keys below any real score.
    """
    arguments = list(call.args)
    scores = arguments[0] if arguments else call.kwargs.get("input")
    dim = arguments[1] if len(arguments) > 1 else call.kwargs.get("dim")
    if not isinstance(scores, Tensor) or not isinstance(dim, int) or scores.is_nested or scores.dim() < 2:
        return "a softmax over what has no rows of scores"
    rows = scores.movedim(dim, -1)
    rows = rows.unsqueeze(1) if rows.dim() == 2 else rows
    rows = rows.unsqueeze(1) if rows.dim() == 3 else rows.flatten(0, -4) if rows.dim() > 4 else rows
    kept = _spread(rows.shape[-2], rows.device)
    rows = rows if kept is None else rows.index_select(-2, kept)
    return rows.masked_fill(rows <= -1e4, -torch.inf)


def bound_arguments(call: Call) -> dict[str, Any]:
    """The arguments of a functional attention call by name, defaults included."""
    if call.function == "scaled_dot_product_attention":
        return dict(zip(_FUSED, call.args, strict=False)) | dict(call.kwargs)
    bound = inspect.signature(F.multi_head_attention_forward).bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _from_fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Attention | str:
    if query.is_nested or key.is_nested:
        return "attention over nested tensors"
    if query.dim() < 3 or query.dim() > 4:
        return f"attention over {query.dim()}-dimensional queries"
    if query.dim() == 3:
        query, key = query.unsqueeze(1), key.unsqueeze(1)
        attn_mask = attn_mask.unsqueeze(1) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
    if enable_gqa and key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return _cut(
        query * factor, key, _allowed(attn_mask, is_causal, query.shape[-2], key.shape[-2], query.device)
    )


def _from_projections(call: Call) -> Attention | str:
    a = bound_arguments(call)
    query, key, heads, size = a["query"], a["key"], a["num_heads"], a["embed_dim_to_check"]
    if query.is_nested or a["bias_k"] is not None or a["add_zero_attn"]:
        return "attention with nested inputs, or with extra keys"
    if query.dim() == 2:
        query, key = query.unsqueeze(1), key.unsqueeze(1)
    bias = a["in_proj_bias"]
    q_bias, k_bias = (None, None) if bias is None else (bias[:size], bias[size : 2 * size])
    if a["use_separate_proj_weight"]:
        q_weight, k_weight = a["q_proj_weight"], a["k_proj_weight"]
    else:
        q_weight, k_weight = a["in_proj_weight"][:size], a["in_proj_weight"][size : 2 * size]

    def split(x: Tensor) -> Tensor:
        """[L, N, heads * e] -> [N, heads, L, e]."""
        parts: Tensor = x.unflatten(-1, (heads, size // heads))
        return parts.permute(1, 2, 0, 3)

    queries = split(F.linear(query, q_weight, q_bias)) * (size // heads) ** -0.5
    keys = split(F.linear(key, k_weight, k_bias))
    allowed = _allowed(a["attn_mask"], False, queries.shape[-2], keys.shape[-2], queries.device)
    if allowed is not None and allowed.dim() == 3:
        allowed = allowed.unflatten(0, (-1, heads))
    padding = a["key_padding_mask"]
    if padding is not None:
        padded = padding if padding.dtype == torch.bool else padding < -1e4
        visible = ~padded.reshape(-1, 1, 1, padded.shape[-1])
        allowed = visible if allowed is None else allowed & visible
    return _cut(queries, keys, allowed)


def _allowed(
    mask: Tensor | None, causal: bool, queries: int, keys: int, device: torch.device
) -> Tensor | None:
    """True where a query may look at a key; additive masks forbid what they push below any real score."""
    allowed = None
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask > -1e4
    if causal:
        triangle = torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
        allowed = triangle if allowed is None else allowed & triangle
    return allowed


def _cut(queries: Tensor, keys: Tensor, allowed: Tensor | None) -> Attention:
    """At most ``MAX_QUERIES`` queries, evenly spread."""
    length = queries.shape[-2]
    kept = _spread(length, queries.device)
    if kept is None:
        return Attention(queries, keys, allowed)
    if allowed is not None and allowed.shape[-2] == length:
        allowed = allowed.index_select(-2, kept)
    return Attention(queries.index_select(-2, kept), keys, allowed)


def _spread(length: int, device: torch.device) -> Tensor | None:
    """Places of at most ``MAX_QUERIES`` rows; None: all."""
    if length <= MAX_QUERIES:
        return None
    return torch.linspace(0, length - 1, MAX_QUERIES, device=device).round().long()
