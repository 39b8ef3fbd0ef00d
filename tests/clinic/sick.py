"""The sick programs, each with a twin that lacks only the fault."""

from __future__ import annotations

from .case import Case
from .sick_norms import (
    bn_momentum,
    dropout_on_tiny_layers,
    dropout_then_bn,
    ln_on_a_raw_table,
    one_class_per_batch,
)
from .sick_steps import adam_lr, log_of_softmax, raw_pixels
from .sick_weights import big_tanh, const_mlp, dead_bias, deep_sigmoid, tiny_tanh

SICK: tuple[Case, ...] = (
    *(const_mlp, tiny_tanh, big_tanh, dead_bias),
    *(dropout_on_tiny_layers, dropout_then_bn),
    *(bn_momentum, one_class_per_batch, ln_on_a_raw_table),
    *(deep_sigmoid, adam_lr, raw_pixels, log_of_softmax),
)
