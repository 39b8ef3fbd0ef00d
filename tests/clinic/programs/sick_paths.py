"""Signals and gradients on wrong paths: doubled residuals, blown scores, drowned letters, cut graphs, lost means."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..case import Program, Proof, sick
from ..data import Batch, Split, blobs, digits, shuffled, text
from .healthy_games import Adversaries, near_the_ring, ring
from .sequence_networks import next_letter
from .sick_dropout import by_adam, rebuilding_error, rebuilt, share_rebuilt
from .sick_statistics import denoising


class MixerBlock(nn.Module):
    """A block of an MLP-Mixer: over patches, then over channels; gives its input back, and what it adds."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 24), nn.GELU(), nn.Linear(24, patches))
        self.channels = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MLPMixer(nn.Module):
    """Patches of 2 x 2 pixels, blocks of a mixer, the mean of all patches, a classifier."""

    def __init__(self, *, adds_again: bool, width: int = 24, depth: int = 7) -> None:
        super().__init__()
        self.adds_again = adds_again
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.blocks = nn.ModuleList(MixerBlock(16, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x) if self.adds_again else block(x)
        return self.head(x.mean(1))


MIXER = tuple(
    f"blocks.{block}{part}"
    for block in range(7)
    for part in ("", ".norm1", ".tokens", ".tokens.2", ".norm2", ".channels", ".channels.2")
)


@sick(
    "residual added twice in a Mixer",
    family="exploding_gradient",
    rule="ND312",
    also=("init_scale", "lr_too_high", "activation_shift", "numeric"),
    layers=MIXER,
    proof=Proof(sick=0.6, twin=0.87),
)
def residual_twice(is_faulty: bool) -> Program:
    """Blocks add their input themselves, and the loop adds it once more: seven times the signal doubles."""
    train, test = digits(image=True)
    model = MLPMixer(adds_again=is_faulty)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return Program(model, shuffled(train, 120), test, optimizer)


class CrossAttention(nn.Module):
    """Queries of a few latents, keys and values of a sequence; the scale of the scores is an argument."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.norm_q, self.norm_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.out = (nn.Linear(width, n * width) for n in (1, 2, 1))

    def forward(self, latents: Tensor, x: Tensor) -> Tensor:
        key, value = self.kv(self.norm_kv(x)).chunk(2, -1)
        read = F.scaled_dot_product_attention(self.q(self.norm_q(latents)), key, value, scale=self.scale)
        return latents + self.out(read)


class Perceiver(nn.Module):
    """A few latents that read all patches, again and again; a classifier of them."""

    def __init__(self, scale: float, width: int = 64, latents: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.patch, self.places = nn.Conv2d(1, width, 2, stride=2), nn.Parameter(torch.randn(16, width))
        self.reads = nn.ModuleList(CrossAttention(width, scale) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(latents * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.places
        latents = self.latents.expand(len(x), -1, -1)
        for read in self.reads:
            latents = read(latents, tokens)
        return self.head(self.norm(latents).flatten(1))


@sick(
    "scale of d ** .5 in SDPA",
    family="saturation",
    rule="ND203",
    also=("init_scale",),
    layers=tuple(f"reads.{read}{part}" for read in range(2) for part in ("", ".q", ".kv", ".out")),
    proof=Proof(sick=0.75, twin=0.84),
)
def scale_upside_down(is_faulty: bool) -> Program:
    """``scale`` is what scores are multiplied by, not divided: each latent sees one patch, and no other."""
    root = math.sqrt(64)
    return by_adam(Perceiver(root if is_faulty else 1 / root), digits(image=True), steps=150)


class Causal(nn.Module):
    """A small GPT of torch's own layers; the scale of its places is an argument."""

    def __init__(self, scale: float, length: int = 16, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(16, width), nn.Embedding(length, width)
        nn.init.normal_(self.wpe.weight, std=scale)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 64, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 16, bias=False)
        self.register_buffer("mask", torch.full((length, length), -torch.inf).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(x))


@sick(
    "places forty times the letters",
    family="init_scale",
    rule="ND312",
    layers=("wpe", "wte", "layers.0", "layers.0.norm1", "layers.0.self_attn"),
    proof=Proof(sick=0.5, twin=0.72),
)
def letters_drowned(is_faulty: bool) -> Program:
    """The table of places begins at 40 where the letters have 1: after the first LayerNorm no letter is left."""
    program = by_adam(Causal(40.0 if is_faulty else 0.5), text(), steps=150)
    program.loss = next_letter
    return program


class Frugal(nn.Module):
    """A narrow convolutional stem, computed twice to save memory, and a head with a hidden layer."""

    def __init__(self, *, is_reentrant: bool, code: int = 4) -> None:
        super().__init__()
        self.is_reentrant = is_reentrant
        self.stem = nn.Sequential(
            *(nn.Conv2d(1, 12, 3, 2, 1), nn.Tanh(), nn.Conv2d(12, 12, 3, 2, 1), nn.Tanh()),
            *(nn.Flatten(), nn.Linear(48, code)),
        )
        self.hidden, self.head = nn.Linear(code, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = checkpoint(self.stem, x, use_reentrant=self.is_reentrant)
        return self.head(self.hidden(x).relu())


@sick(
    "checkpoint with use_reentrant on raw inputs",
    family="not_trained",
    rule="ND605",
    layers=("stem", *(f"stem.{place}" for place in (0, 2, 5))),
    proof=Proof(sick=0.7, twin=0.88),
)
def reentrant_checkpoint(is_faulty: bool) -> Program:
    """A reentrant checkpoint wants an input that needs a gradient; images do not, so the stem gets none."""
    return by_adam(Frugal(is_reentrant=is_faulty), digits(image=True), steps=250, lr=5e-3)


class BinaryCode(nn.Module):
    """An autoencoder whose code is rounded to zeros and ones; the gradient may be let through."""

    def __init__(self, *, is_straight: bool, bits: int = 16) -> None:
        super().__init__()
        self.is_straight = is_straight
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, bits))
        self.decoder = nn.Sequential(nn.Linear(bits, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        soft = self.encoder(x).sigmoid()
        bits = soft.round()
        return self.decoder(soft + (bits - soft).detach() if self.is_straight else bits)


@sick(
    "binary code, no straight-through",
    family="not_trained",
    rule="ND605",
    also=("vanishing_gradient",),
    layers=("encoder", "encoder.0", "encoder.1", "encoder.2"),
    proof=Proof(sick=0.45, twin=0.55),
)
def rounded_code(is_faulty: bool) -> Program:
    """``round()`` has a gradient, which is zero everywhere: the encoder stays what it was drawn."""
    program = by_adam(BinaryCode(is_straight=not is_faulty), rebuilt(digits()), steps=300, lr=5e-3)
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


def judged_once(program: Program, batch: Batch) -> Tensor:
    """A step of both players, on fakes that were detached for the judge."""
    model, (for_generator, for_judge) = program.model, program.optimizer
    fake = model.generator(torch.randn(len(batch.x), 4))
    seen = fake.detach()
    judged = F.softplus(-model.discriminator(batch.x)).mean() + F.softplus(model.discriminator(seen)).mean()
    for_judge.zero_grad()
    judged.backward()
    for_judge.step()
    for_generator.zero_grad()
    F.softplus(-model.discriminator(seen if program.model.reuses else fake)).mean().backward()
    for_generator.step()
    return judged


@sick(
    "generator trained on detached fakes",
    family="not_trained",
    rule="ND605",
    layers=("generator", *(f"generator.{place}" for place in (0, 2, 4))),
    proof=Proof(sick=0.2, twin=0.5),
)
def generator_on_detached_fakes(is_faulty: bool) -> Program:
    """The fakes are detached for the judge, rightly, and the same tensor then is to teach the generator."""
    model = Adversaries()
    model.reuses = is_faulty
    optimizers = [
        torch.optim.Adam(model.generator.parameters(), 2e-3, betas=(0.0, 0.9)),
        torch.optim.Adam(model.discriminator.parameters(), 4e-3, betas=(0.0, 0.9)),
    ]
    train, test = (Split(x, torch.zeros(len(x))) for x in (ring(4096), ring(200)))
    return Program(
        *(model, shuffled(train, 300, size=128), test, optimizers), metric=near_the_ring, update=judged_once
    )


class Denoiser(nn.Module):
    """Three convolutions and a skip from input to output."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter, self.middle = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 4) / 2
        return x + self.leave(F.relu(self.middle(F.relu(self.enter(x)))))


@sick(
    "loss summed, rate meant for a mean",
    family="lr_too_high",
    rule="ND603",
    also=("exploding_gradient", "numeric", "activation_shift", "dead_units"),
    proof=Proof(sick=0.3, twin=0.7),
)
def summed_loss(is_faulty: bool) -> Program:
    """Squares are summed over pixels, as in a VAE: each step is 64 times as long as the rate was meant for."""
    train, test = denoising()
    model = Denoiser()
    share = 1 if is_faulty else 1 / 64
    return Program(
        *(model, shuffled(train, 150), test, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)),
        loss=lambda model, batch: share * (model(batch.x) - batch.y).square().sum((1, 2, 3)).mean(),
        metric=share_rebuilt,
    )


class Segmenter(nn.Module):
    """Convolutions of growing dilation and a mask; its last sigmoid can be left in."""

    def __init__(self, *, ends_in_sigmoid: bool, width: int = 12) -> None:
        super().__init__()
        self.ends_in_sigmoid = ends_in_sigmoid
        self.context = nn.ModuleList(
            nn.Conv2d(width if place else 1, width, 3, padding=2**place, dilation=2**place)
            for place in range(3)
        )
        self.mask = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.context:
            x = F.relu(conv(x))
        return self.mask(x).sigmoid() if self.ends_in_sigmoid else self.mask(x)


def mask_error(model: nn.Module, batch: Batch) -> Tensor:
    """Binary cross entropy of logits, over all pixels."""
    return F.binary_cross_entropy_with_logits(model(batch.x), batch.y)


@torch.no_grad()
def overlap(model: nn.Module, test: Split) -> float:
    """Intersection over union of all masks, where the probability is above a half."""
    found, true = model(test.x) > 0, test.y > 0
    return float((found & true).sum() / (found | true).sum())


@sick(
    "sigmoid twice",
    family="saturation",
    rule="ND201",
    also=("vanishing_gradient",),
    layers=("", "mask"),
    twin_follows=("ND201",),
    proof=Proof(sick=0.3, twin=0.7),
)
def sigmoid_twice(is_faulty: bool) -> Program:
    """The net ends in a sigmoid and the loss has one of its own: no probability can be below a half."""
    train, test = blobs()
    model = Segmenter(ends_in_sigmoid=is_faulty)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return Program(model, shuffled(train, 120, size=16), test, optimizer, mask_error, overlap)
