"""The families: small networks and programs, one habit each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Literal

import torch
from harmless.kinds import Bundle, ModelOutput
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.utils import parametrizations

from .networks import (
    Checkpointed,
    CountingMetric,
    Failing,
    FunctionalAttention,
    FunctionalOnly,
    LastPosition,
    Noisy,
    Packed,
    PythonStateful,
    ResidualInPlace,
    SelfWriting,
    TiedTokens,
    Tokens,
    TupleAttention,
    Unwrapped,
    Vectorized,
    Witness,
    Wrapping,
)
from .programs import (
    Adversarial,
    Classification,
    Encoding,
    Optimize,
    Penalized,
    Regression,
    Scheduled,
    Skipping,
)

ADAMW: Optimize = partial(torch.optim.AdamW, lr=0.01)
SGD: Optimize = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


@dataclass(frozen=True, eq=False)
class Family:
    """One training program, complete: a run of it is a function of this and of the seed."""

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...] = (8,)
    program: type[Regression] = Regression
    optimize: Optimize = ADAMW
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list
    plugins: Callable[[], list[Any]] = list
    loop: Literal["lightning", "plain"] = "lightning"
    is_compiled: bool = False


def multilayer_perceptron() -> nn.Module:
    """Linear, ReLU, Dropout, Linear."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))


def batch_normalized() -> nn.Module:
    """A perceptron with batch statistics and dropout."""
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))


def convolutional() -> nn.Module:
    """Convolution, batch norm, ReLU in place, channel dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout2d(0.2)),
        *(nn.Flatten(), nn.Linear(8 * 16, 3)),
    )


def channels_last() -> nn.Module:
    """The same without in-place, strides in the other order."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
    )
    return network.to(memory_format=torch.channels_last)


def residual() -> nn.Module:
    """Two residual blocks that add in place."""
    return nn.Sequential(
        *(ResidualInPlace(4), ResidualInPlace(4)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)),
    )


def long_short_term_memory() -> nn.Module:
    """Two layers with dropout inside the fused kernel."""
    lstm = nn.LSTM(4, 8, num_layers=2, dropout=0.3, batch_first=True)
    return nn.Sequential(lstm, LastPosition(), nn.Linear(8, 1))


def gated_recurrent() -> nn.Module:
    """One GRU layer."""
    return nn.Sequential(nn.GRU(4, 8, batch_first=True), LastPosition(), nn.Linear(8, 1))


