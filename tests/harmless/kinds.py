"""The zoo: every kind of tensor and container that a layer may be given, return or hold."""

from __future__ import annotations

import contextlib
import types
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.distributed.tensor import DTensor, Replicate, init_device_mesh
from torch.masked import masked_tensor
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

Make = Callable[[Tensor], Any]


class Pair(NamedTuple):
    """A named tuple."""

    first: Tensor
    second: Tensor | None


@dataclass
class Bundle:
    """A dataclass."""

    scores: Tensor
    note: str = "text"


@dataclass(frozen=True)
class FrozenBundle:
    """A dataclass that cannot be written to."""

    scores: Tensor


@dataclass(slots=True)
class SlottedBundle:
    """A dataclass without a ``__dict__``."""

    scores: Tensor


@dataclass
class ModelOutput(OrderedDict[str, Any]):
    """A mapping whose entries are attributes too, as libraries of models return it."""

    logits: Tensor
    hidden: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        self["logits"], self["hidden"] = self.logits, self.hidden

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class AttributeDict(dict[str, Tensor]):
    """A mapping of a library of its own."""


class Opaque:
    """An object that holds a tensor where nobody looks."""

    __slots__ = ("inner",)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner


class Named(Tensor):
    """A tensor subclass without a method of its own."""


class Overriding(Tensor):
    """A tensor subclass that takes part in every function."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapper(Tensor):
    """A tensor without data of its own: any operation that is not a plain copy raises."""

    wrapped: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.wrapped = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return Wrapper(args[0].wrapped)
        raise RuntimeError(f"{func} is not for this tensor")


def wide(x: Tensor, *shape: int) -> Tensor:
    """Rows of ``x``, repeated to fill [8, *shape]."""
    size = int(np.prod(shape))
    return x.repeat(1, -(-size // x.shape[1]))[:, :size].reshape(8, *shape)


def nested(layout: torch.layout) -> Make:
    """Samples of different lengths."""
    return lambda x: torch.nested.as_nested_tensor([x[:1], x[1:4]], layout=layout)


def quantized(dtype: torch.dtype) -> Make:
    """One scale for all."""
    return lambda x: torch.quantize_per_tensor(x.detach(), 0.1, 0, dtype)


def inferred(x: Tensor) -> Tensor:
    """Made where autograd keeps no account: it may never be written to elsewhere."""
    with torch.inference_mode():
        return x.detach() * 2


def fake(x: Tensor) -> Tensor:
    """Shapes without numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.ones(x.shape)


def distributed(x: Tensor) -> Tensor:
    """Of a mesh with one process."""
    return DTensor.from_local(x, init_device_mesh("cpu", (1,)), [Replicate()])


def cast(dtype: torch.dtype) -> Make:
    """Another number format, through one that both know."""
    return lambda x: x.detach().abs().clamp(max=9).to(dtype)


def deep(x: Tensor) -> Any:
    """Containers in containers, beyond any depth that is looked into."""
    value: Any = x
    for _ in range(30):
        value = [value]
    return value


def circular(x: Tensor) -> list[Any]:
    """A list that holds itself."""
    value: list[Any] = [x]
    value.append(value)
    return value


DTYPES: dict[str, Make] = {
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double(),
    "complex64": lambda x: torch.complex(x, x),
    "complex128": lambda x: torch.complex(x, x).to(torch.complex128),
    "complex32": lambda x: torch.complex(x, x).detach().to(torch.complex32),
    "bool": lambda x: x > 0,
    **{
        str(dtype).removeprefix("torch."): cast(dtype)
        for dtype in (
            *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.uint16, torch.uint32, torch.uint64),
            *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
            torch.float8_e8m0fnu,
        )
    },
    "float4": lambda x: cast(torch.uint8)(x).view(torch.float4_e2m1fn_x2),
    "qint8": quantized(torch.qint8),
    "quint8": quantized(torch.quint8),
    "quantized by channel": lambda x: torch.quantize_per_channel(
        x.detach(), torch.full((4,), 0.1), torch.zeros(4, dtype=torch.long), 1, torch.qint8
    ),
}

