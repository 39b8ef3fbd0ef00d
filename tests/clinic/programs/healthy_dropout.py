"""Healthy programs with dropout, or noise like it, where naive thresholds see a fault."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Program, accuracy, healthy, one_update, r_squared
from ..data import Batch, Split, digits, rows, shuffled, table, text
from .healthy_traps import next_letter
from .norm_networks import Attending, Autoencoder, Normed, ResNet, Vision
from .sequence_networks import Recurrent
from .sick_dropout import by_adam, rebuilding_error, rebuilt, share_rebuilt, squared_error, standardized


@healthy("dropout .5 in wide convolutions", traps=("dropout_capacity",), above=0.94)
def dropout_in_convolutions() -> Program:
    """Of 48 channels 24 are left, and of 256 units of the head 128."""
    model = Vision(48, channel_p=0.5, head_p=0.5, width=256)
    return by_adam(model, digits(image=True), steps=120)


@healthy("stochastic depth", traps=("dropout_capacity", "dropout_bn_order", "bn_drift"), above=0.94)
def stochastic_depth() -> Program:
    """The branch of each block is left out for three samples of ten while training."""
    return by_adam(ResNet(width=16, keep=0.7), digits(image=True), steps=150)


@healthy("BN before dropout", traps=("dropout_bn_order", "dropout_capacity"), above=0.94)
def dropout_after_batch_norm() -> Program:
    """Linear, BatchNorm, ReLU, dropout of .4 in the last hidden layer alone: nothing normalizes after it."""
    model = nn.Sequential(
        *(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU()),
        *(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.4), nn.Linear(128, 10)),
    )
    return by_adam(model, digits(), steps=200)


@healthy("dropout .1, add, LayerNorm", traps=("dropout_bn_order", "dropout_capacity"), above=0.92)
def dropout_before_layer_norm() -> Program:
    """A post-norm transformer: dropout stands before every LayerNorm, which keeps no running statistics."""
    return by_adam(Attending(0.1), rows(), steps=120)


def narrow_head(p: float) -> nn.Sequential:
    """A regression whose last hidden layer is narrow."""
    return nn.Sequential(
        *(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 12), nn.SiLU()),
        *(nn.Dropout(p), nn.Linear(12, 1)),
    )


@healthy("dropout .1 in a narrow regression", traps=("dropout_capacity",), above=0.88)
def dropout_in_a_narrow_head() -> Program:
    """Dropout is small, and though the layer has 12 units, eleven of them are left."""
    program = by_adam(narrow_head(0.1), standardized(table()), steps=250, lr=5e-3)
    program.loss, program.metric = squared_error, r_squared
    return program


class Denoising(nn.Module):
    """Pixels are dropped at the input, as a function, and the whole image is to be rebuilt."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.network = p, Autoencoder(24, p=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(F.dropout(x, self.p, self.training))


@healthy("denoising autoencoder", traps=("dropout_capacity",), above=0.6)
def dropped_pixels() -> Program:
    """Three pixels of ten are dropped at the input, by intention."""
    program = by_adam(Denoising(0.3), rebuilt(digits()), steps=300, lr=5e-3)
    program.loss, program.metric = rebuilding_error, share_rebuilt
    return program


class Variational(nn.Module):
    """A VAE: mean and log variance of a code, noise while training, the mean at evaluation."""

    def __init__(self, code: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())
        self.mu, self.log_var = nn.Linear(64, code), nn.Linear(64, code)
        self.decoder = nn.Sequential(nn.Linear(code, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x)
        mu, log_var = self.mu(hidden), self.log_var(hidden)
        self.divergence = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1).mean()
        if self.training:
            mu = mu + torch.randn_like(mu) * (0.5 * log_var).exp()
        return self.decoder(mu)


