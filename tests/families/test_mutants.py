"""The exactness check itself, tested: it notices every sin seeded into the monitor, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from .families import Family
from .sins import SINS, Sin, seed
from .test_exact import by_name
from .watched import changes, watched

NO_SINS = (
    Sin("control in a hook", "forward hook", lambda module, output: None, ()),
    Sin("control at batch end", "batch end", lambda trainer, module, batch: None, ()),
)


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Some of the sins leave what the whole process has."""
    relu = nn.functional.relu
    yield
    nn.functional.relu = relu  # type: ignore[assignment]
    nn.modules.module._global_forward_hooks.clear()
    torch.set_autocast_cache_enabled(True)


def effect(sin: Sin, family: Family) -> dict[str, Any]:
    """What the exactness check says of a run with the sin."""
    try:
        run, _ = watched(family, lambda monitor: seed(monitor, sin))
    except Exception as error:
        return {"raised": repr(error)}
    return changes(family, run)


CASES = [
    pytest.param(s, f, id=f"{s.name}-{by_name(f)}".replace(" ", "-")) for s in SINS for f in s.noticed_by
]
NOTICING = sorted({family for sin in SINS for family in sin.noticed_by}, key=by_name)


@pytest.mark.parametrize(("sin", "family"), CASES)
def test_sin_is_noticed(sin: Sin, family: Family, record_property: Callable[[str, object], None]) -> None:
    found = effect(sin, family)
    record_property("mutant", (sin.name, found != {}))
    assert found != {}


def test_there_are_sins_enough() -> None:
    assert len({sin.name for sin in SINS}) == len(SINS) >= 34


@pytest.mark.parametrize("sin", NO_SINS, ids=lambda sin: sin.name.replace(" ", "-"))
@pytest.mark.parametrize("family", NOTICING, ids=by_name)
def test_control_is_not_noticed(
    sin: Sin, family: Family, record_property: Callable[[str, object], None]
) -> None:
    found = effect(sin, family)
    record_property("control", (sin.name, found != {}))
    assert found == {}
