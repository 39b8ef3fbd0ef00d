"""The parts of hard programs: training steps, forward passes with state, and models that have them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def classify(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of what the model says."""
    return F.cross_entropy(model(x), y)


def perceptron(*between: nn.Module) -> nn.Sequential:
    """16 -> 24 -> 4."""
    return nn.Sequential(nn.Linear(16, 24), *between, nn.ReLU(), nn.Linear(24, 4))


def network(forward: Callable[..., Any] | None = None, **parts: Any) -> nn.Module:
    """A module of a class of its own, with the given forward pass and attributes."""
    members = {} if forward is None else {"forward": forward}
    module: nn.Module = type("Network", (nn.Module,), {**members, "__module__": __name__})()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def headed() -> nn.Module:
    """A perceptron and a head, called apart by the step."""
    return network(net=perceptron(), head=nn.Linear(4, 4))


def words(x: Tensor) -> Tensor:
    """Sequences of four positions: [N, 4, 4]."""
    return x.view(len(x), 4, 4)


# Steps that call parts of a model, and compute in between.


def adversarial(m: Any, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor]]:
    noise = torch.randn(len(x), 8)
    fake = m.generator(noise)
    yield "critic", F.softplus(-m.critic(x)).mean() + F.softplus(m.critic(fake.detach())).mean()
    yield "generator", F.softplus(-m.critic(m.generator(noise))).mean()


def alternating(m: Any, x: Tensor, y: Tensor) -> Iterator[tuple[str, Tensor]]:
    m.turns[0] += 1
    if m.turns[0] % 2:
        yield "generator", F.softplus(-m.critic(m.generator(x))).mean()
    else:
        yield "critic", F.softplus(-m.critic(x)).mean()


def variational(m: Any, x: Tensor, y: Tensor) -> Tensor:
    mean, spread = m.encoder(x).chunk(2, -1)
    code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
    return F.mse_loss(m.decoder(F.dropout(code, 0.1, m.training)), x) + 1e-3 * mean.square().mean()


def bottleneck() -> nn.Module:
    return network(
        encoder=nn.Linear(16, 8), decoder=nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 16))
    )


