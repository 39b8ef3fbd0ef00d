"""What layers were given one step ago, kept for one step: what do they make of it with today's parameters?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nndiag.layers import LayerInfo, named_layers


class Burst:
    """Runs each layer of a replay twice at the second visit of a burst: on its input, and on the one before.

    Inputs are kept from a visit to the next step only, one a layer, and never leave this object. Only PyTorch's
    own layers are covered, in their first call of a pass, on one tensor: to run anything else once more could
    do more than compute.

    Args:
        root: The model.
        layers: The layers to cover, where they are of a kind that can be.
    """

    def __init__(self, root: nn.Module, layers: Mapping[str, LayerInfo]) -> None:
        covered = {name for name, info in layers.items() if info.role in ("weight", "norm")}
        self._modules = {
            name: module
            for name, module in named_layers(root)
            if name in covered and type(module).__module__.startswith("torch.nn.")
        }
        self._kept: dict[str, Tensor] = {}
        self._kept_at: int | None = None
        self._unmoved: dict[str, Tensor] = {}

    def take(self, name: str) -> Tensor | None:
        """What the layer that has just been called makes of its input of the step before; once."""
        return self._unmoved.pop(name, None)

    @contextlib.contextmanager
    def replayed(self, root: nn.Module, *, step: int, keeps: bool) -> Iterator[None]:
        """Goes around the replay of a visit.

        Args:
            root: The model; not used, its layers are known.
            step: The step of the visit.
            keeps: Whether the next step is a visit too, for which inputs are kept.
        """
        kept, kept_at = self._kept, self._kept_at
        self._kept, self._kept_at = {}, step
        before = kept if kept_at is not None and step == kept_at + 1 else {}
        own = {name: module.__dict__.get("forward") for name, module in self._modules.items()}
        try:
            for name, module in self._modules.items():
                module.__dict__["forward"] = self._twice(name, module.forward, before, keeps=keeps)
            yield
        finally:
            for name, module in self._modules.items():
                module.__dict__.pop("forward", None)
                if own[name] is not None:
                    module.__dict__["forward"] = own[name]
            self._unmoved.clear()

    def _twice(
        self, name: str, forward: Callable[..., Any], before: dict[str, Tensor], *, keeps: bool
    ) -> Callable[..., Any]:
        """The forward pass of a layer, where precision and modes are those of the model's own call."""
        is_first = True

        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_first
            x = args[0] if is_first and len(args) == 1 and not kwargs else None
            is_first = False
            if not isinstance(x, Tensor):
                return forward(*args, **kwargs)
            then = before.pop(name, None)
            if keeps:  # before the call: an in-place layer behind may write to it
                self._kept[name] = x.detach().clone()
            output = forward(x)
            if then is not None and then.shape == x.shape and isinstance(output, Tensor):
                # An equal input gives the same output by definition, not up to the rounding of another call.
                self._unmoved[name] = output if torch.equal(then, x) else forward(then)
            return output

        return run
