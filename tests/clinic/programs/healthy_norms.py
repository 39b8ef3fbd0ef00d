"""Healthy programs whose normalization looks odd: tiny batches, frozen statistics, batches of unlike kinds."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, accuracy, healthy, one_update
from ..data import CLASSES, Batch, Split, digits, shuffled, text
from .healthy_traps import next_letter
from .networks import Convolutional, pretrained
from .norm_networks import Normed, ResNet, UNet, four_groups
from .sick_dropout import rebuilding_error, share_rebuilt
from .sick_statistics import (
    Frozen,
    denoising,
    in_order,
    joined,
    recoloured,
    with_adam,
)


@healthy("GroupNorm at batch size 2", traps=("bn_small_batch",), above=0.8)
def group_norm_at_tiny_batches() -> Program:
    """Two images a step, but GroupNorm normalizes each of them by itself."""
    train, test = digits(image=True)
    return with_adam(ResNet(four_groups, width=12), shuffled(train, 300, size=2), test)


@healthy("BN momentum .01 and patience", traps=("bn_drift",), above=0.92)
def slow_statistics() -> Program:
    """Running statistics move slowly, but 300 steps at momentum .01 are enough for them."""
    train, test = digits(image=True)
    model = ResNet(partial(nn.BatchNorm2d, momentum=0.01), width=8)
    return with_adam(model, shuffled(train, 300, size=32), test, lr=1e-3)


@healthy("LayerNorm at batch size 1", traps=("bn_small_batch", "bn_noniid_batch"), above=0.75)
def one_sample_a_step() -> Program:
    """One digit a step: each batch is of one class and its gradient is noisy, and LayerNorm does not mind."""
    train, test = digits()
    return with_adam(Normed(nn.LayerNorm, depth=2), shuffled(train, 300, size=1), test, lr=1e-3)


def accumulated(program: Program, batch: Batch) -> Tensor:
    """One update of the gradients of all samples, each of which goes forward alone."""
    program.optimizer.zero_grad()
    total = torch.zeros(())
    for x, y in zip(batch.x, batch.y, strict=True):
        loss = program.loss(program.model, Batch(x[None], y[None])) / len(batch.x)
        loss.backward()
        total = total + loss.detach()
    program.optimizer.step()
    return total


@healthy("one image at a time, accumulated", traps=("bn_small_batch", "bn_noniid_batch"), above=0.85)
def accumulated_gradients() -> Program:
    """Memory is short, so eight images go forward one by one before each step; the norms are GroupNorm."""
    train, test = digits(image=True)
    program = with_adam(ResNet(four_groups, width=8), shuffled(train, 150, size=8), test, lr=5e-3)
    program.update = accumulated
    return program


def relit(data: Split, steps: int) -> list[Batch]:
    """Shuffled batches, each with a brightness and contrast of its own, as an augmentation draws them."""
    generator = torch.Generator().manual_seed(12)
    batches = []
    for batch in shuffled(data, steps):
        gain, offset = 1 + 0.3 * torch.randn(2, generator=generator)
        batches.append(Batch(gain * batch.x + offset - 1, batch.y))
    return batches


@healthy("brightness drawn per batch", traps=("bn_noniid_batch", "bn_drift"), above=0.94)
def brightness_per_batch() -> Program:
    """An augmentation draws one brightness and one contrast for a whole batch; BatchNorm takes them out."""
    train, test = digits(image=True)
    return with_adam(ResNet(width=8), relit(train, 200), test)


def easy_first(data: Split, steps: int, size: int = 64) -> list[Batch]:
    """Batches of a few classes at first, of all of them in the second half."""
    batches: list[Batch] = []
    for stage in range(4):
        is_known = data.y < (3, 5, CLASSES, CLASSES)[stage]
        known = Split(data.x[is_known], data.y[is_known])
        batches += shuffled(known, steps // 4, size, seed=20 + stage)
    return batches


@healthy("curriculum with GroupNorm", traps=("bn_noniid_batch", "activation_shift"), above=0.92)
def curriculum() -> Program:
    """Easy classes come first, hard ones later; batches are never alike over time, and no BatchNorm is there."""
    train, test = digits(image=True)
    return with_adam(ResNet(four_groups, width=12), easy_first(train, 200), test)


@healthy("sorted by label with LayerNorm", traps=("bn_noniid_batch",), above=0.85)
def sorted_without_batch_norm() -> Program:
    """The loader does not shuffle, and labels come in order; small steps and LayerNorm stand it."""
    train, test = digits()
    model = Normed(nn.LayerNorm, depth=2, activation=F.gelu)
    batches = in_order(train, train.y.argsort(stable=True), 280)
    return Program(model, batches, test, torch.optim.SGD(model.parameters(), 0.01))


@healthy("detector with frozen BN", traps=("bn_drift",), above=0.94)
def frozen_statistics() -> Program:
    """A pretrained net is fine-tuned on like images at a small rate, BatchNorm in eval mode throughout."""
    train, test = digits(image=True)
    model = Frozen(pretrained(ResNet(width=8), train, 150), is_frozen=True)
    optimizer = torch.optim.SGD(model.parameters(), 2e-4, momentum=0.9)
    return Program(model, shuffled(train, 150, size=8), test, optimizer)


@healthy("fine-tuned, BN in train mode", traps=("bn_drift", "activation_shift"), above=0.92)
def adapting_statistics() -> Program:
    """New images are inverted, but the running statistics follow them within some steps."""
    old = digits(image=True)
    model = pretrained(ResNet(width=8), old[0], 80)
    train, test = recoloured(old, -1.0, 0.5)
    return with_adam(model, shuffled(train, 150), test, lr=2e-3)


@healthy("InstanceNorm for styles", traps=("bn_drift", "bn_small_batch"), above=0.9)
def styles() -> Program:
    """Each image has a contrast and brightness of its own, which InstanceNorm takes out; batches are of 8."""
    generator = torch.Generator().manual_seed(13)
    parts = []
    for part in digits(image=True):
        gain = 0.3 + 2 * torch.rand(len(part.x), 1, 1, 1, generator=generator)
        parts.append(Split(gain * part.x + torch.randn(gain.shape, generator=generator), part.y))
    train, test = parts
    model = Convolutional(partial(nn.InstanceNorm2d, affine=True))
    return with_adam(model, shuffled(train, 300, size=8), test, lr=5e-3)


def balanced(data: Split, steps: int, size: int = 20, seed: int = 1) -> list[Batch]:
    """Batches with two samples of each class."""
    generator = torch.Generator().manual_seed(seed)
    members = [(data.y == label).nonzero().flatten() for label in range(CLASSES)]
    picks = [
        torch.cat([m[torch.randperm(len(m), generator=generator)[: size // CLASSES]] for m in members])
        for _ in range(steps)
    ]
    return [Batch(data.x[pick], data.y[pick]) for pick in picks]


@healthy("BN and balanced batches of 20", traps=("bn_noniid_batch", "bn_small_batch"), above=0.92)
def balanced_batches() -> Program:
    """A sampler puts two images of each class into a batch, in order of the class."""
    train, test = digits(image=True)
    return with_adam(ResNet(), balanced(train, 200), test)


@healthy("BN of a CNN at batch size 8", traps=("bn_small_batch",), above=0.75)
def small_batches_many_places() -> Program:
    """Eight images are few, but each statistic is of 128 values or more."""
    train, test = denoising()
    model = UNet(nn.BatchNorm2d)
    program = Program(model, shuffled(train, 200, size=8), test, torch.optim.Adam(model.parameters(), 5e-3))
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


@healthy("zero gamma in a ResNet", traps=("symmetry", "vanishing_gradient"), above=0.94)
def zero_gamma() -> Program:
    """The last BatchNorm of each block begins at zero, so each block begins as the identity."""
    train, test = digits(image=True)
    model = ResNet(width=12)
    for stage in model.stages:
        nn.init.zeros_(stage.norm2.weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    return Program(model, shuffled(train, 150), test, optimizer)


class Averaged(nn.Module):
    """A network, and beside it an average over time of its weights, which evaluation uses."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def follow(self, decay: float = 0.95) -> None:
        """Moves the average a bit towards the network; buffers are copied."""
        for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for mean, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(now)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if self.training else self.average(x)


