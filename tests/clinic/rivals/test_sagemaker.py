"""The rules of SageMaker Debugger, on tensors small enough to judge by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ..case import Program
from ..data import Batch, Split
from .sagemaker import (
    AllZero,
    ClassImbalance,
    DeadRelu,
    ExplodingTensor,
    LossNotDecreasing,
    PoorWeightInitialization,
    Rule,
    SaturatedActivation,
    UnchangedTensor,
    VanishingGradient,
    WeightUpdateRatio,
    judge_steps,
    watch,
)
from .statement import Statement
from .tensors import Tensors, read_run

KINDS = {"relu": nn.ReLU, "other": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
WIDE = torch.linspace(-1, 1, 100)
"""A gradient whose 5th and 95th percentiles are far apart."""


def tensors(step: int = 0, loss: float = 1.0, **parts: object) -> Tensors:
    """One step with these tensors."""
    return Tensors(step, loss, kinds=KINDS, **parts)


def over(rule: Rule, *steps: Tensors) -> Statement | None:
    """The first thing that a rule says."""
    return next((said for said in map(rule.look, steps) if said is not None), None)


def losses(*values: float, every: int = 1) -> list[Tensors]:
    """Steps of which only the loss matters."""
    return [tensors(place * every, value) for place, value in enumerate(values)]


@pytest.mark.parametrize(("value", "holds"), [(9e-8, True), (1.1e-7, False)])
def test_vanishing_gradient_is_the_mean_of_absolute_values(value: float, holds: bool) -> None:
    gradient = torch.tensor([value, -value])
    said = over(VanishingGradient(), tensors(gradients={"a.weight": gradient, "b.weight": WIDE}))
    assert (said.layers if said else ()) == (("a.weight",) if holds else ())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_exploding_tensor_names_what_is_not_finite(value: float) -> None:
    broken = torch.tensor([0.0, value])
    said = over(ExplodingTensor(), tensors(weights={"a": broken, "b": WIDE}, gradients={"b.bias": WIDE}))
    assert said is not None
    assert said.layers == ("a",)


def test_exploding_tensor_sees_the_loss_and_lets_finite_tensors_be() -> None:
    assert over(ExplodingTensor(), tensors(loss=math.nan)) is not None
    assert over(ExplodingTensor(), tensors(weights={"a": WIDE * 1e30})) is None


def half_dead(dead: int) -> Tensor:
    """Four units over 200 samples, ``dead`` of which are active for a single one: half a percent."""
    outputs = torch.ones(200, 4)
    outputs[1:, :dead] = 0
    return outputs


@pytest.mark.parametrize(("dead", "holds"), [(2, False), (3, True)])
def test_dead_relu_wants_more_than_half_of_the_units(dead: int, holds: bool) -> None:
    said = over(DeadRelu(), tensors(outputs={"relu": half_dead(dead), "tanh": torch.zeros(200, 4)}))
    assert (said is not None) == holds
    assert said is None or said.layers == ("relu",)


def test_dead_relu_lets_a_unit_live_that_is_active_for_two_samples_of_a_hundred() -> None:
    outputs = torch.zeros(100, 3)
    outputs[:2] = 1
    assert over(DeadRelu(), tensors(outputs={"relu": outputs})) is None


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("tanh", 9.4, False),
        ("tanh", 9.6, True),
        ("tanh", -9.6, True),
        ("sigmoid", 16.9, False),
        ("sigmoid", 17.1, True),
        ("sigmoid", -22.9, False),
        ("sigmoid", -23.1, True),
        ("relu", -99.0, False),
    ],
)
def test_saturation_has_a_range_for_each_function(name: str, value: float, holds: bool) -> None:
    said = over(SaturatedActivation(), tensors(inputs={name: torch.full((10, 2), value)}))
    assert (said is not None) == holds


def spread(scale: float) -> Tensor:
    """Inputs of a ReLU with a variance that grows as the square of the scale."""
    return scale * WIDE.reshape(10, 10)


@pytest.mark.parametrize(("scale", "holds"), [(3.0, False), (3.3, True)])
def test_poor_initialization_compares_variances_of_layers(scale: float, holds: bool) -> None:
    inputs = {"relu": spread(1), "other": spread(scale)}
    said = over(PoorWeightInitialization(), tensors(inputs=inputs, gradients={"a.weight": WIDE}))
    assert (said is not None) == holds
    assert said is None or said.layers == ("relu", "other")


@pytest.mark.parametrize(("width", "holds"), [(0.0009, True), (0.0012, False)])
def test_poor_initialization_looks_at_percentiles_of_gradients(width: float, holds: bool) -> None:
    gradient = torch.linspace(0, width / 0.9, 101)  # 90% of the range lies between the percentiles
    said = over(PoorWeightInitialization(), tensors(gradients={"a.weight": gradient, "b.weight": WIDE}))
    assert (said is not None) == holds
    assert said is None or said.layers == ("a.weight",)


def test_poor_initialization_waits_five_steps_for_the_loss() -> None:
    assert over(PoorWeightInitialization(), *losses(1, 1, 1, 1, 1)) is None
    assert over(PoorWeightInitialization(), *losses(1, 1, 1, 1, 1, 1)) is not None
    assert over(PoorWeightInitialization(), *losses(1, 2, 2, 2, 2, 0.9)) is None


def test_poor_initialization_is_silent_after_ten_steps() -> None:
    falling = losses(*(1 - place / 100 for place in range(10)))
    late = tensors(10, gradients={"a.weight": torch.zeros(9)})
    assert over(PoorWeightInitialization(), *falling, late) is None


@pytest.mark.parametrize(("scale", "kind"), [(1.5, None), (12.0, "large"), (1.0, "small")])
def test_update_ratio_is_of_norms(scale: float, kind: str | None) -> None:
    steps = [tensors(0, weights={"a": WIDE}), tensors(1, weights={"a": WIDE * scale})]
    said = over(WeightUpdateRatio(), *steps)
    assert (said.kind if said else None) == (f"WeightUpdateRatio {kind}" if kind else None)


def test_update_ratio_needs_steps_in_a_row() -> None:
    steps = [tensors(0, weights={"a": WIDE}), tensors(500, weights={"a": WIDE * 99})]
    assert over(WeightUpdateRatio(), *steps) is None


@pytest.mark.parametrize(
    ("after", "kind"),
    [
        (0.99, None),
        (0.9995, "LossNotDecreasing flat"),
        (1.0, "LossNotDecreasing flat"),
        (1.04, None),
        (1.06, "LossNotDecreasing rising"),
    ],
)
def test_loss_is_compared_with_that_of_ten_steps_before(after: float, kind: str | None) -> None:
    said = over(LossNotDecreasing(), *losses(1, *([9.0] * 9), after))
    assert (said.kind if said else None) == kind


def test_loss_that_is_saved_every_third_step_is_compared_four_saves_apart() -> None:
    rule = LossNotDecreasing()
    spoke = [rule.look(now) is not None for now in losses(1, 5, 5, 5, 2, 5, 5, 5, 4, every=3)]
    assert [place * 3 for place, is_on in enumerate(spoke) if is_on] == [12, 24]


def test_all_zero_names_outputs_before_gradients() -> None:
    zero = torch.zeros(3, 2)
    both = tensors(outputs={"relu": zero, "tanh": zero}, gradients={"a.weight": zero})
    assert over(AllZero(), both) == Statement("AllZero output", "AllZero holds at step 0", layers=("relu",))
    alone = tensors(gradients={"a.weight": zero, "b.weight": WIDE})
    assert over(AllZero(), alone).layers == ("a.weight",)
    assert over(AllZero(), tensors(gradients={"b.weight": WIDE})) is None


def test_tensor_is_unchanged_after_three_saves_without_a_change() -> None:
    rule, moving = UnchangedTensor(), torch.ones(2)
    steps = [tensors(step, weights={"still": moving, "moves": moving * (1 + step)}) for step in range(4)]
    assert [rule.look(now) is not None for now in steps] == [False, False, False, True]
    again = UnchangedTensor()
    assert over(again, *steps).layers == ("still",)


@pytest.mark.parametrize(("rare", "holds"), [(50, False), (49, True)])
def test_largest_class_has_more_than_ten_times_the_smallest(rare: int, holds: bool) -> None:
    labels = torch.tensor([0] * 500 + [1] * rare)
    assert (over(ClassImbalance(), tensors(labels=labels)) is not None) == holds


def test_classes_are_judged_once_there_are_five_hundred_samples() -> None:
    batch = torch.tensor([0] * 99 + [1])
    rule = ClassImbalance()
    assert [rule.look(tensors(step, labels=batch)) is not None for step in range(5)] == [False] * 4 + [True]


def test_rule_that_has_spoken_is_over() -> None:
    steps = [tensors(step, loss=math.nan) for step in range(3)]
    assert [said.kind for said in judge_steps(steps)].count("ExplodingTensor") == 1


def tiny(*layers: nn.Module, steps: int = 12, lr: float = 0.1) -> Program:
    """A classifier of random points."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    batches = [Batch(x, y)] * steps
    return Program(model, batches, Split(x, y), torch.optim.SGD(model.parameters(), lr))


