"""Advice, followed to the letter: a sick program is built again with what its leading finding recommends.

A treatment reads the finding and nothing else of the truth. Advice that asks for another line of code in the
forward pass or the loss cannot be followed by a machine; where the twin is the program with that line changed,
its case says so (``twin_follows``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from nndiag.findings import Finding
from nndiag.measures.saturation import GATES, KEEPER

from .case import Program
from .data import Batch, Split

Treatment = Callable[[Program, Finding], Program | None]
"""Changes a program, or returns None where the advice does not apply to what it finds."""


def named(program: Program, finding: Finding) -> Iterator[nn.Module]:
    """The modules of a finding; of a functional call, the module it is in."""
    modules = dict(program.model.named_modules())
    for layer in dict.fromkeys(layer.partition(":")[0] for layer in finding.layers):
        if layer in modules:
            yield modules[layer]


def number(finding: Finding, name: str, default: float) -> float:
    """One number of the evidence."""
    value = finding.evidence.get(name)
    return float(value) if isinstance(value, (int, float)) else default


def optimizers(program: Program) -> Sequence[torch.optim.Optimizer]:
    """All of them."""
    given = program.optimizer
    return given if isinstance(given, Sequence) else (given,)


def with_rate_divided(program: Program, factor: float) -> Program:
    """A lower learning rate, that of a schedule too."""
    for optimizer in optimizers(program):
        for group in optimizer.param_groups:
            for name in {"lr", "initial_lr", "max_lr", "min_lr"} & group.keys():  # of cycles too
                group[name] /= factor
    if program.scheduler is not None:
        program.scheduler.base_lrs = [rate / factor for rate in program.scheduler.base_lrs]
    return program


def slower_for_shift(program: Program, finding: Finding) -> Program:
    """ND101: lower the rate by the root of how far the shift is above its limit, at least twice."""
    shift, limit = number(finding, "shift", 1.0), number(finding, "limit", 0.005)
    return with_rate_divided(program, max(2.0, math.sqrt(shift / limit)))


def slower_for_ratio(program: Program, finding: Finding) -> Program | None:
    """ND603: a hundredth of a weight's norm a step and no more than one of gradient, or a thousandth if too little.

    A schedule that jumps is to be corrected by hand.
    """
    if {"lr_before", "lr_at_first"} & set(finding.evidence):
        return None
    ratio = number(finding, "update_ratio", 1.0)
    treated = with_rate_divided(program, min(100.0, ratio / (1e-2 if ratio > 1e-2 else 1e-3)))
    return with_clipping(treated, 1.0) if ratio > 0.5 else treated


def clipped(program: Program, finding: Finding) -> Program:
    """ND602: clip at the usual norm, lower the rate, and let recurrent matrices begin orthogonal."""
    for module in named(program, finding):
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight_hh"):
                for gate in parameter.data.split(parameter.shape[1]):
                    nn.init.orthogonal_(gate)
    if "time_steps" in finding.evidence:
        return with_clipping(program, 1.0)
    limit = max(number(finding, "median_gradient_norm", 1.0), 1e-3)
    return with_rate_divided(with_clipping(program, limit), 3.0)


def with_clipping(program: Program, limit: float) -> Program:
    """The norm of the gradient is at most ``limit``."""
    for optimizer in optimizers(program):
        optimizer.register_step_pre_hook(
            lambda chosen, args, kwargs: (
                torch.nn.utils.clip_grad_norm_([p for g in chosen.param_groups for p in g["params"]], limit)
                and None
            )
        )
    return program


@torch.no_grad()
def redrawn(program: Program, finding: Finding) -> Program | None:
    """ND301, ND302, ND202: initialize anew with the module's own law, biases at zero."""
    drawn = [
        module for module in named(program, finding) if callable(getattr(module, "reset_parameters", None))
    ]
    for module in drawn:
        size = module.weight.abs().mean() if isinstance(module, nn.Embedding) else None
        module.reset_parameters()
        if size is not None:
            module.weight.mul_(size)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            bias.zero_()
    return program if drawn else None


