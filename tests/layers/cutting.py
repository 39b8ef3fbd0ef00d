"""Unit matrices of real modules, cut by nndiag and by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nndiag.layers import Domain, LayerInfo, discover, unit_rows


def layer(module: nn.Module, name: str = "") -> LayerInfo:
    """One layer of a module, by default the module itself."""
    return discover(module)[name]


def domain(module: nn.Module, name: str = "", layer_name: str = "") -> Domain:
    """One symmetry domain, by default the only one of a layer that is the module itself."""
    return next(d for d in layer(module, layer_name).domains if d.name == name)


def parameters(module: nn.Module, layer_name: str = "") -> Callable[[str], Tensor | None]:
    """Looks a parameter up by its name inside a layer."""
    found = dict(module.named_parameters(remove_duplicate=False))
    return lambda name: found.get(f"{layer_name}.{name}" if layer_name else name)


def gradients(module: nn.Module) -> Callable[[str], Tensor | None]:
    """Looks the gradient of a parameter up."""
    found = dict(module.named_parameters())
    return lambda name: found[name].grad


def cut(module: nn.Module, name: str = "", layer_name: str = "") -> Tensor:
    """The unit matrix of one domain."""
    rows = unit_rows(domain(module, name, layer_name), parameters(module, layer_name))
    assert rows is not None
    return rows.detach().clone()  # the rows of a lone part are a view


def by_hand(units: int, row: Callable[[int], list[Tensor]]) -> Tensor:
    """A unit matrix from the tensors of each unit."""
    return torch.stack([torch.cat([t.detach().flatten() for t in row(unit)]) for unit in range(units)])


def filled(module: nn.Module) -> nn.Module:
    """The same module in float64 with other values in every parameter: no two are equal by chance."""
    generator = torch.Generator().manual_seed(3)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def noise(*shape: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def swap_(tensor: Tensor, one: int, other: int, axis: int = 0) -> None:
    """Swaps two slices of a tensor in place."""
    order = torch.arange(tensor.shape[axis])
    order[[one, other]] = order[[other, one]]
    with torch.no_grad():
        tensor.copy_(tensor.index_select(axis, order).clone())
