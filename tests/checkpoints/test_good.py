"""Every form of a checkpoint gives the numbers that were put into it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nndiag import checkpoints
from nndiag.checkpoints.child import read_here
from nndiag.checkpoints.folders import open_checkpoint
from nndiag.checkpoints.inference import plain_names
from nndiag.layers import discover
from nndiag.measures import Need
from nndiag.observe.weights import WeightsObserver
from nndiag.snapshot import Snapshot
from nndiag.statistics import NormState, ParameterFlow, RowSignature

from .good import GOOD, HYPERPARAMETERS, network, state


def raw(path: Path) -> dict[str, Tensor | str]:
    """Tensors as the reader sees them, wrappers stripped; for those that cannot be read, why."""
    with contextlib.ExitStack() as stack:
        found = open_checkpoint(path, stack).tensors
        names, _ = plain_names(found)
        return {names[name]: stored.problem or stored.read() for name, stored in found.items()}


def test_there_are_enough_of_them() -> None:
    assert len(GOOD) >= 25
    assert len(HYPERPARAMETERS) >= 17


@pytest.mark.parametrize("name", GOOD)
def test_tensors_are_those_that_were_saved(name: str, tmp_path: Path) -> None:
    found = raw(GOOD[name](tmp_path))
    expected = state()
    found.pop("n_averaged", None)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("name", ["zip", "zip, deflated", "legacy", "turned and sliced", "parameters"])
def test_same_as_torch_load(name: str, tmp_path: Path) -> None:
    path = GOOD[name](tmp_path)
    expected = torch.load(path, weights_only=True)
    for key, tensor in raw(path).items():
        assert torch.equal(tensor, expected[key]), key
        assert tensor.stride() == expected[key].stride(), key


def test_same_as_safetensors(tmp_path: Path) -> None:
    path = GOOD["safetensors"](tmp_path)
    expected = load_file(path)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in raw(path).items())


FLOATS = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
OTHERS = "int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool complex64 complex128"


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kind", f"{FLOATS} {OTHERS}".split())
def test_number_formats(kind: str, form: str, tmp_path: Path) -> None:
    tensor = torch.arange(1.0, 13.0).reshape(3, 4).to(getattr(torch, kind))
    path = tmp_path / f"x.{form}"
    if form == "safetensors":
        if kind == "complex128":
            pytest.skip("the format has no such numbers")
        save_file({"fc.weight": tensor}, path)
    else:
        torch.save({"fc.weight": tensor}, path, _use_new_zipfile_serialization=form == "zip")
    found = raw(path)["fc.weight"]
    assert isinstance(found, Tensor)
    assert found.dtype == tensor.dtype
    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("kind", FLOATS.split())
def test_floating_formats_are_measured(kind: str, tmp_path: Path) -> None:
    weight = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 0.5]]).to(getattr(torch, kind))
    torch.save({"fc.weight": weight, "other.weight": torch.ones(3, 2)}, tmp_path / "x.pt")
    found = read_here(tmp_path / "x.pt").get("fc", "weight", "weights", "signature/")
    assert isinstance(found, RowSignature)
    torch.testing.assert_close(found.norms, weight.float().double().norm(dim=1), rtol=1e-6, atol=0)
    assert found.exact[0] == found.exact[1] != found.exact[2]


def _quantized() -> Any:
    return torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:.*are deprecated")
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.ones(3, 2, dtype=torch.int8), "int8 values"),
        (lambda: torch.ones(3, 2, dtype=torch.uint8), "uint8 values"),
        (lambda: torch.ones(3, 2, dtype=torch.complex64), "complex64 values"),
        (lambda: torch.ones(3, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1fn_x2 values"),
        (_quantized, "quantized tensor"),
        (lambda: torch.eye(3).to_sparse(), "sparse or opaque layout"),
        (lambda: torch.ones(3, 2, device="meta"), "meta tensor without data"),
        (lambda: torch.ones(1).expand(3, 2), "an expanded tensor: several of its entries share one place"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensor"),
    ],
    ids="int8 uint8 complex float4 quantized sparse meta expanded nested".split(),
)
def test_what_cannot_be_read_is_a_gap(make: Any, reason: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": make(), "head.weight": torch.rand(3, 2)}, tmp_path / "x.pt")
    snapshot = read_here(tmp_path / "x.pt")
    gaps = {gap.layer: why for gap, why in snapshot.gaps.items() if gap.tap == "weight"}
    assert gaps == {"fc": reason}
    assert {key.layer for key in snapshot.statistics} == {"head"}, "the rest is read"


def signatures(snapshot: Any) -> dict[Any, RowSignature]:
    return {key: value for key, value in snapshot.items() if isinstance(value, RowSignature)}


def test_one_reader_serves_models_and_files(tmp_path: Path) -> None:
    """The same statistics of units, with the layers of the model at hand."""
    model = network()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    live = WeightsObserver(model, discover(model), frozenset({Need.UNIT_SIGNATURES})).read().statistics
    read = read_here(tmp_path / "x.pt", discover(model))
    units = {key for key in signatures(read.statistics) if not key.statistic.endswith("/gain")}
    assert units == signatures(live).keys()
    for key, expected in signatures(live).items():
        for name, tensor in expected.cpu().to_tensors().items():
            found = read.statistics[key].to_tensors()[name]
            torch.testing.assert_close(found, tensor, equal_nan=True, msg=f"{key} {name}")


@pytest.mark.parametrize("name", ["zip", "legacy", "safetensors", "bin in shards", "Lightning, object"])
def test_statistics_against_the_tensors(name: str, tmp_path: Path) -> None:
    snapshot, own = read_here(GOOD[name](tmp_path)), state()
    names = "stem bn up embed rnn attention attention.out_proj ln head".split()
    kinds = (
        "Conv2d BatchNorm ConvTranspose2d Embedding LSTM MultiheadAttention Linear LayerNorm Linear".split()
    )
    assert {name: info.kind for name, info in snapshot.layers.items()} == dict(zip(names, kinds, strict=True))
    if name in ("safetensors", "bin in shards"):
        names = sorted(names)  # these formats sort tensors
    assert list(snapshot.layers) == names
    rows = {
        ("stem", ""): torch.cat([own["stem.weight"].flatten(1), own["stem.bias"][:, None]], 1),
        ("up", ""): torch.cat([own["up.weight"].transpose(0, 1).flatten(1), own["up.bias"][:, None]], 1),
        ("embed", ""): own["embed.weight"].T,
        ("head", ""): torch.cat([own["head.weight"], own["head.bias"][:, None]], 1),
    }
    for (layer, domain), units in rows.items():
        found = snapshot.get(layer, "weight", "weights", f"signature/{domain}")
        assert isinstance(found, RowSignature)
        torch.testing.assert_close(found.norms, units.double().norm(dim=1), rtol=1e-6, atol=0)
        assert len(found.loose.unique()) == len(units)
    for key, tensor in own.items():
        layer, _, part = key.rpartition(".")
        flow = snapshot.get(layer, "grad", "weights", f"flow/{part}")
        if "running" in part or "tracked" in part:
            assert flow is None, "a buffer is no parameter"
            continue
        assert isinstance(flow, ParameterFlow)
        torch.testing.assert_close(flow.weight, tensor.double().norm(), rtol=1e-9, atol=0)
        assert int(flow.entries) == tensor.numel()
        assert not int(flow.has_gradient)


def test_state_of_batch_normalization(tmp_path: Path) -> None:
    found = read_here(GOOD["zip"](tmp_path)).get("bn", "weight", "weights", "norm_state")
    assert isinstance(found, NormState)
    assert found.mean.equal(torch.arange(8.0).double())
    assert found.variance.equal(torch.arange(8.0).double() + 0.5)
    assert int(found.tracked) == 41
    assert not found.uses_batches


def test_snapshot_through_the_child_is_the_same(tmp_path: Path) -> None:
    path = GOOD["Lightning, object"](tmp_path)
    here, there = read_here(path), checkpoints.read(path)
    assert isinstance(there, Snapshot)
    assert (there.step, there.source) == (120, "checkpoint")
    assert (there.layers, there.gaps, there.facts) == (here.layers, here.gaps, here.facts)
    assert there.notes[: len(here.notes)] == here.notes
    assert there.statistics.keys() == here.statistics.keys()
    for key, expected in here.statistics.items():
        for name, tensor in expected.to_tensors().items():
            torch.testing.assert_close(
                there.statistics[key].to_tensors()[name], tensor, rtol=0, atol=0, equal_nan=True
            )


def test_layers_of_the_model_reach_the_child(tmp_path: Path) -> None:
    model = network()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    found = checkpoints.read(tmp_path / "x.pt", layers=discover(model))
    assert found.layers == discover(model)
    assert found.parts("attention", "weight", "weights", "signature").keys() == {"heads", "values"}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("form", ["old", "new"])
def test_both_forms_of_weight_normalization(form: str, tmp_path: Path) -> None:
    wrap = nn.utils.weight_norm if form == "old" else nn.utils.parametrizations.weight_norm
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Linear(4, 3)))
    torch.save(model.state_dict(), tmp_path / "x.pt")
    snapshot = read_here(tmp_path / "x.pt")
    names = ("weight_g", "weight_v") if form == "old" else ("weight.original0", "weight.original1")
    flows = snapshot.parts("0", "grad", "weights", "flow")
    assert flows.keys() == {"bias", *names}, "the names a live model gives them"
    direction = dict(model.named_parameters())[
        "0.weight_v" if form == "old" else "0.parametrizations.weight.original1"
    ]
    torch.testing.assert_close(flows[names[1]].weight, direction.detach().double().norm(), rtol=1e-9, atol=0)
    assert snapshot.get("0", "weight", "weights", "signature/") is not None


def test_tied_weights_count_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(7, 4), "head": nn.Linear(4, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    torch.save(model.state_dict(), tmp_path / "x.pt")
    snapshot = read_here(tmp_path / "x.pt")
    assert list(snapshot.layers) == ["embed"]
    assert snapshot.layers["embed"].aliases == ("head",)
    assert [key.layer for key in snapshot.statistics if key.tap == "grad"] == ["embed"]
    assert snapshot.facts["numbers"] == 28


def test_numbers_that_are_not_finite_are_said(tmp_path: Path) -> None:
    weight = torch.rand(3, 2)
    weight[0, 1], weight[2, 0] = torch.nan, torch.inf
    torch.save({"fc.weight": weight}, tmp_path / "x.pt")
    snapshot = read_here(tmp_path / "x.pt")
    assert any("fc.weight (2 of 6)" in note for note in snapshot.notes)
    flow = snapshot.get("fc", "grad", "weights", "flow/weight")
    assert isinstance(flow, ParameterFlow)
    assert float(flow.weight) == pytest.approx(weight[weight.isfinite()].double().norm().item())


def test_inference_is_stated(tmp_path: Path) -> None:
    path = GOOD["zip"](tmp_path)
    assert any(
        "inferred from names and shapes: " in note and "1 LSTM" in note for note in read_here(path).notes
    )
    assert not any("inferred" in note for note in read_here(path, discover(network())).notes)


NAMES = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a\nb",
    "\x00",
    "\u202egnp",
    "\x1b[31m",
    "é 🔥",
    "",
    "x" * 999,
]


def test_odd_names_are_names(tmp_path: Path) -> None:
    torch.save({f"{name}.weight": torch.rand(3, 2) for name in NAMES}, tmp_path / "x.pt")
    snapshot = checkpoints.read(tmp_path / "x.pt")
    assert {key.layer for key in snapshot.statistics} == set(NAMES) - {"x" * 999}


def test_keys_of_other_types_become_names(tmp_path: Path) -> None:
    own = {1: torch.ones(2), ("a", 2): torch.ones(2), None: torch.ones(2), "n": {"deep": torch.ones(2)}}
    torch.save(own, tmp_path / "x.pt")
    assert raw(tmp_path / "x.pt").keys() == {"1", "('a', 2)", "None", "n.deep"}


def test_numbers_in_names_of_layers_count_as_numbers(tmp_path: Path) -> None:
    save_file({f"layers.{n}.weight": torch.rand(3, 2) for n in range(12)}, tmp_path / "x.safetensors")
    assert list(read_here(tmp_path / "x.safetensors").layers) == [f"layers.{n}" for n in range(12)]
