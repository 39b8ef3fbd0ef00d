"""Which families of faults a tool's words speak for.

Generous where words allow it: a statement gets every family that it could mean. A statement that names a symptom
of anything ("the loss does not fall") speaks for none, and still counts as an alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..families import families_of
from .statement import Statement

SLOW = ("vanishing_gradient", "not_trained")
FAST = ("lr_too_high", "exploding_gradient", "activation_shift")

SAGEMAKER: Mapping[str, tuple[str, ...]] = {
    "VanishingGradient": ("vanishing_gradient",),
    "ExplodingTensor": ("numeric", "exploding_gradient"),
    "DeadRelu": ("dead_units",),
    "SaturatedActivation": ("saturation",),
    "PoorWeightInitialization": ("init_scale", "symmetry"),
    "WeightUpdateRatio large": FAST,
    "WeightUpdateRatio small": SLOW,
    "LossNotDecreasing rising": ("lr_too_high",),
    "AllZero output": ("dead_units",),
    "AllZero gradient": ("dead_units", *SLOW),
    "UnchangedTensor": SLOW,
}

TORCHMORTEM: Mapping[str, tuple[str, ...]] = {
    "Vanishing gradients": ("vanishing_gradient",),
    "Exploding gradients": ("exploding_gradient", "numeric"),
    "Gradient stalling": SLOW,
    "Dead units": ("dead_units",),
    "Activation saturation": ("saturation",),
    "Update ratio too low": SLOW,
    "Update ratio too high": FAST,
    "Weight norm explosion": FAST,
    "Stagnant weight norms": SLOW,
    "Inter-layer weight norm imbalance": ("init_scale",),
    "Rank collapse": ("symmetry",),
    "Training divergence": ("lr_too_high", "exploding_gradient", "numeric"),
}

OBSERVATORY: Mapping[str, tuple[str, ...]] = {
    "NaN": ("numeric",),
    "Inf ": ("numeric",),
    "are dead": ("dead_units",),
    "appear dead": ("dead_units",),
    "High sparsity": ("dead_units",),
    "High saturation": ("saturation",),
    "Vanishing gradients": ("vanishing_gradient",),
    "Gradient norm collapsed": ("vanishing_gradient",),
    "Exploding gradients": ("exploding_gradient",),
    "norm spike": FAST,
    "High parameter drift": FAST,
    "Large step-to-step parameter change": FAST,
    "Parameter norm near zero": ("init_scale",),
    "embedding drift": FAST,
    "Low attention entropy": ("saturation",),
}

TORCH_AUDIT: Mapping[str, tuple[str, ...]] = {
    "TA100": ("numeric",),
    "TA102": FAST,
    "TA103": ("dead_units", *SLOW),
    "TA104": ("not_trained",),
    "TA105": ("dead_units",),
    "TA301": ("input_scale",),
    "TA304": ("bn_small_batch",),
    "TA405": ("dead_units",),
    "TA500": ("not_trained",),
    "TA501": ("bn_drift",),
}

TRAINTOOLS: Mapping[str, tuple[str, ...]] = {
    "non-finite": ("numeric",),
    "vanished": ("vanishing_gradient",),
    "very large": ("exploding_gradient",),
    "ratio is high": FAST,
    "ratio is tiny": SLOW,
    "no gradients": ("not_trained",),
    "abs max": ("input_scale",),
    "dominant class": ("bn_noniid_batch",),
    "dormant": ("dead_units",),
    "low-rank": ("symmetry",),
    "rank-collapsed": ("symmetry",),
}


def _found(table: Mapping[str, tuple[str, ...]], words: str) -> frozenset[str]:
    return frozenset(family for phrase, families in table.items() if phrase in words for family in families)


FAMILIES_OF: Mapping[str, Callable[[Statement], frozenset[str]]] = {
    "nndiag": lambda said: families_of(said.kind),
    "SageMaker Debugger rules": lambda said: _found(SAGEMAKER, said.kind),
    "SageMaker Debugger rules, every 500": lambda said: _found(SAGEMAKER, said.kind),
    "torchmortem": lambda said: _found(TORCHMORTEM, said.kind),
    "neural-observatory": lambda said: _found(OBSERVATORY, said.text),
    "torch-audit": lambda said: _found(TORCH_AUDIT, said.kind),
    "traintools": lambda said: _found(TRAINTOOLS, said.kind),
}
"""For each tool, the families of a statement."""
