"""Ordinary good trainings: the networks and recipes of tutorials, and a few things that only look odd."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, StepLR

from ..case import Program, cross_entropy, healthy, r_squared
from ..data import Batch, Split, blobs, digits, rows, shuffled, table, text
from .networks import Convolutional
from .norm_networks import ResNet, UNet
from .sequence_networks import LanguageModel, next_letter
from .sick_dropout import rebuilding_error, share_rebuilt, standardized
from .sick_field import LeNet
from .sick_paths import overlap


@healthy("LeNet, SGD and StepLR", traps=("saturation", "activation_shift"), above=0.9)
def lenet() -> Program:
    """Tanh, average pooling, SGD with momentum, a rate that is divided by ten for the last fifty steps."""
    train, test = digits(image=True)
    model = LeNet()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    return Program(
        model, shuffled(train, 200), test, optimizer, scheduler=StepLR(optimizer, step_size=150, gamma=0.1)
    )


@healthy("ResNet, AdamW and cosine", traps=("bn_drift", "activation_shift"), above=0.93)
def resnet() -> Program:
    """A small ResNet with BatchNorm, as in any tutorial; the rate follows a cosine to zero."""
    train, test = digits(image=True)
    model = ResNet(width=12)
    optimizer = AdamW(model.parameters(), 5e-3, weight_decay=0.05)
    return Program(
        model, shuffled(train, 160), test, optimizer, scheduler=CosineAnnealingLR(optimizer, T_max=160)
    )


def dice(model: nn.Module, batch: Batch) -> Tensor:
    """One minus the overlap of the probabilities with the masks, image by image."""
    probability = model(batch.x).sigmoid()
    both = (probability * batch.y).sum((1, 2, 3))
    return 1 - ((2 * both + 1) / ((probability + batch.y).sum((1, 2, 3)) + 1)).mean()


@healthy("U-Net with Dice loss", traps=("saturation", "vanishing_gradient", "bn_small_batch"), above=0.8)
def unet() -> Program:
    """Dice drives probabilities to 0 and 1, and one pixel in ten is foreground."""
    train, test = blobs()
    model = UNet(nn.BatchNorm2d)
    optimizer = Adam(model.parameters(), 5e-3)
    return Program(model, shuffled(train, 120, size=16), test, optimizer, dice, overlap)


@healthy("convolutional autoencoder", traps=("dead_units", "vanishing_gradient"), above=0.55)
def strided() -> Program:
    """Strides on the way down, transposed convolutions on the way up, a code of 16 numbers."""
    train, test = (Split(part.x, part.x) for part in digits(image=True))
    model = nn.Sequential()
    model.encoder = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 16)),
    )
    model.decoder = nn.Sequential(
        *(nn.Linear(16, 64), nn.ReLU(), nn.Unflatten(1, (16, 2, 2))),
        *(nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1), nn.ReLU()),
        nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
    )
    optimizer = Adam(model.parameters(), 5e-3)
    return Program(model, shuffled(train, 200), test, optimizer, rebuilding_error, share_rebuilt)


class Lstm(nn.Module):
    """Two layers of an LSTM over rows, and a classifier of the last state."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, num_layers=2, batch_first=True)
        self.fc = nn.Linear(width, 10)
        for name, parameter in self.lstm.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(parameter)
            elif "bias_ih" in name:
                nn.init.constant_(parameter[width : 2 * width], 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[1][0][-1])


@healthy("two LSTM layers, forget bias 1", traps=("saturation", "symmetry"), above=0.92)
def lstm() -> Program:
    """The usual start of an LSTM: orthogonal recurrent weights, and forget gates that begin open."""
    train, test = rows()
    model = Lstm()
    return Program(model, shuffled(train, 200), test, Adam(model.parameters(), 1e-2))


