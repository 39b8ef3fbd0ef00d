"""Monitor and the zoo of outputs: each is measured or named, none raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import nndiag


class Pair(NamedTuple):
    """A named tuple output."""

    first: Tensor
    second: Tensor | None


@dataclass
class Bundle:
    """A dataclass output."""

    scores: Tensor
    note: str = "text"


class AttributeDict(dict[str, Tensor]):
    """A mapping of a library of its own."""


def jagged(x: Tensor) -> Tensor:
    """A nested tensor that keeps the graph."""
    return torch.nested.as_nested_tensor([x[:1], x[1:]], layout=torch.jagged)


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, x + 1),
    "named tuple": lambda x: Pair(x, None),
    "nested": lambda x: {"a": [x, (x, {"b": x})]},
    "mapping subclass": lambda x: AttributeDict(scores=x),
    "dataclass": Bundle,
    "none": lambda x: None,
    "number": lambda x: 3.0,
    "text": lambda x: "text",
    "generator": lambda x: (row for row in x),
    "distribution": lambda x: torch.distributions.Normal(x, 1.0),
    "complex": lambda x: torch.complex(x, x),
    "integer": lambda x: x.detach().long(),
    "bool": lambda x: x > 0,
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float8": lambda x: x.detach().to(torch.float8_e4m3fn),
    "double": lambda x: x.double(),
    "sparse coo": lambda x: x.to_sparse(),
    "sparse csr": lambda x: x.detach().to_sparse_csr(),
    "jagged": jagged,
    "meta": lambda x: x.detach().to("meta"),
    "quantized": lambda x: torch.quantize_per_tensor(x.detach(), 0.1, 0, torch.qint8),
    "empty batch": lambda x: x[:0],
    "no units": lambda x: x[:, :0],
    "scalar": lambda x: x.sum(),
    "vector": lambda x: x.sum(dim=1),
    "nan": lambda x: x * float("nan"),
    "inf": lambda x: x / 0,
    "huge": lambda x: x * 1e38,
    "tiny": lambda x: x * 1e-40,
    "expanded": lambda x: x.sum(dim=1, keepdim=True).expand(8, 5),
    "transposed": lambda x: x.t(),
    "view of itself": lambda x: x.unfold(1, 2, 1),
    "packed": lambda x: nn.utils.rnn.pack_padded_sequence(
        x[:, :, None], torch.full((8,), 3), batch_first=True
    ),
    "six dimensions": lambda x: x[:, :, None, None, None, None],
}


class Odd(nn.Linear):
    """A layer with weights whose output is of an odd kind."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__(4, 4)
        self.make = make

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return self.make(super().forward(x))


class Pass(nn.Module):
    """An activation-like leaf that is given the odd thing."""

    def forward(self, x: Any) -> Any:
        return x


class OddNetwork(nn.Module):
    """Feeds the odd output to an activation and a leaf, and learns through an ordinary branch."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.odd, self.follow, self.relu, self.head = Odd(make), Pass(), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.follow(self.odd(x))
        if type(found) is Tensor and found.layout == torch.strided and found.dtype == torch.float32:
            self.relu(found)
        return self.head(self.relu(x))


def train(model: nn.Module, monitor: nndiag.Monitor | None) -> list[float]:
    """Four steps; the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(4):
        loss = model(torch.randn(8, 4, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if monitor is not None:
            monitor.step(loss)
    return losses


@pytest.mark.filterwarnings("ignore:.*(sparse csr|[Qq]uantiz|nested|CSR|beta state|prototype).*")
@pytest.mark.parametrize("probe", [True, False], ids=["probe", "stream"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_odd_outputs_are_measured_or_named(kind: str, probe: bool) -> None:
    torch.manual_seed(0)
    model = OddNetwork(OUTPUTS[kind])
    monitor = nndiag.Monitor(
        model, every_n_train_steps=1, max_overhead=None, console=False, probe=probe, strict=True
    )
    with monitor:
        losses = train(model, monitor)
    torch.manual_seed(0)
    assert losses == train(OddNetwork(OUTPUTS[kind]), None)
    assert monitor.guard.faults == {}
    assert not any(vars(m)[t] for m in model.modules() for t in ("_forward_hooks", "_forward_pre_hooks"))
    assert all(entry.reason for entry in monitor.report.coverage if entry.status != "measured")
    assert monitor.report.to_json()