def test_hooks_read_what_the_step_used() -> None:
    program = tiny(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2), steps=1)
    before = {name: weight.clone() for name, weight in program.model.named_parameters()}
    (read,) = read_run(program)
    assert set(read.gradients) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    torch.testing.assert_close(read.weights["0"], before["0.weight"] - 0.1 * read.gradients["0.weight"])
    torch.testing.assert_close(read.outputs["1"], read.inputs["1"].clamp(min=0))
    assert (read.inputs["1"] < 0).any()


def test_frozen_weights_are_not_read() -> None:
    program = tiny(nn.Linear(3, 4), nn.Linear(4, 2), steps=1)
    program.model[0].requires_grad_(False)
    (read,) = read_run(program)
    assert set(read.weights) == {"1"}


def test_interval_saves_every_nth_step() -> None:
    assert [read.step for read in read_run(tiny(nn.Linear(3, 2)), interval=5)] == [0, 5, 10]


def test_hooks_are_gone_after_the_run() -> None:
    program = tiny(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    list(read_run(program))
    assert not program.model[1]._forward_hooks
    assert not program.optimizer._optimizer_step_pre_hooks


def test_dead_layer_is_found_in_a_run() -> None:
    program = tiny(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(program.model[0].bias, -50)
    said = {statement.kind: statement.layers for statement in watch(program)}
    assert said["DeadRelu"] == ("1",)
    assert said["AllZero output"] == ("1",)
    assert said["VanishingGradient"] == ("0.weight", "0.bias", "2.weight")