class ViT(nn.Module):
    """Patches of 2 x 2 pixels, a class token, two encoder layers, a classifier of the token."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.token, self.places = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(17, width))
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.places, std=0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.1, F.gelu, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), 1, -1), patches], 1) + self.places
        return self.head(self.encoder(tokens)[:, 0])


@healthy("ViT of two layers", traps=("symmetry", "init_scale", "dropout_capacity"), above=0.82)
def vit() -> Program:
    """Both layers are copies at the start, as ``nn.TransformerEncoder`` makes them; the rate is warmed up."""
    train, test = digits(image=True)
    model = ViT()
    optimizer = AdamW(model.parameters(), 4e-3, weight_decay=0.01)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    return Program(model, shuffled(train, 160), test, optimizer, scheduler=scheduler)


@healthy("rare classes with class weights", traps=("bn_noniid_batch", "dead_units"), above=0.92)
def weighted() -> Program:
    """Three classes have a fifth of their images, and five times their weight in the loss."""
    train, test = digits(image=True)
    is_rare = train.y >= 7
    keep = ~is_rare | (torch.arange(len(train.y)) % 5 == 0)
    weight = torch.ones(10).index_fill(0, torch.arange(7, 10), 5.0)
    model = Convolutional(nn.BatchNorm2d)
    return Program(
        *(model, shuffled(Split(train.x[keep], train.y[keep]), 200), test),
        optimizer=Adam(model.parameters(), 3e-3),
        loss=lambda model, batch: F.cross_entropy(model(batch.x), batch.y, weight=weight),
    )


def cut_on_plateaus(plateau: ReduceLROnPlateau) -> Callable[[Program, Batch], Tensor]:
    """A step, and a look of the schedule at the loss."""

    def update(program: Program, batch: Batch) -> Tensor:
        loss = program.loss(program.model, batch)
        program.optimizer.zero_grad()
        loss.backward()
        program.optimizer.step()
        plateau.step(loss.detach())
        return loss

    return update


@healthy("Huber loss and ReduceLROnPlateau", traps=("dead_units", "not_trained"), above=0.9)
def regression() -> Program:
    """A perceptron on a standardized table; the rate is halved whenever the loss stalls, to 1% at the end."""
    train, test = standardized(table())
    mean, std = train.y.mean(), train.y.std()
    train, test = (Split(part.x, (part.y - mean) / std) for part in (train, test))
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = Adam(model.parameters(), 5e-3)
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=15, min_lr=5e-5)
    return Program(
        *(model, shuffled(train, 300), test, optimizer),
        loss=lambda model, batch: F.huber_loss(model(batch.x).squeeze(-1), batch.y),
        metric=r_squared,
        update=cut_on_plateaus(plateau),
    )


def clipped(program: Program, batch: Batch) -> Tensor:
    """A step along gradients whose norm is clipped at a tenth."""
    loss = program.loss(program.model, batch)
    program.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(program.model.parameters(), 0.1)
    program.optimizer.step()
    return loss


@healthy("GRU, clipped in every step", traps=("exploding_gradient", "vanishing_gradient"), above=0.7)
def always_clipped() -> Program:
    """A language model under SGD; the norm of gradients is clipped so low that only their direction counts."""
    train, test = text()
    model = LanguageModel(nn.GRU)
    optimizer = SGD(model.parameters(), 3.0, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, T_max=200)
    return Program(
        *(model, shuffled(train, 200, size=32), test, optimizer, next_letter),
        scheduler=scheduler,
        update=clipped,
    )


def epochs_with_rest(data: Split, steps: int, size: int) -> list[Batch]:
    """Shuffled epochs that keep their last batch, however short it is."""
    generator = torch.Generator().manual_seed(31)
    chunks = (
        chunk
        for _ in itertools.count()
        for chunk in torch.randperm(len(data.x), generator=generator).split(size)
    )
    return [Batch(data.x[chunk], data.y[chunk]) for chunk in itertools.islice(chunks, steps)]


@healthy(
    "last batch of a few images", traps=("bn_small_batch", "bn_noniid_batch", "activation_shift"), above=0.95
)
def short_last_batch() -> Program:
    """The loader does not drop its last batch, which has five images where all others have 64; with BatchNorm."""
    train, test = digits(image=True)
    train = Split(train.x[: 22 * 64 + 5], train.y[: 22 * 64 + 5])
    model = Convolutional(nn.BatchNorm2d)
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    return Program(model, epochs_with_rest(train, 200, 64), test, optimizer, cross_entropy)
