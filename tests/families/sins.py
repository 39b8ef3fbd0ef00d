"""Sins an observer can commit, each to be seeded into the monitor, and who has to notice it."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .families import (
    ACCUMULATION,
    CNN,
    FROZEN,
    LSTM,
    MLP,
    NON_REENTRANT,
    SPECTRAL,
    STATEFUL,
    WITNESS,
    WRITING,
    Family,
)

Place = Literal["forward hook", "batch end"]


@dataclass(frozen=True)
class Sin:
    """One fault of observation.

    Attributes:
        name: For the test's id.
        place: A forward hook on each leaf module ``act(module, output)``, whose result is the hook's, or the
            end of each batch ``act(trainer, module, batch)``.
        act: The deed.
        noticed_by: The families in which it must show.
    """

    name: str
    place: Place
    act: Callable[..., Any]
    noticed_by: tuple[Family, ...]


def seed(monitor: Any, sin: Sin) -> None:
    """Makes a monitor commit the sin on top of its own work."""
    start, end = monitor.on_train_batch_start, monitor.on_train_batch_end
    handles: list[Any] = []

    def on_train_batch_start(trainer: Any, module: Any, *args: Any) -> None:
        start(trainer, module, *args)
        if sin.place == "forward hook":
            handles.extend(_hook_leaves(module, sin.act))

    def on_train_batch_end(trainer: Any, module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        end(trainer, module, outputs, batch, *args)
        while handles:
            handles.pop().remove()
        if sin.place == "batch end":
            sin.act(trainer, module, batch)

    monitor.on_train_batch_start, monitor.on_train_batch_end = on_train_batch_start, on_train_batch_end


def _hook_leaves(root: nn.Module, act: Callable[..., Any]) -> list[Any]:
    leaves = [module for module in root.modules() if not list(module.children())]
    return [leaf.register_forward_hook(lambda module, args, output: act(module, output)) for leaf in leaves]


def _on_tensors(act: Callable[[Tensor], Any]) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, output: Any) -> Any:
        return act(output) if isinstance(output, Tensor) else None

    return hook


def _silently(act: Callable[..., Any]) -> Callable[..., None]:
    def quiet(*args: Any) -> None:
        act(*args)

    return quiet


def undetached_operation(module: nn.Module, output: Tensor) -> None:
    """Records an operation for autograd on the first of the two passes through a checkpoint only."""
    if torch._C._current_graph_task_id() == -1:
        output.exp().sum()


def draw_in_recomputation(module: nn.Module, output: Tensor) -> None:
    """Moves the random stream between forward and its recomputation."""
    if torch._C._current_graph_task_id() == -1:
        torch.rand(1)


def unguarded_mean(module: nn.Module, output: Any) -> None:
    """Takes every output for a tensor."""
    output.mean()


def draw_batch(trainer: Any, module: Any, batch: Any) -> None:
    """Takes a batch from the user's loader."""
    next(iter(trainer.train_dataloader))


def bare_probe(trainer: Any, module: Any, batch: Any) -> None:
    """A forward pass in train mode, nothing restored."""
    with torch.no_grad():
        module(batch[0])


def probe_with_random_state(trainer: Any, module: Any, batch: Any) -> None:
    """A forward pass that restores the random stream but no buffer."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module(batch[0])


def probe_on_copied_buffers(trainer: Any, module: Any, batch: Any) -> None:
    """A forward pass that protects the random stream and the buffers, but no Python state."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.func.functional_call(module, buffers, (batch[0],))


def probe_in_eval_mode(trainer: Any, module: Any, batch: Any) -> None:
    """A forward pass between eval() and train()."""
    module.eval()
    with torch.no_grad():
        module(batch[0])
    module.train()