def twice(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(m.head((m.net(x) - m.net(x.flip(0))).abs()), y)


class Halves(nn.Module):
    """Is never called itself: two methods are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Linear(24, 4)
        self.shift = nn.Parameter(torch.randn(24))

    def encode(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(self.norm(self.inner(x))), 0.3, training=self.training) + self.shift

    def decode(self, h: Tensor) -> Tensor:
        return self.outer(h * 2)


def in_place(m: Any, x: Tensor, y: Tensor) -> Tensor:
    h = m.net(x)
    h += 1
    h[:, 0] = 0
    h.mul_(m.scale)
    return F.cross_entropy(m.head(h), y)


def shifted(m: Any, x: Tensor, y: Tensor) -> Tensor:
    h = m.net(x)
    h += 1
    return F.cross_entropy(m.head(h), y)


def views(m: Any, x: Tensor, y: Tensor) -> Tensor:
    out, (h, _) = m.rnn(words(x))
    return F.cross_entropy(m.head(out[:, -1]) + m.head(h[-1]) + m.head(out.detach().mean(1)), y)


def through_numpy(m: Any, x: Tensor, y: Tensor) -> Tensor:
    h = m.net(x)
    doubled = torch.from_numpy(h.detach().numpy() * 2)
    return F.cross_entropy(m.head(doubled + h), y) + m.head(doubled).mean()


class Double(torch.autograd.Function):
    """An operation with a backward pass of its own."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def recurrent_argument(m: Any, x: Tensor, y: Tensor) -> Tensor:
    out, carried = m.rnn(words(x), m.carried)
    m.carried = tuple(part.detach() for part in carried)
    return F.cross_entropy(m.head(out[:, -1]), y)


def time_first(m: Any, x: Tensor, y: Tensor) -> Tensor:
    out, _ = m.rnn(words(x).transpose(0, 1).contiguous())
    return F.cross_entropy(m.head(out[-1]), y)


def square_mask(m: Any, x: Tensor, y: Tensor) -> Tensor:
    """As many positions as samples."""
    mask = nn.Transformer.generate_square_subsequent_mask(8)
    return F.cross_entropy(m.head(m.block(x.view(8, 8, 2), src_mask=mask)).mean(1), y)


def functional_calls(m: Any, x: Tensor, y: Tensor) -> Tensor:
    one = torch.func.functional_call(m.net, dict(m.net.named_parameters()), (x,))
    return F.cross_entropy(one + torch.vmap(m.other)(x), y)


@dataclass
class Bundle:
    """An argument that is no container of torch's."""

    x: Tensor
    factor: int


def packed(m: Any, x: Tensor, y: Tensor) -> Tensor:
    lengths = torch.arange(8) % 4 + 1
    sequences = nn.utils.rnn.pack_padded_sequence(words(x), lengths, batch_first=True, enforce_sorted=False)
    _, h = m.rnn(sequences)
    return F.cross_entropy(m.head(h[-1]), y)


def distilled(m: Any, x: Tensor, y: Tensor) -> Tensor:
    out = m.net(x)
    with torch.no_grad():
        target = m.teacher(x)
    return m.criterion(out, y) + F.mse_loss(out, target)


def measured(m: Any, x: Tensor, y: Tensor) -> Tensor:
    out = m.net(x)
    m.accuracy(out, y)
    m.outputs.update(out)
    return F.cross_entropy(out, y)


def ring(m: Any, x: Tensor, y: Tensor) -> Tensor:
    edges = torch.stack([torch.arange(8), (torch.arange(8) + 1) % 8])
    return F.cross_entropy(m(x, edges), y)


# Forward passes with state.


def counting(m: Any, x: Tensor) -> Tensor:
    m.count = m.count + 1
    return m.layer(x) * (1 + 0.01 * m.count)


def collecting(m: Any, x: Tensor) -> Tensor:
    m.sums.append(float(x.sum()))
    m.numbers["calls"] = m.numbers.get("calls", 0) + 1
    m.recent.append(1)
    return m.layer(x) + 0.01 * len(m.sums)


def caching(m: Any, x: Tensor) -> Tensor:
    h = m.layer(x)
    m.cache.layers[0].append(h.detach())
    m.cache.layers[0] = m.cache.layers[0][-3:]
    m.cache.totals[0][0].add_(1)
    m.cache.calls += 1
    return h + 0.1 * torch.stack(m.cache.layers[0]).mean(0) + 0.01 * m.cache.totals[0][0]


def closing_over() -> nn.Module:
    box = [0]

    def forward(m: Any, x: Tensor) -> Tensor:
        box[0] += 1
        return m.layer(x) * (1 + 0.01 * box[0])

    return network(forward, layer=nn.Linear(16, 4))


def rebinding_closure() -> nn.Module:
    calls = 0

    def forward(m: Any, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return m.layer(x) * (1 + 0.01 * calls)

    return network(forward, layer=nn.Linear(16, 4))


COUNTS = {"forward": 0}


def global_state() -> nn.Module:
    COUNTS["forward"] = 0

    def forward(m: Any, x: Tensor) -> Tensor:
        COUNTS["forward"] += 1
        return m.layer(x) * (1 + 0.01 * COUNTS["forward"])

    return network(forward, layer=nn.Linear(16, 4))


def class_state() -> nn.Module:
    class Counted(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            return self.layer(x) * (1 + 0.01 * type(self).calls)

    return Counted()


def default_state() -> nn.Module:
    def forward(m: Any, x: Tensor, calls: list[int] = [0]) -> Tensor:  # noqa: B006
        calls[0] += 1
        return m.layer(x) * (1 + 0.01 * calls[0])

    return network(forward, layer=nn.Linear(16, 4))


def held_function() -> nn.Module:
    calls = [0]

    def scale(x: Tensor) -> Tensor:
        calls[0] += 1
        return x * (1 + 0.01 * calls[0])

    return network(lambda m, x: m.scale(m.layer(x)), layer=nn.Linear(16, 4), scale=scale)


class Slotted:
    """State that is in no ``__dict__``."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


def slotted(m: Any, x: Tensor) -> Tensor:
    m.state.calls += 1
    return m.layer(x) * (1 + 0.01 * m.state.calls)


class Classes(dict[str, Any]):
    """Makes an instance of the class it holds, at each look-up."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


def choosing(m: Any, x: Tensor) -> Tensor:
    m.count += 1
    return m.last(m.choices["relu"](m.first(x)))


def ordering(m: Any, x: Tensor) -> Tensor:
    """A cache that drops what was used longest ago."""
    m.cache.move_to_end(next(iter(m.cache)))
    return m.layer(x) * (1 + 0.1 * next(iter(m.cache.values())))


def backward_inside(m: Any, x: Tensor) -> Tensor:
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        m.layer(start).square().sum().backward()
    return m.layer(x - 0.1 * start.grad)


def renewing(m: Any, x: Tensor) -> Tensor:
    """An equal list in its place: the model's other name for it must stay the same list."""
    if m.training:
        m.past.append(1)
    else:
        m.past = list(m.past)
    return m.layer(x) * (1 + 0.01 * len(m.alias))


def aliased() -> nn.Module:
    past: list[int] = []
    return network(renewing, layer=nn.Linear(16, 4), past=past, alias=past)


class Memory(dict[str, int]):
    """A dictionary of the user's own kind."""


class Past(list[int]):
    """A list of the user's own kind."""


def own_containers(m: Any, x: Tensor) -> Tensor:
    m.memory["calls"] = m.memory.get("calls", 0) + 1
    m.past.append(1)
    return m.layer(x) * (1 + 0.01 * m.memory["calls"] + 0.01 * len(m.past))


def own_generators(m: Any, x: Tensor) -> Tensor:
    noise = torch.randn(4, generator=m.torch_noise) + m.coin.random() + float(m.numpy_noise.normal())
    return m.layer(x) + 0.1 * noise


def rebinding(m: Any, x: Tensor) -> Tensor:
    m.layer.weight.data = F.normalize(m.layer.weight.data, dim=1)
    return m.layer(x)


def clamping(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.layer.weight.clamp_(-0.1, 0.1)
    return m.layer(x)


class Contrast(nn.Module):
    """Momentum encoder and queue, both written in forward."""

    queue: Tensor
    place: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(16, 4), nn.Linear(16, 4).requires_grad_(False)
        self.register_buffer("queue", torch.randn(32, 4))
        self.register_buffer("place", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for follower, leader in zip(self.key.parameters(), self.query.parameters(), strict=True):
                follower.mul_(0.9).add_(leader, alpha=0.1)
            place = int(self.place)
            self.queue[place : place + 8] = self.key(x)
            self.place[0] = (place + 8) % 32
        return self.query(x) @ self.queue[:4].T


def metric_inside(m: Any, x: Tensor) -> Tensor:
    out = m.layer(x)
    m.mean.update(out.sum())
    return out * (1 + 0.01 * m.mean.compute().detach())


class Logging(nn.Module):
    """What a LightningModule looks like to the sandbox."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.logged: list[str] = []

    def training_step(self) -> None:
        """Lightning's."""

    def log(self, name: str, value: Any) -> None:
        self.logged.append(name)

    def log_dict(self, values: dict[str, Any]) -> None:
        self.logged.extend(values)

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        self.log("mean", out.mean())
        self.log_dict({"a": 1, "b": 2})
        return out


class Carrying(nn.Module):
    """Hands its hidden state from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 4)
        self.carried: Any = None

    def forward(self, x: Tensor) -> Tensor:
        out, carried = self.rnn(words(x), self.carried)
        self.carried = tuple(part.detach() for part in carried)
        return self.head(out[:, -1])


def tossing(m: Any, x: Tensor) -> Tensor:
    return m.last(m.left(x) if random.random() < 0.5 else m.right(x) * float(np.random.rand()))


def branching(m: Any, x: Tensor) -> Tensor:
    return m.last(m.left(x) if x.square().mean() > 0 else m.right(x))


def with_loss(m: Any, inputs: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Tensor]:
    logits = m.net(inputs)
    return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def hooked() -> nn.Module:
    seen: list[float] = []
    model = perceptron()
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.sum().item()))
    model.register_forward_hook(lambda module, args, output: output * (1 + 0.01 * len(seen)))
    return model


def differentiating(m: Any, x: Tensor) -> Tensor:
    x = x.requires_grad_(True)
    energy = m.layer(x).tanh().sum()
    return torch.autograd.grad(energy, x, create_graph=True)[0] @ m.mix


def transposing(m: Any, x: Tensor) -> Tensor:
    out, _ = m.rnn(words(x).transpose(0, 1))
    return m.head(out[-1])


def routed(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    chosen = m.gate(h).argmax(-1)
    y = torch.zeros_like(h)
    for number, expert in enumerate(m.experts):
        index = (chosen == number).nonzero()[:, 0]
        y = y.index_add(0, index, expert(h[index]))
    return m.last(h + y)


def limited(m: Any, x: Tensor) -> Tensor:
    """The better half of a batch goes through the expert."""
    h = m.first(x)
    chosen = m.gate(h).squeeze(-1).topk(len(x) // 2).indices
    return m.last(h.index_add(0, chosen, m.expert(h[chosen])))


def experts() -> nn.Module:
    return network(
        routed,
        first=nn.Linear(16, 8),
        gate=nn.Linear(8, 4),
        experts=nn.ModuleList(nn.Linear(8, 8) for _ in range(4)),
        last=nn.Linear(8, 4),
    )


def unregistered() -> nn.Module:
    return network(last=nn.Linear(16, 4), hidden=[nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3))])


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(24), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4))


def old_norms() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        last = nn.utils.weight_norm(nn.Linear(24, 4))
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(16, 24)), nn.ReLU(), last)


def frozen() -> nn.Module:
    model = perceptron(nn.BatchNorm1d(24), nn.Dropout(0.3))
    model[1].eval()
    return model


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


def two_layers(**others: Any) -> dict[str, Any]:
    return {"left": nn.Linear(16, 8), "right": nn.Linear(16, 8), "last": nn.Linear(8, 4), **others}