def slower_and_redrawn(program: Program, finding: Finding) -> Program | None:
    """ND202: as its advice says: both, or a rate that is lower by as much as inputs have grown."""
    if "grew" in finding.evidence:
        return with_rate_divided(program, min(100.0, number(finding, "grew", 2.0)))
    treated = redrawn(program, finding)
    return None if treated is None else with_rate_divided(treated, 2.0)


def kept_in_bounds(program: Program, finding: Finding) -> Program | None:
    """ND102: the rate stays at what it was at most before; a change of inputs is to be undone by hand."""
    if "input_change" in finding.evidence:
        return None
    if "lr_highest_before" not in finding.evidence:
        return with_rate_divided(program, 5.0)
    highest = number(finding, "lr_highest_before", 0.0)

    def cap(chosen: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        for group in chosen.param_groups:
            group["lr"] = min(group["lr"], highest)

    for optimizer in optimizers(program):
        optimizer.register_step_pre_hook(cap)
    return program


@torch.no_grad()
def rescaled(program: Program, finding: Finding, by: float) -> Program | None:
    """Initial weights of the named layers, multiplied."""
    matrices = [
        parameter
        for module in named(program, finding)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    ]
    for matrix in matrices:
        matrix.mul_(by)
    return program if matrices else None


@torch.no_grad()
def shrunk(program: Program, finding: Finding) -> Program | None:
    """ND201: biases of zero for gates and offsets, smaller weights where these start too large, else slower."""
    if number(finding, "saturated_at_first_visit", 0.0) <= 0.7:
        return with_rate_divided(program, 3.0)
    tails = [number(finding, name, 0.0) for name in ("lower_tail", "upper_tail")]
    is_gate = finding.evidence["activation"] in (*GATES, KEEPER)
    if not is_gate and max(tails) <= 0.9 * number(finding, "saturated", 1.0):
        return rescaled(program, finding, 1 / max(1.0, number(finding, "preactivation_rms", 1.0)))
    for module in named(program, finding):
        for name, parameter in module.named_parameters(recurse=False):
            if "bias" in name:
                parameter.zero_()
    return program


@torch.no_grad()
def drawn_to_scale(program: Program, finding: Finding) -> Program | None:
    """ND311, ND312: weights that keep the gradient's scale, biases of zero; in stacks of sigmoids, ReLU for these."""
    if "loss_over_guessing" in finding.evidence:
        return quieted(program, finding)
    if "closed" in finding.evidence:
        return with_open_gains(program)
    if any(isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)) for module in program.model.modules()):
        return opened(program, finding)
    matrices = [
        parameter
        for module in named(program, finding)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim > 1
    ]
    if finding.rule == "ND312" and all(map(_is_usual, matrices)):
        gain, layers = number(finding, "gradient_gain", 1.0), number(finding, "layers", 2.0)
        treated = rescaled(program, finding, gain ** (-0.5 / max(1.0, layers - 1)))
        is_loud = number(finding, "first_loss", 0.0) > 2 * number(finding, "loss_of_guessing", math.inf)
        return quieted(treated, finding) if treated is not None and is_loud else treated
    for matrix in matrices:
        nn.init.kaiming_normal_(matrix)
    for module in named(program, finding) if finding.rule == "ND311" else ():
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.zeros_(module.bias)
    return program if matrices else None


def with_open_gains(program: Program) -> Program:
    """ND311: every gain of a normalization begins at one."""
    for module in program.model.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)) and module.weight is not None:
            nn.init.ones_(module.weight)
    return program


@torch.no_grad()
def quieted(program: Program, finding: Finding) -> Program | None:
    """ND312: recurrent matrices orthogonal, the others smaller until the first loss is near that of guessing."""
    guessing = number(finding, "loss_of_guessing", 1.0)
    names = [
        (n, p) for m in named(program, finding) for n, p in m.named_parameters(recurse=False) if p.ndim > 1
    ]
    for name, parameter in names:
        if name.startswith("weight_hh"):
            for gate in parameter.split(parameter.shape[1]):
                nn.init.orthogonal_(gate)
    matrices = [parameter for name, parameter in names if not name.startswith("weight_hh")]
    if "time_gain" in finding.evidence:
        for matrix in matrices:
            nn.init.xavier_uniform_(matrix)
        return with_clipping(program, 1.0)
    for _ in range(30):
        if float(program.loss(program.model, program.batches[0])) <= 1.2 * guessing:
            break
        for matrix in matrices:
            matrix.mul_(0.8)
    return program if names else None