def extra_backward(trainer: Any, module: Any, batch: Any) -> None:
    """A backward pass whose gradients add to the user's."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        module(batch[0]).sum().backward()


def leave_hook(trainer: Any, module: Any, batch: Any) -> None:
    """A hook that does nothing and stays."""
    next(iter(module.modules())).register_forward_hook(lambda *args: None)


def leave_optimizer_hook(trainer: Any, module: Any, batch: Any) -> None:
    """The same on an optimizer."""
    trainer.optimizers[0].register_step_pre_hook(lambda *args: None)


def leave_attribute(trainer: Any, module: Any, batch: Any) -> None:
    """Shadows a method of the user's module."""
    module.training_step = type(module).training_step.__get__(module)


def leave_thread(trainer: Any, module: Any, batch: Any) -> None:
    """A thread that outlives the run for a while."""
    threading.Thread(target=threading.Event().wait, args=(1.0,), daemon=True).start()


def patch_function(trainer: Any, module: Any, batch: Any) -> None:
    """Wraps a function of torch for good; idempotent, and undone by the test."""
    plain = getattr(nn.functional.relu, "plain", nn.functional.relu)

    def relu(*args: Any, **kwargs: Any) -> Tensor:
        return plain(*args, **kwargs)

    relu.plain = plain  # type: ignore[attr-defined]
    nn.functional.relu = relu  # type: ignore[assignment]


def full_backward_hooks(trainer: Any, module: Any, batch: Any) -> None:
    """Puts full backward hooks on every leaf, once."""
    leaves = [each for each in module.modules() if not list(each.children()) and not each._backward_hooks]
    for leaf in leaves:
        leaf.register_full_backward_hook(lambda *args: None)


def keep_activation(module: nn.Module, output: Tensor) -> None:
    """Holds on to the output, and with it to the graph, until the next step."""
    module.__dict__["last_output"] = output


def clamp_weights(trainer: Any, module: Any, batch: Any) -> None:
    """Writes what it looks at, far out in the tails only."""
    for parameter in module.parameters():
        parameter.detach().clamp_(-0.3, 0.3)


def read_parametrized(trainer: Any, module: Any, batch: Any) -> None:
    """``getattr`` runs the power iteration of a spectral norm."""
    for each in module.modules():
        getattr(each, "weight", None)


def leave_global_hook(trainer: Any, module: Any, batch: Any) -> None:
    """A hook on every module there is; undone by the test."""
    nn.modules.module.register_module_forward_hook(lambda *args: None)


def round_states(trainer: Any, module: Any, batch: Any) -> None:
    """Keeps the optimizer's averages in half the bytes."""
    for state in trainer.optimizers[0].state.values():
        state["exp_avg"].copy_(state["exp_avg"].bfloat16())


