"""A model whose parameters are spread over processes is refused before a step is recorded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

import nndiag

from .programs import network, sharded, split


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("make", [sharded, split])
def test_it_is_not_recorded(make: object) -> None:
    with nndiag.Monitor(make(), console=False, strict=True) as monitor:  # type: ignore[operator]
        assert monitor._session is not None
        assert not monitor._session.is_recording
        assert str(monitor._session.observers.refusal).startswith("parameters are spread over processes")


def test_a_group_alone_is_no_reason() -> None:
    with nndiag.Monitor(network(), console=False, strict=True) as monitor:
        assert monitor._session is not None
        assert monitor._session.is_recording
