"""The canonical view: every layout of samples, positions and units, and every kind of tensor."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import Tensor, nn

from nndiag.functional import tail_edges
from nndiag.statistics import Histogram, Moments, Rows, Slope, Tails, Unreadable, canonical, unreadable

N, S, C = 5, 6, 3
ENTRY = torch.arange(N * S * C, dtype=torch.float32).reshape(N, S, C)
"""Entry [n, s, c] is (n S + s) C + c: an entry tells its sample, position and unit."""

BATCH = Rows(0, 1, "sample")
LAYOUTS = {
    "[N, C]": (ENTRY[:, 0], -1, BATCH),
    "[C, N]": (ENTRY[:, 0].T, 0, Rows(1, 1, "sample")),
    "[N, T, C]": (ENTRY, -1, BATCH),
    "[N, T, C], unit axis from the front": (ENTRY, 2, BATCH),
    "[T, N, C]": (ENTRY.transpose(0, 1), -1, Rows(1, 1, "sample")),
    "[T, N, C], contiguous": (ENTRY.transpose(0, 1).contiguous(), -1, Rows(1, 1, "sample")),
    "[N, C, L]": (ENTRY.transpose(1, 2), 1, BATCH),
    "[N, C, H, W]": (ENTRY.transpose(1, 2).unflatten(2, (2, 3)), 1, BATCH),
    "[N, C, H, W], contiguous": (ENTRY.transpose(1, 2).unflatten(2, (2, 3)).contiguous(), 1, BATCH),
    "[N, C, H, W], channels last": (
        ENTRY.transpose(1, 2).unflatten(2, (2, 3)).contiguous(memory_format=torch.channels_last), -3, BATCH
    ),
    "[N, C, D, H, W]": (ENTRY.transpose(1, 2).unflatten(2, (1, 2, 3)), 1, BATCH),
    "[N, H, W, C]": (ENTRY.unflatten(1, (2, 3)), -1, BATCH),
    "[N * T, C], sample by sample": (ENTRY.flatten(0, 1), -1, Rows(0, S, "sample")),
    "[T * N, C], position by position": (ENTRY.transpose(0, 1).flatten(0, 1), -1, Rows(0, S, "position")),
    "[N * 2, 3, C], sample by sample": (ENTRY.reshape(N * 2, 3, C), -1, Rows(0, 2, "sample")),
    "[2 * N, 3, C], position by position": (
        ENTRY.reshape(N, 2, 3, C).transpose(0, 1).reshape(2 * N, 3, C), -1, Rows(0, 2, "position")
    ),
    "[N * 2, C, 3], sample by sample": (ENTRY.reshape(N * 2, 3, C).transpose(1, 2), 1, Rows(0, 2, "sample")),
}  # fmt: skip


@pytest.mark.parametrize(("x", "unit_axis", "rows"), LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(x: Tensor, unit_axis: int, rows: Rows) -> None:
    view = canonical(x, unit_axis=unit_axis, rows=rows)
    assert isinstance(view, Tensor)
    entries = view.numpy().astype(int)
    assert entries.shape == (N, x.numel() // N // C, C)
    assert_array_equal(entries % C, np.broadcast_to(np.arange(C), entries.shape))
    assert_array_equal(entries // (S * C), np.broadcast_to(np.arange(N)[:, None, None], entries.shape))
    positions = entries // C % S
    assert_array_equal(positions, np.broadcast_to(positions[0, :, :1], entries.shape))
    assert sorted(positions[0, :, 0]) == list(range(entries.shape[1]))


@pytest.mark.parametrize(
    "name", ["[N, C]", "[N, T, C]", "[T, N, C]", "[N, C, L]", "[N, C, H, W], contiguous", "[N, H, W, C]",
             "[N * T, C], sample by sample", "[T * N, C], position by position"],
)  # fmt: skip
def test_float32_is_not_copied(name: str) -> None:
    x, unit_axis, rows = LAYOUTS[name]
    view = canonical(x, unit_axis=unit_axis, rows=rows)
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("x", "unit_axis"),
    [(ENTRY, -1), (ENTRY.flatten(0, 1), -1), (ENTRY.transpose(1, 2), 1), (ENTRY.unflatten(1, (2, 3)), 3)],
)
def test_unknown_samples_are_one_sample(x: Tensor, unit_axis: int) -> None:
    view = canonical(x, unit_axis=unit_axis, rows=None)
    assert view.shape == (1, N * S, C)
    assert_array_equal(view[0].numpy().astype(int) % C, np.broadcast_to(np.arange(C), (N * S, C)))


@pytest.mark.parametrize("rows", [Rows(4, 1, "sample"), Rows(0, 7, "sample"), Rows(0, 4, "position")])
def test_rows_that_do_not_fit_are_unknown(rows: Rows) -> None:
    view = canonical(ENTRY, unit_axis=-1, rows=rows)
    assert view.shape == (1, N * S, C)


@pytest.mark.parametrize(
    ("x", "unit_axis", "rows", "shape"),
    [
        (torch.tensor(3.0), -1, BATCH, (1, 1, 1)),
        (torch.tensor(3.0), 0, None, (1, 1, 1)),
        (torch.arange(4.0), -1, None, (1, 1, 4)),
        (torch.arange(4.0), 0, BATCH, (4, 1, 1)),
        (torch.zeros(4, 3), 1, Rows(1, 1, "sample"), (1, 4, 3)),
        (torch.zeros(4, 3), 2, BATCH, (1, 12, 1)),
        (torch.zeros(4, 3), -3, BATCH, (1, 12, 1)),
        (torch.zeros(1, 3), -1, BATCH, (1, 1, 3)),
    ],
    ids=["0-d", "0-d, unknown", "one sample", "one unit", "samples are units", "no such axis",
         "no such axis, from behind", "one row"],
)  # fmt: skip
def test_degenerate_shapes(x: Tensor, unit_axis: int, rows: Rows | None, shape: tuple[int, ...]) -> None:
    assert canonical(x, unit_axis=unit_axis, rows=rows).shape == shape


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32),
     (torch.bfloat16, torch.float32), (torch.complex64, torch.float32), (torch.complex128, torch.float64)],
    ids=str,
)  # fmt: skip
def test_precision(dtype: torch.dtype, kept: torch.dtype) -> None:
    assert canonical(ENTRY.to(dtype), unit_axis=-1, rows=BATCH).dtype == kept


def test_complex_numbers_are_read_by_their_size() -> None:
    view = canonical(torch.tensor([[3 + 4j, -2 + 0j]]), unit_axis=-1, rows=BATCH)
    assert view.tolist() == [[[5.0, 2.0]]]


class Named(Tensor):
    """A subclass without a word about its meaning."""


def quantized() -> Tensor:
    ones = torch.ones(4, 3, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8)


def quantized_per_channel() -> Tensor:
    ones = torch.ones(4, 3, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_channel(ones, ones[:, 0], torch.zeros(4), 0, torch.qint8)


def nested(layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=layout)


def sparse(to: Callable[[Tensor], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to(torch.eye(4))


def fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(4, 3)


def half_complex() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ones(4, 3, dtype=torch.complex32)


REFUSED = {
    "sparse COO": (lambda: sparse(Tensor.to_sparse), "sparse or opaque layout"),
    "sparse COO, hybrid": (lambda: torch.ones(4, 3, 2).to_sparse(1), "sparse or opaque layout"),
    "sparse CSR": (lambda: sparse(Tensor.to_sparse_csr), "sparse or opaque layout"),
    "sparse CSC": (lambda: sparse(Tensor.to_sparse_csc), "sparse or opaque layout"),
    "sparse BSR": (lambda: sparse(lambda x: x.to_sparse_bsr((2, 2))), "sparse or opaque layout"),
    "sparse BSC": (lambda: sparse(lambda x: x.to_sparse_bsc((2, 2))), "sparse or opaque layout"),
    "mkldnn": (lambda: torch.ones(4, 3, dtype=torch.float32).to_mkldnn(), "sparse or opaque layout"),
    "nested, strided": (lambda: nested(torch.strided), "nested tensor"),
    "nested, jagged": (lambda: nested(torch.jagged), "tensor subclass NestedTensor"),
    "quantized": (quantized, "quantized tensor"),
    "quantized by channel": (quantized_per_channel, "quantized tensor"),
    "meta": (lambda: torch.ones(4, 3, device="meta"), "meta tensor without data"),
    "fake": (fake, "tensor subclass FakeTensor"),
    "subclass": (lambda: torch.ones(4, 3).as_subclass(Named), "tensor subclass Named"),
    "buffer": (lambda: nn.Buffer(torch.ones(4, 3)).as_subclass(Named), "tensor subclass Named"),
    "uninitialized parameter": (nn.UninitializedParameter, "tensor subclass UninitializedParameter"),
    "uninitialized buffer": (nn.parameter.UninitializedBuffer, "tensor subclass UninitializedBuffer"),
    "empty": (lambda: torch.ones(0, 3), "empty tensor"),
    "empty, without units": (lambda: torch.ones(4, 0), "empty tensor"),
    "two numbers in a byte": (
        lambda: torch.zeros(4, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1fn_x2 values"
    ),
    "bits": (lambda: torch.zeros(4, 3, dtype=torch.uint8).view(torch.bits8), "bits8 values"),
    **{
        f"{dtype}".removeprefix("torch."): (
            lambda dtype=dtype: torch.ones(4, 3, dtype=dtype), f"{dtype} values".removeprefix("torch.")
        )
        for dtype in (torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
                      torch.int8, torch.int16, torch.int32, torch.int64)
    },
    **{
        f"{dtype}".removeprefix("torch."): (
            lambda dtype=dtype: torch.empty(4, 3, dtype=dtype), f"{dtype} values".removeprefix("torch.")
        )
        for dtype in (torch.uint1, torch.uint4, torch.int4)
    },
}  # fmt: skip
READ = {
    **{
        f"{dtype}".removeprefix("torch."): lambda dtype=dtype: torch.ones(4, 3).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64,
                      torch.complex128, torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2,
                      torch.float8_e5m2fnuz, torch.float8_e8m0fnu)
    },
    "half complex": half_complex,
    "parameter": lambda: nn.Parameter(torch.ones(4, 3)).detach(),
    "0-d": lambda: torch.tensor(1.0),
    "0-d complex": lambda: torch.tensor(1j),
    "one entry": lambda: torch.ones(1, 1),
    "conjugated": lambda: torch.ones(4, 3, dtype=torch.complex64).conj(),
    "negated lazily": lambda: torch.full((4, 3), 1j).conj().imag,
    "broadcast": lambda: torch.ones(1, 1).expand(4, 3),
    "slice of a larger one": lambda: torch.ones(40, 30)[::10, 4::10],
    "nan": lambda: torch.full((4, 3), torch.nan),
    "infinite": lambda: torch.full((4, 3), -torch.inf),
    "denormal": lambda: torch.full((4, 3), 1e-42),
    "largest": lambda: torch.full((4, 3), torch.finfo(torch.float32).max),
    "seven axes": lambda: torch.ones(4, 1, 2, 1, 2, 1, 3),
}  # fmt: skip


@pytest.mark.parametrize(("build", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_with_a_reason(build: Callable[[], Tensor], reason: str) -> None:
    x = build()
    assert unreadable(x) == Unreadable(reason)
    assert canonical(x, unit_axis=-1, rows=BATCH) == Unreadable(reason)
    assert canonical(x, unit_axis=-1, rows=None) == Unreadable(reason)


@pytest.mark.parametrize("build", READ.values(), ids=READ)
@pytest.mark.parametrize("rows", [BATCH, Rows(0, 2, "sample"), Rows(0, 2, "position"), None], ids=str)
def test_what_can_be_read_goes_through_every_statistic(
    build: Callable[[], Tensor], rows: Rows | None
) -> None:
    x = build()
    assert unreadable(x) is None
    view = canonical(x, unit_axis=-1, rows=rows)
    assert isinstance(view, Tensor)
    assert view.dim() == 3
    assert view.numel() == x.numel()
    tanh = tail_edges("tanh", torch.tanh)
    moments, tails = Moments.of(view), Tails.of(view, tanh.low, tanh.high)
    assert int(moments.n.sum() + moments.non_finite.sum()) == view.numel()
    assert int(tails.n.sum()) == int((~view.isnan()).sum())
    assert Slope.of(view, tanh).n == int(Histogram.of(view).counts.sum()) == int(view.isfinite().sum())
    assert torch.isfinite(moments.mean).all()
    assert torch.isfinite(moments.m2).all()


def test_parameters_are_read() -> None:
    assert unreadable(nn.Parameter(torch.ones(2))) is None
    assert unreadable(nn.Buffer(torch.ones(2))) is None


@pytest.mark.parametrize("transform", [torch.vmap, torch.func.grad], ids=["vmap", "grad"])
def test_tensors_inside_a_functorch_transform_are_refused(transform) -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append((unreadable(x), canonical(x, unit_axis=-1, rows=BATCH)))
        return x.sum()

    transform(function)(torch.ones(4))
    assert seen == [(Unreadable("inside a functorch transform"),) * 2]


def test_tensors_of_inference_mode_are_read() -> None:
    with torch.inference_mode():
        x = torch.ones(4, 3)
    view = canonical(x, unit_axis=-1, rows=BATCH)
    assert Moments.of(view).mean.tolist() == [1.0, 1.0, 1.0]
    assert Slope.of(view, tail_edges("relu", torch.relu)).transmission == 1.0
