"""The training programs: Lightning modules that write down every loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

Optimize = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Regression(LightningModule):
    """Fits the mean of its inputs."""

    def __init__(self, network: nn.Module, optimize: Optimize) -> None:
        super().__init__()
        self.network = network
        self.optimize = optimize
        self.losses: list[Tensor | None] = []

    @staticmethod
    def targets(x: Tensor) -> Tensor:
        """One target a sample."""
        return x.flatten(1).mean(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """What the network says."""
        return self.network(x)

    def criterion(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch."""
        return F.mse_loss(prediction, target)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """One closure call."""
        loss = self.criterion(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        self.losses.append(loss.detach().clone())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Eval mode, also in the sanity check."""
        loss = self.criterion(self(batch[0]), batch[1])
        self.log("val_loss", loss)
        self.losses.append(loss.clone())

    def configure_optimizers(self) -> Any:
        """The family's optimizer."""
        return self.optimize(self.parameters())


class Classification(Regression):
    """Three classes, integer labels."""

    @staticmethod
    def targets(x: Tensor) -> Tensor:
        """[N] of class ids."""
        return x.flatten(1).sum(dim=1).abs().long() % 3

    def criterion(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(prediction, target)


class Skipping(Regression):
    """Returns None for some batches: no backward, no step."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Skips each third batch after its forward pass."""
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class Scheduled(Regression):
    """With a learning-rate scheduler a step."""

    def configure_optimizers(self) -> Any:
        """SGD whose rate decays at each step."""
        optimizer = self.optimize(self.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Adversarial(Regression):
    """Manual optimization: two networks, two optimizers, toggled."""

    def __init__(self, network: nn.Module, optimize: Optimize) -> None:
        super().__init__(network, optimize)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One step of the critic, then one of the generator."""
        generator, critic = self.network["generator"], self.network["critic"]  # type: ignore[index]
        critic_optimizer, generator_optimizer = self.optimizers()  # type: ignore[misc,union-attr]
        real, noise = batch[0], torch.randn_like(batch[0])
        self.toggle_optimizer(critic_optimizer)
        critic_loss = F.softplus(critic(generator(noise).detach())) + F.softplus(-critic(real))
        self._step(critic_optimizer, critic_loss.mean())
        self.untoggle_optimizer(critic_optimizer)
        self.toggle_optimizer(generator_optimizer)
        self._step(generator_optimizer, F.softplus(-critic(generator(noise))).mean())
        self.untoggle_optimizer(generator_optimizer)

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("loss", loss)
        self.losses.append(loss.detach().clone())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Only the critic's opinion of real data."""
        self.losses.append(self.network["critic"](batch[0]).mean().clone())  # type: ignore[index]

    def configure_optimizers(self) -> Any:
        """One optimizer for each network."""
        return [self.optimize(self.network[name].parameters()) for name in ("critic", "generator")]  # type: ignore[index]


class Penalized(Regression):
    """A gradient penalty: backward through backward."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Loss plus squared input gradient."""
        x = batch[0].clone().requires_grad_()
        prediction = self(x)
        (slope,) = torch.autograd.grad(prediction.sum(), x, create_graph=True)
        loss = self.criterion(prediction, batch[1]) + 0.1 * slope.square().mean()
        self.log("train_loss", loss)
        self.losses.append(loss.detach().clone())
        return loss


class Encoding(Regression):
    """Calls parts of the network by hand, with noise and in-place operations between them."""

    def forward(self, x: Tensor) -> Tensor:
        """A small variational bottleneck."""
        mean, spread = self.network[0](x).chunk(2, dim=-1)  # type: ignore[index]
        code = mean + torch.randn_like(mean) * spread.exp()
        code += 1
        return self.network[1](F.dropout(code, 0.2, self.training))  # type: ignore[index]