def followed(program: Program, batch: Batch) -> Tensor:
    """The usual step, and then the average's."""
    loss = one_update(program, batch)
    program.model.follow()
    return loss


@healthy("EMA of weights", traps=("not_trained", "bn_drift"), above=0.94)
def averaged_weights() -> Program:
    """The averaged copy gets no gradients and is in no optimizer; it is what is evaluated."""
    train, test = digits(image=True)
    model = Averaged(ResNet(width=8))
    optimizer = torch.optim.Adam(model.network.parameters(), 3e-3)
    return Program(model, shuffled(train, 180), test, optimizer, update=followed)


class RootBlock(nn.Module):
    """A causal block with RMSNorm, attention as a function and a gated SiLU, as in recent language models."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.wqkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        mixed = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + self.wo(mixed.transpose(1, 2).reshape(x.shape))
        inner = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(inner)) * self.up(inner))


class RootTransformer(nn.Module):
    """Letters in, two blocks, the next letter out; the head is tied to the embedding."""

    def __init__(self, letters: int = 16, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(letters, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.layers = nn.ModuleList(RootBlock(width, 4) for _ in range(2))
        self.norm, self.lm_head = nn.RMSNorm(width), nn.Linear(width, letters, bias=False)
        self.lm_head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))


def clipped_update(program: Program, batch: Batch) -> Tensor:
    """A forward pass in bfloat16, and gradients of norm 1 at most."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(program.model.parameters(), 1.0)
    program.optimizer.step()
    return loss