def evidence_bound(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error and the divergence of the code from its prior."""
    return F.mse_loss(model(batch.x), batch.y) + 2e-3 * model.divergence


@healthy("variational autoencoder", traps=("dropout_capacity", "dead_units"), above=0.6)
def variational_autoencoder() -> Program:
    """Noise is added to a narrow code while training, and not at evaluation: it looks like dropout."""
    program = by_adam(Variational(), rebuilt(digits()), steps=300, lr=4e-3)
    program.loss, program.metric = evidence_bound, share_rebuilt
    return program


def with_less_and_less(steps: int) -> object:
    """An update that lowers the probability of all dropouts in a straight line, to zero."""

    def update(program: Program, batch: Batch) -> Tensor:
        for part in program.model.modules():
            if isinstance(part, nn.Dropout):
                part.p = max(0.0, part.p - 0.5 / steps)
        return one_update(program, batch)

    return update


@healthy("dropout that fades out", traps=("dropout_capacity", "activation_shift"), above=0.94)
def fading_dropout() -> Program:
    """Dropout begins at .5 and is gone at the end of training, by a schedule of its own."""
    model = nn.Sequential(
        *(nn.Linear(64, 128), nn.GELU(), nn.Dropout(0.5)),
        *(nn.Linear(128, 128), nn.GELU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )
    program = by_adam(model, digits(), steps=200)
    program.update = with_less_and_less(200)
    return program


@healthy("two LSTM layers with dropout .2", traps=("dropout_capacity", "saturation"), above=0.9)
def lightly_dropped_lstm() -> Program:
    """Between two wide layers one output of five is dropped."""
    return by_adam(Recurrent(nn.LSTM, width=48, num_layers=2, dropout=0.2), rows(), steps=150, lr=8e-3)


@healthy("dropout .3 then LayerNorm in an MLP", traps=("dropout_bn_order", "dropout_capacity"), above=0.92)
def dropout_before_layer_norm_in_an_mlp() -> Program:
    """Dropout as a function before each Linear, and a LayerNorm behind, which has nothing to learn wrong."""
    return by_adam(Normed(nn.LayerNorm, depth=3, width=128, before=0.3), digits(), steps=200)


class SpatialText(nn.Module):
    """Letters, whole channels of their embedding dropped, a causal convolution, the next letter."""

    def __init__(self, letters: int = 16, width: int = 64) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(letters, width), nn.Dropout1d(0.2)
        self.conv, self.head = nn.Conv1d(width, width, 2), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.drop(self.embed(tokens).transpose(1, 2))
        x = F.gelu(self.conv(F.pad(x, (1, 0))))
        return self.head(x.transpose(1, 2))


@healthy("channel dropout on embeddings", traps=("dropout_capacity",), above=0.72)
def dropped_channels_of_embeddings() -> Program:
    """One channel of five of a wide embedding is dropped for a whole sequence."""
    train, test = text(length=12)
    model = SpatialText()
    optimizer = torch.optim.NAdam(model.parameters(), 4e-3)
    return Program(model, shuffled(train, 150, size=32), test, optimizer, next_letter, accuracy)


class TwoTowers(nn.Module):
    """Metric learning: one encoder with BatchNorm for both images of a pair, cosines as logits."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.encoder(x), dim=-1)


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    """Images of one class are to be alike: cross entropy over the other images of the batch."""
    codes = model(batch.x)
    logits = codes @ codes.T / 0.2
    logits = logits.masked_fill(torch.eye(len(codes), dtype=torch.bool), -1e4)
    is_same = (batch.y[:, None] == batch.y) & ~torch.eye(len(codes), dtype=torch.bool)
    share = is_same / is_same.sum(1, keepdim=True).clamp(min=1)
    return -(share * logits.log_softmax(1)).sum(1).mean()


@torch.no_grad()
def nearest(model: nn.Module, test: Split) -> float:
    """Share of test images whose nearest other image is of their class."""
    codes = model(test.x)
    likeness = (codes @ codes.T).fill_diagonal_(-2)
    return float((test.y[likeness.argmax(1)] == test.y).double().mean())


@healthy("metric learning", traps=("bn_drift", "dropout_capacity", "saturation"), above=0.92)
def metric_learning() -> Program:
    """There are no logits of classes at all, only codes of length 1 and their cosines."""
    program = by_adam(TwoTowers(), digits(), steps=150, lr=2e-3)
    program.loss, program.metric = contrast, nearest
    return program