LAYOUTS: dict[str, Make] = {
    "sparse coo": lambda x: x.to_sparse(),
    "sparse coo uncoalesced": lambda x: torch.sparse_coo_tensor([[0, 0], [1, 1]], x[0, :2], (8, 4)),
    "sparse csr": lambda x: x.detach().to_sparse_csr(),
    "sparse csc": lambda x: x.detach().to_sparse_csc(),
    "sparse bsr": lambda x: x.detach().to_sparse_bsr((2, 2)),
    "mkldnn": lambda x: x.detach().to_mkldnn(),
    "nested strided": nested(torch.strided),
    "nested jagged": nested(torch.jagged),
    "meta": lambda x: x.detach().to("meta"),
    "fake": fake,
}

VIEWS: dict[str, Make] = {
    "contiguous": lambda x: x,
    "zero dimensions": lambda x: x.sum(),
    "one dimension": lambda x: x.sum(1),
    "no samples": lambda x: x[:0],
    "no features": lambda x: x[:, :0],
    "eight dimensions": lambda x: wide(x, 1, 2, 1, 2, 1, 1, 2),
    "transposed": lambda x: x.t(),
    "every second": lambda x: wide(x, 8)[:, ::2],
    "expanded": lambda x: x.sum().expand(8, 4),
    "overlapping": lambda x: x.unfold(1, 2, 1),
    "channels last": lambda x: wide(x, 4, 2, 2).to(memory_format=torch.channels_last),
    "channels last 3d": lambda x: wide(x, 4, 2, 2, 2).to(memory_format=torch.channels_last_3d),
    "conjugate view": lambda x: torch.complex(x, x).conj(),
    "negative view": lambda x: torch.complex(x, x).conj().imag,
    "alias": lambda x: x.detach(),
    "leaf that asks for a gradient": lambda x: x.detach().requires_grad_(),
    "inference": inferred,
    "parameter": lambda x: nn.Parameter(x.detach()),
    "nan": lambda x: x * torch.nan,
    "infinite": lambda x: x / 0,
    "huge": lambda x: x * 1e38,
    "denormal": lambda x: x * 1e-42,
}

SUBCLASSES: dict[str, Make] = {
    "subclass": lambda x: x.as_subclass(Named),
    "overriding subclass": lambda x: x.as_subclass(Overriding),
    "wrapper": lambda x: Wrapper(x.detach()),
    "masked": lambda x: masked_tensor(x.detach(), x > 0),
    "distributed": distributed,
}

CONTAINERS: dict[str, Make] = {
    "tuple": lambda x: (x, x + 1),
    "empty tuple": lambda x: (),
    "list": lambda x: [x, x + 1],
    "named tuple": lambda x: Pair(x, None),
    "return type": lambda x: x.max(1),
    "dict": lambda x: {"a": x, 3: x},
    "ordered dict": lambda x: OrderedDict(a=x),
    "mapping subclass": lambda x: AttributeDict(scores=x),
    "model output": lambda x: ModelOutput(x, (x,)),
    "dataclass": Bundle,
    "frozen dataclass": FrozenBundle,
    "slotted dataclass": SlottedBundle,
    "namespace": lambda x: types.SimpleNamespace(scores=x),
    "opaque object": Opaque,
    "deque": lambda x: deque([x]),
    "set": lambda x: {x},
    "nested": lambda x: {"a": [x, (x, {"b": x})]},
    "thirty deep": deep,
    "circular": circular,
    "packed sequence": lambda x: pack_padded_sequence(x[:, :, None], torch.full((8,), 3), batch_first=True),
    "ragged packed sequence": lambda x: pack_sequence([x[:3], x[:2]]),
    "normal distribution": lambda x: torch.distributions.Normal(x, 1.0),
    "categorical distribution": lambda x: torch.distributions.Categorical(logits=x),
    "numpy": lambda x: x.detach().numpy(),
}

OTHERS: dict[str, Make] = {
    "none": lambda x: None,
    "number": lambda x: 3.0,
    "text": lambda x: "text",
    "bytes": lambda x: b"bytes",
    "shape": lambda x: x.shape,
    "function": lambda x: lambda: x,
    "module": lambda x: nn.Identity(),
    "generator": lambda x: (row for row in x),
    "iterator": lambda x: iter([x]),
    "random generator": lambda x: torch.Generator().manual_seed(0),
}

KINDS: dict[str, Make] = {**DTYPES, **LAYOUTS, **VIEWS, **SUBCLASSES, **CONTAINERS, **OTHERS}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Torch's own remarks on prototypes; what nndiag causes elsewhere is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
