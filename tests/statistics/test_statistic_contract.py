"""What every statistic owes: a way to a file and back, and a refusal to be mixed with another's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from strategies import MAKERS, make
from torch import Tensor

from nndiag.errors import IncompatibleStatisticsError
from nndiag.statistics import STATISTICS, Statistic

VIEW = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
PER_UNIT = ("moments", "tails", "feature_scales", "signature")


@pytest.fixture(params=sorted(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_to_tensors_and_back(name: str) -> None:
    statistic = make(name, VIEW)
    back = STATISTICS[name].from_tensors(statistic.to_tensors())
    assert type(back) is type(statistic)
    assert all(back.to_tensors()[key] is value for key, value in statistic.to_tensors().items())


def test_cpu_keeps_values_and_widens_types(name: str) -> None:
    statistic = make(name, VIEW)
    host = statistic.cpu()
    for key, value in statistic.to_tensors().items():
        kept = host.to_tensors()[key]
        assert kept.device.type == "cpu"
        assert kept.dtype == (torch.float64 if value.is_floating_point() else torch.int64), key
        torch.testing.assert_close(kept, value, check_dtype=False, rtol=0, atol=0, equal_nan=True)


def test_cpu_is_idempotent_and_mergeable(name: str) -> None:
    host = make(name, VIEW).cpu()
    merged = host.merge(host.cpu())
    assert {key: value.dtype for key, value in merged.to_tensors().items()} == {
        key: value.dtype for key, value in host.to_tensors().items()
    }


def test_fields_are_frozen_tensors_without_a_graph(name: str) -> None:
    statistic = make(name, VIEW.clone().requires_grad_())
    tensors = statistic.cpu().to_tensors()
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in tensors.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(statistic, next(iter(tensors)), None)


def test_nothing_of_the_data_is_kept_or_changed(name: str) -> None:
    x = VIEW.clone()
    tensors = make(name, x).to_tensors()
    assert torch.equal(x, VIEW)
    assert x._version == 0
    assert all(
        value.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() for value in tensors.values()
    )


def test_no_random_number_is_drawn(name: str) -> None:
    before = torch.get_rng_state()
    make(name, VIEW)
    assert torch.equal(torch.get_rng_state(), before)


def test_kinds_do_not_mix(name: str) -> None:
    others = [other for other in ("moments", "law", "histogram") if other != name]
    for other in others:
        with pytest.raises(IncompatibleStatisticsError, match="cannot be merged"):
            make(name, VIEW).merge(make(other, VIEW))


@pytest.mark.parametrize("kind", PER_UNIT)
def test_units_of_other_layers_do_not_mix(kind: str) -> None:
    with pytest.raises(IncompatibleStatisticsError, match="different layers"):
        make(kind, VIEW).merge(make(kind, VIEW[..., :3]))


def test_heads_of_other_layers_do_not_mix() -> None:
    attention = STATISTICS["attention_entropy"]
    two = attention.of(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    three = attention.of(torch.zeros(1, 3, 3, 4), torch.zeros(1, 3, 3, 4))
    with pytest.raises(IncompatibleStatisticsError, match="different layers"):
        two.merge(three)


def test_a_signature_with_gradients_follows_one_without() -> None:
    with_gradients = make("signature", VIEW)
    without = STATISTICS["signature"].of(VIEW.flatten(0, 1).T)
    assert without.merge(with_gradients) is with_gradients
    assert with_gradients.merge(without) is without


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_user_defaults_do_not_matter(name: str, dtype: torch.dtype) -> None:
    expected = make(name, VIEW).cpu().to_tensors()
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.inference_mode():
            found = make(name, VIEW).cpu().to_tensors()
    finally:
        torch.set_default_dtype(previous)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_a_statistic_without_a_merge_says_so() -> None:
    with pytest.raises(NotImplementedError):
        Statistic().merge(Statistic())