def _is_usual(matrix: Tensor) -> bool:
    """Whether its scale is within ten times (of variance) that of He et al. 2015."""
    return float(matrix[0].numel() * matrix.square().mean()) < 20


@torch.no_grad()
def opened(program: Program, _: Finding) -> Program | None:
    """ND601: ReLU for sigmoid and tanh, and weights that keep the gradient's scale."""
    squashing = [
        (parent, name)
        for parent in program.model.modules()
        for name, child in parent.named_children()
        if isinstance(child, (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh))
    ]
    for parent, name in squashing:
        setattr(parent, name, nn.ReLU())
    for module in program.model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and squashing:
            nn.init.kaiming_normal_(module.weight)
    return program if squashing else None


@torch.no_grad()
def calmed(program: Program, finding: Finding) -> Program | None:
    """ND203: weights of a usual scale where scores begin too large, else a lower rate."""
    names = str(finding.evidence.get("large_weights", ""))
    if not finding.evidence.get("from_the_start"):
        return with_rate_divided(program, 5.0)
    modules = dict(program.model.named_modules())
    for name in filter(None, names.split(", ")):
        modules[name].reset_parameters()
    return program if names else None


def refreshed(program: Program, finding: Finding) -> Program | None:
    """ND401, ND402, ND403, ND407: momentum .1, and statistics computed anew before evaluation."""
    norms = [m for m in program.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms or finding.evidence.get("fault") == "never used" or "uses" in finding.evidence:
        return None
    for norm in norms:
        norm.momentum = max(norm.momentum or 0.1, 0.1)
        norm.train()
    batch = finding.evidence.get("batch_distance")
    if isinstance(batch, float) and batch >= number(finding, "distance", math.inf) / 4:
        program = mixed(program, finding)
    metric, batches = program.metric, program.batches

    @torch.no_grad()
    def after_refresh(model: nn.Module, test: Split) -> float:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in batches[-16:]:
            model(batch.x)
        model.eval()
        return metric(model, test)

    return replace(program, metric=after_refresh)


def enlarged(program: Program, finding: Finding) -> Program:
    """ND404: as many steps, each on several batches."""
    times = max(2, round(32 / number(finding, "values_per_statistic", 8.0)))
    count, batches = len(program.batches), program.batches

    def joined(step: int) -> Batch:
        parts = [batches[(step * times + place) % count] for place in range(times)]
        return Batch(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))

    return replace(program, batches=[joined(step) for step in range(count)])


def mixed(program: Program, _: Finding) -> Program:
    """ND405: the same samples, shuffled over all batches."""
    x, y = (torch.cat([batch[part] for batch in program.batches]) for part in (0, 1))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    sizes = [len(batch.x) for batch in program.batches]
    parts = zip(x[order].split(sizes), y[order].split(sizes), strict=True)
    return replace(program, batches=[Batch(*part) for part in parts])


def standardized(program: Program, finding: Finding) -> Program | None:
    """ND701, ND408: inputs of mean 0 and scale 1; each feature for itself where features are unlike."""
    if finding.rule == "ND408" and not finding.evidence["reads_input"]:
        return with_norms_replaced(program, finding, nn.BatchNorm1d)
    x = torch.cat([batch.x for batch in program.batches])
    if not x.is_floating_point():
        return None
    by_column = finding.rule == "ND408" or finding.evidence.get("fault") == "columns"
    features = int(number(finding, "features", x.shape[-1]))
    own = next((place for place in range(x.ndim - 1, 0, -1) if x.shape[place] == features), x.ndim - 1)
    others = tuple(place for place in range(x.ndim) if place != own)
    kept = {"dim": others, "keepdim": True} if by_column else {}
    mean, std = x.mean(**kept), x.std(**kept)
    std = torch.where(std > 1e-6, std, 1.0)
    batches = [Batch((batch.x - mean) / std, batch.y) for batch in program.batches]
    return replace(program, batches=batches, test=Split((program.test.x - mean) / std, program.test.y))