def transformer_encoder() -> nn.Module:
    """Has a fast path in eval mode."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers=2)
    return nn.Sequential(encoder, LastPosition(), nn.Linear(16, 1))


def functional_dropout_attention() -> nn.Module:
    """Attention through functions."""
    return nn.Sequential(
        FunctionalAttention(16), nn.LayerNorm(16), FunctionalAttention(16), LastPosition(), nn.Linear(16, 1)
    )


def checkpointed(use_reentrant: bool) -> nn.Module:
    """A checkpointed block with dropout and batch norm between two layers."""
    return nn.Sequential(nn.Linear(8, 8), Checkpointed(8, use_reentrant), nn.Linear(8, 1))


def spectral_normalized() -> nn.Module:
    """Both kinds of spectral norm: power iteration at each forward pass in train mode."""
    old = nn.utils.spectral_norm(nn.Linear(16, 1))
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 16)), nn.LeakyReLU(), old)


def weight_normalized_and_tied() -> nn.Module:
    """Both kinds of weight norm, and a bias in two places."""
    first, second = parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8)
    second.bias = first.bias
    return nn.Sequential(first, nn.Tanh(), second, nn.utils.weight_norm(nn.Linear(8, 1)))


def shared_three_times() -> nn.Module:
    """One linear layer at three places."""
    shared = nn.Linear(8, 8)
    return nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), shared, nn.Dropout(0.1), nn.Linear(8, 1))


def random_activations() -> nn.Module:
    """Activations that draw."""
    return nn.Sequential(nn.Linear(8, 16), nn.RReLU(), nn.AlphaDropout(0.2), nn.Linear(16, 1))


def tracking_norms() -> nn.Module:
    """Group norm, and instance norm with running statistics."""
    return nn.Sequential(
        *(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8)),
        *(nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.SiLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)),
    )


def frozen_batch_norm() -> nn.Module:
    """Batch norm put into eval mode for good, as in fine-tuning."""
    network = batch_normalized()
    network[1].eval().requires_grad_(False)  # type: ignore[index]
    return network


def python_stateful() -> nn.Module:
    """State that no state_dict holds."""
    return nn.Sequential(nn.Linear(8, 8), PythonStateful(8), nn.Linear(8, 1))


def self_writing() -> nn.Module:
    """Parameters written in forward."""
    return nn.Sequential(SelfWriting(8), nn.Linear(8, 1))


def metric_inside() -> nn.Module:
    """A torchmetrics metric in forward."""
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), CountingMetric(), nn.Linear(8, 1))


def lazy() -> nn.Module:
    """Layers that were shaped by their first input."""
    network = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(1))
    network(torch.zeros(2, 8))
    return network


def shapeless() -> nn.Module:
    """Layers that are shaped by the first batch of all."""
    return nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1))


def compiled(backend: str = "aot_eager", **options: Any) -> nn.Module:
    """An inner compiled region."""
    inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(nn.Linear(8, 8), torch.compile(inner, backend=backend, **options), nn.Linear(16, 1))


def wrapping(wrap: Callable[[torch.Tensor], Any], unwrap: Callable[[Any], torch.Tensor]) -> nn.Module:
    """Layers that hand containers on."""
    return nn.Sequential(Wrapping(8, wrap, unwrap), Wrapping(8, wrap, unwrap), Unwrapped(8, unwrap))


def scripted() -> nn.Module:
    """A TorchScript submodule: takes no hooks."""
    inner = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 8)))
    return nn.Sequential(nn.Linear(8, 16), inner, nn.Linear(8, 1))


def adversaries() -> nn.Module:
    """Generator and critic."""
    generator = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
    critic = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
    return nn.ModuleDict({"generator": generator, "critic": critic})


def bottleneck() -> nn.Module:
    """Encoder and decoder, called apart."""
    return nn.ModuleList([nn.Linear(8, 8), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))])


def scaled_precision() -> list[Any]:
    """Half precision with a gradient scaler, on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return [MixedPrecision("16-mixed", "cpu", scaler=scaler)]


def with_plain_loop(family: Family) -> Family:
    """The same network in a loop without a framework."""
    return Family(
        f"plain {family.name}", family.network, family.shape, family.program, family.optimize, loop="plain"
    )


IMAGE, SEQUENCE, WIDE_SEQUENCE = (3, 6, 6), (6, 4), (6, 16)
AVERAGES: dict[str, Callable[[], Callback]] = {}
if hasattr(lightning_callbacks, "WeightAveraging"):  # with Lightning 2.5 not even the bare run can be resumed
    AVERAGES = {
        "stochastic weight averaging": partial(
            lightning_callbacks.StochasticWeightAveraging, swa_lrs=0.01, swa_epoch_start=1
        ),
        "weight averaging": lightning_callbacks.WeightAveraging,
        "moving weight average": lightning_callbacks.EMAWeightAveraging,
    }