def round_gradients(trainer: Any, module: Any, batch: Any) -> None:
    """The same with gradients."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.copy_(parameter.grad.bfloat16())


def ask_for_gradients(trainer: Any, module: Any, batch: Any) -> None:
    """Makes every parameter take part, as a full backward pass would need it."""
    for parameter in module.parameters():
        parameter.requires_grad_()


def replace_parameters(trainer: Any, module: Any, batch: Any) -> None:
    """Puts equal parameters in the place of those that the optimizer knows."""
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is not None:
                each._parameters[name] = nn.Parameter(parameter.detach().clone())


def draw_from_modules(trainer: Any, module: Any, batch: Any) -> None:
    """Uses the generators it finds in the model."""
    for each in module.modules():
        if isinstance(getattr(each, "noise", None), torch.Generator):
            torch.randn(1, generator=each.noise)


def nudge_rate(trainer: Any, module: Any, batch: Any) -> None:
    """Writes the learning rate back in single precision."""
    for group in trainer.optimizers[0].param_groups:
        group["lr"] = float(np.float32(group["lr"]))


def stop_run(trainer: Any, module: Any, batch: Any) -> None:
    """Has seen enough."""
    trainer.should_stop = True


SINS: tuple[Sin, ...] = (
    Sin("torch randomness", "forward hook", _on_tensors(lambda y: _none(torch.randperm(3))), (MLP, LSTM)),
    Sin("python randomness", "batch end", _silently(lambda *_: random.random()), (MLP,)),
    Sin("numpy randomness", "batch end", _silently(lambda *_: np.random.rand()), (MLP,)),
    Sin("new module", "batch end", _silently(lambda *_: nn.Linear(1, 1)), (MLP,)),
    Sin("reseeding", "batch end", _silently(lambda *_: torch.manual_seed(0)), (MLP,)),
    Sin("batch from the loader", "batch end", draw_batch, (MLP,)),
    Sin("detached output returned", "forward hook", _on_tensors(Tensor.detach), (MLP, CNN)),
    Sin("cloned output returned", "forward hook", _on_tensors(Tensor.clone), (WITNESS,)),
    Sin(
        "gradient retained",
        "forward hook",
        _on_tensors(lambda y: y.requires_grad and y.retain_grad()),
        (WITNESS,),
    ),
    Sin(
        "activation clamped",
        "forward hook",
        _on_tensors(lambda y: _none(y.detach().clamp_(-0.2, 0.2))),
        (MLP, WITNESS),
    ),
    Sin("activation kept", "forward hook", keep_activation, (WITNESS,)),
    Sin("undetached operation", "forward hook", undetached_operation, (NON_REENTRANT,)),
    Sin("draw in recomputation", "forward hook", draw_in_recomputation, (NON_REENTRANT,)),
    Sin("unguarded hook", "forward hook", unguarded_mean, (LSTM,)),
    Sin("hook left", "batch end", leave_hook, (MLP,)),
    Sin("optimizer hook left", "batch end", leave_optimizer_hook, (MLP,)),
    Sin("attribute left", "batch end", leave_attribute, (MLP,)),
    Sin("thread left", "batch end", leave_thread, (MLP,)),
    Sin("function patched", "batch end", patch_function, (MLP,)),
    Sin("global hook left", "batch end", leave_global_hook, (MLP,)),
    Sin("setting left", "batch end", _silently(lambda *_: torch.set_autocast_cache_enabled(False)), (MLP,)),
    Sin("file written", "batch end", _silently(lambda *_: Path("trace.txt").write_text("x")), (MLP,)),
    Sin("warning given", "batch end", _silently(lambda *_: warnings.warn("look", stacklevel=1)), (MLP,)),
    Sin("full backward hooks", "batch end", full_backward_hooks, (CNN,)),
    Sin("gradients zeroed", "batch end", _silently(lambda t, m, b: m.zero_grad()), (ACCUMULATION,)),
    Sin("extra backward", "batch end", extra_backward, (ACCUMULATION,)),
    Sin("weights clamped", "batch end", clamp_weights, (MLP,)),
    Sin("gradients rounded", "batch end", round_gradients, (ACCUMULATION,)),
    Sin("optimizer state rounded", "batch end", round_states, (MLP,)),
    Sin("activation rounded", "forward hook", _on_tensors(lambda y: y.bfloat16().to(y.dtype)), (MLP,)),
    Sin("gradients asked for", "batch end", ask_for_gradients, (FROZEN,)),
    Sin("parameters replaced", "batch end", replace_parameters, (MLP,)),
    Sin("learning rate rounded", "batch end", nudge_rate, (MLP,)),
    Sin("run stopped", "batch end", stop_run, (MLP,)),
    Sin("model's own generator drawn from", "batch end", draw_from_modules, (STATEFUL,)),
    Sin("weight attributes read", "batch end", read_parametrized, (SPECTRAL,)),
    Sin("metric logged", "batch end", _silently(lambda t, m, b: m.log("x", 1.0)), (MLP,)),
    Sin("mode toggled", "batch end", _silently(lambda t, m, b: m.eval() and m.train()), (FROZEN,)),
    Sin("bare probe", "batch end", bare_probe, (MLP, CNN, SPECTRAL, STATEFUL)),
    Sin("probe restores randomness alone", "batch end", probe_with_random_state, (CNN, SPECTRAL)),
    Sin("probe restores buffers alone", "batch end", probe_on_copied_buffers, (STATEFUL, WRITING)),
    Sin("probe in eval mode", "batch end", probe_in_eval_mode, (FROZEN, STATEFUL)),
)


def _none(value: object) -> None:
    """For the side effect alone."""