def with_norms_replaced(program: Program, finding: Finding, kind: Callable[[int], nn.Module]) -> Program:
    """Other normalizations of vectors in place of those that are named."""
    old = set(named(program, finding))
    for parent in list(program.model.modules()):
        for name, child in list(parent.named_children()):
            if child in old:
                norm = kind(len(child.weight))
                setattr(parent, name, norm)
                optimizers(program)[0].add_param_group({"params": list(norm.parameters())})
    return program


def drops_less(program: Program, finding: Finding, p: float | None = None) -> Program | None:
    """ND501, ND503: the p that the advice names, where p is an attribute of a module."""
    names = [str(finding.evidence.get("dropout", "")), *finding.layers]
    modules = dict(program.model.named_modules())
    found = [modules[name.partition(":")[0]] for name in names if name.partition(":")[0] in modules]
    found = [module for module in found if isinstance(getattr(module, "p", None), float)]
    for module in found:
        units = number(finding, "units", 16.0)
        curve = [float(key[5:]) for key, value in finding.evidence.items() if _suffices(key, value, finding)]
        most = min(0.5, max(0.0, 1 - 8 / units))
        advised = max(curve) if curve else most if "needed" in finding.evidence else min(most, _safe(finding))
        module.p = advised if p is None else p
    return program if found else None


def _safe(finding: Finding) -> float:
    """The largest p of the curve that leaves a degree of freedom an output less one; a tenth where none does."""
    needed = number(finding, "outputs", 1.0) - 1
    at = {float(key[5:]): float(str(v)) for key, v in finding.evidence.items() if key.startswith("at p=")}
    return max((p for p, dof in at.items() if p > 0 and dof >= needed), default=0.1)


def _suffices(key: str, value: object, finding: Finding) -> bool:
    needed = number(finding, "needed", math.inf)
    return key.startswith("at p=") and isinstance(value, (int, float)) and value >= needed


def given_to_optimizer(program: Program, finding: Finding) -> Program | None:
    """ND606: parameters that get gradients and are in no optimizer, or whose rate is 0."""
    if finding.evidence.get("in_optimizer") and finding.evidence.get("lr"):
        return None
    if finding.evidence.get("frozen"):
        for module in named(program, finding):
            module.requires_grad_(True)
    first = optimizers(program)[0]
    groups = [group for optimizer in optimizers(program) for group in optimizer.param_groups]
    rate = max(group["lr"] for group in groups)
    known = {id(p): group for group in groups for p in group["params"]}
    wanted = [p for module in named(program, finding) for p in module.parameters(recurse=False)]
    for parameter in wanted:
        if id(parameter) in known:
            known[id(parameter)]["lr"] = rate
    fresh = [parameter for parameter in wanted if id(parameter) not in known]
    if fresh:
        first.add_param_group({"params": fresh, "lr": rate})
    return program if wanted else None


TREATMENTS: dict[str, Treatment] = {
    "ND101": slower_for_shift,
    "ND102": kept_in_bounds,
    "ND201": shrunk,
    "ND202": slower_and_redrawn,
    "ND203": calmed,
    "ND301": redrawn,
    "ND302": redrawn,
    "ND303": redrawn,
    "ND311": drawn_to_scale,
    "ND312": drawn_to_scale,
    **dict.fromkeys(("ND401", "ND402", "ND403", "ND407"), refreshed),
    "ND404": enlarged,
    "ND405": mixed,
    "ND408": standardized,
    "ND501": drops_less,
    "ND503": partial(drops_less, p=0.1),
    "ND601": opened,
    "ND602": clipped,
    "ND603": slower_for_ratio,
    "ND606": given_to_optimizer,
    "ND701": standardized,
}