MLP = Family("mlp dropout", multilayer_perceptron)
CNN = Family("cnn batch norm in-place", convolutional, IMAGE, Classification)
LSTM = Family("lstm dropout", long_short_term_memory, SEQUENCE)
ACCUMULATION = Family(
    "accumulation and clipping",
    batch_normalized,
    optimize=SGD,
    trainer={"accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "max_epochs": 3},
)
NON_REENTRANT = Family("checkpoint non-reentrant", partial(checkpointed, False))
SPECTRAL = Family("spectral norm", spectral_normalized)
FROZEN = Family("frozen batch norm", frozen_batch_norm)
STATEFUL = Family("python-stateful", python_stateful)
GAN = Family("manual optimization gan", adversaries, program=Adversarial)
WITNESS = Family("witness", lambda: nn.Sequential(nn.Linear(8, 8), Witness(8)))
WRITING = Family("self-writing", self_writing)
COMPILED = Family("inner compile", compiled, is_compiled=True)
FUNCTIONAL = Family("functional only", lambda: FunctionalOnly(8, 16))

FAMILIES: tuple[Family, ...] = (
    *(MLP, CNN, LSTM, ACCUMULATION, NON_REENTRANT, SPECTRAL, FROZEN, STATEFUL, GAN, WITNESS, WRITING),
    *(COMPILED, FUNCTIONAL),
    Family("channels last bf16", channels_last, IMAGE, Classification, trainer={"precision": "bf16-mixed"}),
    Family("residual in-place", residual, (4, 6, 6)),
    Family("gru", gated_recurrent, SEQUENCE),
    Family("transformer encoder", transformer_encoder, WIDE_SEQUENCE),
    Family("functional attention", functional_dropout_attention, WIDE_SEQUENCE),
    Family("checkpoint reentrant", partial(checkpointed, True)),
    Family("weight norm and tied", weight_normalized_and_tied),
    Family("shared three times", shared_three_times),
    Family("random activations", random_activations),
    Family("tracking norms", tracking_norms, (4, 6, 6)),
    Family("embedding and tuples", lambda: nn.Sequential(Tokens(), TupleAttention(), nn.Linear(8, 1)), (5,)),
    Family(
        "lbfgs",
        multilayer_perceptron,
        optimize=partial(torch.optim.LBFGS, max_iter=3),
        trainer={"limit_train_batches": 3},
    ),
    *(
        Family(name, batch_normalized, trainer={"max_epochs": 3}, callbacks=lambda make=make: [make()])
        for name, make in AVERAGES.items()
    ),
    Family("scripted submodule", scripted),
    Family("skipped batches", batch_normalized, program=Skipping),
    Family("scheduler", batch_normalized, program=Scheduled, optimize=SGD),
    Family("gradient penalty", shared_three_times, program=Penalized),
    Family("variational glue", bottleneck, program=Encoding),
    Family("metric inside", metric_inside),
    Family("lazy", lazy),
    Family("lazy until the first batch", shapeless),
    Family("gradient scaler", multilayer_perceptron, plugins=scaled_precision),
    Family(
        "gradient scaler fused",
        multilayer_perceptron,
        optimize=partial(torch.optim.AdamW, lr=0.01, fused=True),
        plugins=scaled_precision,
    ),
    Family("tied embedding", lambda: nn.Sequential(Tokens(), TiedTokens()), (5,), Classification),
    Family("packed sequence", lambda: nn.Sequential(Packed(4), nn.Linear(8, 1)), SEQUENCE),
    Family("dict outputs", partial(wrapping, lambda x: {"hidden": x}, itemgetter("hidden"))),
    Family("dataclass outputs", partial(wrapping, Bundle, attrgetter("scores"))),
    Family("model outputs", partial(wrapping, ModelOutput, attrgetter("logits"))),
    Family("vmap", lambda: nn.Sequential(Vectorized(8), nn.Linear(8, 1))),
    Family("own generator", lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), Noisy(), nn.Linear(8, 1))),
    Family("inner compile fullgraph", partial(compiled, fullgraph=True), is_compiled=True),
    Family("inner compile dynamic", partial(compiled, dynamic=True), is_compiled=True),
    Family("double precision", multilayer_perceptron, trainer={"precision": "64-true"}),
    *(with_plain_loop(family) for family in (MLP, CNN, LSTM, STATEFUL)),
)

FAILING = Family("failing", lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Failing(8, 1)))
"""The user's own error ends the run."""

INDUCTOR = Family("inner compile inductor", partial(compiled, "inductor"), is_compiled=True)
"""Takes seconds to compile."""
