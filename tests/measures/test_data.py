"""Input scale: what is far from what weights are made for, and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.findings import Finding

from .loops import related, train, warnings_of
from .networks import Convolutions, stack
from .runs import Batch, Run, batches, prototypes

Change = Callable[[Tensor], Tensor]
STEPS = 4


def run(change: Change, model: nn.Module | None = None, steps: int = STEPS, lr: float = 1e-3) -> Run:
    """Prototypes, changed; a rate at which nothing else happens."""
    torch.manual_seed(0)
    model = model or stack(nn.ReLU)
    data = [(change(x), y) for x, y in batches(steps)]
    return train(model, data, torch.optim.Adam(model.parameters(), lr), probe_samples=128)


def column(x: Tensor) -> Tensor:
    return torch.cat([1000 * x[:, :1], x[:, 1:]], 1)


FAULTS = {
    "large": (lambda x: 30 * x, "large"),
    "small": (lambda x: 1e-3 * x, "small"),
    "offset": (lambda x: x + 10, "offset"),
    "one column": (column, "columns"),
    "pixels": (lambda x: (x - x.min()) * 40, "large"),
}


@pytest.mark.parametrize(("change", "fault"), FAULTS.values(), ids=FAULTS)
def test_faults(change: Change, fault: str) -> None:
    finding = run(change).findings()["ND701"]
    assert (finding.severity, finding.layers) == ("warning", ("0",))
    assert finding.evidence["fault"] == fault
    assert finding.first_step == 0


def test_readings_against_the_samples() -> None:
    x = torch.cat([batch[0] for batch in batches(2)])
    watched = run(lambda x: 3 * x + 1, steps=2)
    seen = 3 * x + 1
    assert watched.reading("input_scale", "0").n == 128
    assert watched.reading("input_scale", "0").value == pytest.approx(float(seen.std(correction=0)), rel=1e-5)
    offset = float(seen.mean().abs() / seen.std(correction=0))
    assert watched.reading("input_offset", "0").value == pytest.approx(offset, rel=1e-4)
    columns = seen.std(0, correction=0)
    ratio = float(columns.max() / columns.median())
    assert watched.reading("column_ratio", "0").value == pytest.approx(ratio, rel=1e-5)


def test_the_advice_gives_mean_and_scale() -> None:
    x = torch.cat([batch[0] for batch in batches(STEPS)])
    finding = run(lambda x: 30 * x + 7).findings()["ND701"]
    assert finding.evidence["mean"] == pytest.approx(float((30 * x + 7).mean()), abs=1.5)
    assert f"(x - {finding.evidence['mean']}) / {finding.evidence['scale']}" in finding.recommendation


def one_hot(x: Tensor) -> Tensor:
    """256 columns, one of which is 1: a standard deviation of 1/16, a length of 1."""
    return F.one_hot((x[:, 0].abs() * 100).long() % 256, 256).to(x.dtype)


def bordered(x: Tensor) -> Tensor:
    """Pixels from 0 to 1 whose outer ones are always zero."""
    image = x.sigmoid().view(-1, 8, 8)
    return F.pad(image[:, 1:7, 1:7], (1, 1, 1, 1)).flatten(1)


def rare(x: Tensor) -> Tensor:
    """Counts: sparse, not small."""
    return (x > 2.2).to(x.dtype)


HEALTHY: dict[str, tuple[Change, Callable[[], nn.Module]]] = {
    "standardized": (lambda x: (x - x.mean()) / x.std(), lambda: stack(nn.ReLU)),
    "one-hot": (one_hot, lambda: stack(nn.ReLU, features=256)),
    "border pixels": (bordered, lambda: stack(nn.ReLU)),
    "sparse counts": (rare, lambda: stack(nn.ReLU)),
    "pixels from 0 to 1": (lambda x: x.sigmoid(), lambda: stack(nn.ReLU)),
    "images": (lambda x: x.view(-1, 1, 8, 8), Convolutions),
    "small pixels of a large image": (lambda x: 0.1 * x, lambda: stack(nn.ReLU)),
    "batch norm first": (
        lambda x: column(x) * 10 + 500,
        lambda: nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    ),
    "tokens": (
        lambda x: (x.abs() * 1000).long() % 50,
        lambda: nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(256, 10)),
    ),
}


@pytest.mark.parametrize(("change", "make"), HEALTHY.values(), ids=HEALTHY)
def test_no_alarm(change: Change, make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    watched = run(change, make())
    assert watched.findings().get("ND701") is None or watched.findings()["ND701"].severity == "info"
    assert warnings_of(watched) == []


def test_constant_columns_are_a_note() -> None:
    finding = run(bordered).findings()["ND701"]
    assert (finding.severity, finding.evidence["constant_columns"]) == ("info", 28)
    assert finding.evidence["fault"] == "none"


def test_equal_columns_are_a_note() -> None:
    finding = run(lambda x: torch.cat([x[:, :60], x[:, :4]], 1)).findings()["ND701"]
    assert (finding.severity, finding.evidence["twin_columns"]) == ("info", 4)


@pytest.mark.parametrize(
    ("change", "make"), [HEALTHY["batch norm first"], HEALTHY["tokens"]], ids=["norm", "ids"]
)
def test_what_has_no_scale_of_its_own_is_not_read(change: Change, make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    watched = run(change, make())
    assert not [r for u in watched.updates for r in u.readings if r.measure == "data"]


def test_columns_of_an_image_are_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    scales = torch.tensor([1.0, 2.0, 300.0]).view(1, 3, 1, 1)
    watched = run(lambda x: x.view(-1, 1, 8, 8).expand(-1, 3, -1, -1) * scales, model)
    reading = watched.reading("column_ratio", "0")
    assert len(reading.units) == 3
    assert reading.value == pytest.approx(150, rel=1e-4)
    assert watched.findings()["ND701"].evidence["largest_column"] == 2


def table(steps: int, *, standardized: bool) -> list[Batch]:
    """Eight columns from 0.3 to 300, offsets up to 1,000, as of houses."""
    scale = torch.tensor([300.0, 0.3, 3.0, 1.0, 10.0, 0.5, 2.0, 5.0])
    offset = torch.tensor([1000.0, 1.0, 6.0, 3.0, 30.0, 1.0, 36.0, -10.0])
    z, _ = prototypes(64 * steps, features=8)
    x = z if standardized else z * scale + offset
    return list(zip(x.split(64), (z[:, 1] - z[:, 5]).tanh().split(64), strict=True))


def squared(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(1), batch[1])


def of_table(*, standardized: bool) -> Finding | None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    data = table(STEPS, standardized=standardized)
    return train(model, data, torch.optim.Adam(model.parameters(), 1e-3), squared).findings().get("ND701")


def test_a_raw_table() -> None:
    raw = of_table(standardized=False)
    assert raw is not None
    assert (raw.severity, raw.evidence["largest_column"]) == ("warning", 0)
    assert of_table(standardized=True) is None


def test_pixels_lead_what_they_bring_about() -> None:
    """Pixels of 0 to 255 under SGD kill every unit: one finding, the rest below it."""
    torch.manual_seed(0)
    model = stack(nn.ReLU, depth=2, width=64)
    data = [((x - x.min()) * 40, y) for x, y in batches(42)]
    watched = train(model, data, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    assert warnings_of(watched) == ["ND701"]
    assert watched.report.findings[0].severity == "critical"
    assert "ND202" in related(watched, "ND701")


def test_without_a_probe_the_batches_are_read() -> None:
    torch.manual_seed(0)
    model = stack(nn.ReLU)
    data = [(30 * x, y) for x, y in batches(STEPS)]
    watched = train(model, data, torch.optim.Adam(model.parameters(), 1e-3), probe=False)
    assert watched.findings()["ND701"].severity == "warning"