@healthy("RMSNorm transformer in bfloat16", traps=("ln_heterogeneous", "init_scale"), above=0.7)
def root_mean_square_norms() -> Program:
    """A small language model with tied weights, RMSNorm and no bias anywhere, trained under autocast."""
    train, test = text(length=12)
    model = RootTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, betas=(0.9, 0.95))
    batches = shuffled(train, 120, size=32)
    return Program(model, batches, test, optimizer, next_letter, accuracy, update=clipped_update)


class Described(nn.Module):
    """Rows of pixels beside a few strong and clear numbers, embedded together, LayerNorm over all of it."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(64, width), nn.LayerNorm(width)
        with torch.no_grad():
            self.embed.weight[0] *= 5
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(self.embed(x)))


@healthy("LN with one strong feature", traps=("ln_heterogeneous", "init_scale"), above=0.92)
def one_strong_feature() -> Program:
    """One of 48 embedded features is five times the others; what they say is well above noise nevertheless."""
    train, test = digits()
    return with_adam(Described(), shuffled(train, 200), test, lr=2e-3)


@healthy("weight norm MLP", traps=("symmetry", "init_scale"), above=0.94)
def weight_norm() -> Program:
    """Each Linear is a direction and a length; no norm of activations anywhere."""
    train, test = digits()
    model = nn.Sequential(
        *(nn.utils.parametrizations.weight_norm(nn.Linear(64, 96)), nn.ELU()),
        *(nn.utils.parametrizations.weight_norm(nn.Linear(96, 48)), nn.ELU()),
        nn.utils.parametrizations.weight_norm(nn.Linear(48, 10)),
    )
    return with_adam(model, shuffled(train, 250), test)


@healthy("two domains mixed in each batch", traps=("bn_drift", "bn_noniid_batch"), above=0.9)
def mixed_domains() -> Program:
    """Images of two cameras, one inverted, in every batch: BatchNorm sees both at once, as evaluation does."""
    old = digits(image=True)
    first, second = recoloured(old, 0.8, -0.3), recoloured(old, -0.8, 0.3)
    train, test = (joined([a, b]) for a, b in zip(first, second, strict=True))
    return with_adam(ResNet(width=12), shuffled(train, 200), test)
