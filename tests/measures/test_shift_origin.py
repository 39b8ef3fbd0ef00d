"""Shift origin: own and upstream shares by hand, exact where nothing came in, taken only when named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiag.errors import ConfigurationError
from nndiag.functional import hellinger2
from nndiag.measures import MEASURES, ON_DEMAND, Need
from nndiag.options import Selection
from nndiag.snapshot import Snapshot
from nndiag.statistics import Statistic

from .loops import session, train
from .networks import Convolutions, stack
from .runs import Run, batches, classify

NAMED = ("shift_origin",)


def plain() -> nn.Sequential:
    return stack(nn.ReLU)


def convolutions() -> nn.Sequential:
    shape, pool = nn.Unflatten(1, (1, 8, 8)), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    first, second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(
        shape, first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), pool, nn.Linear(8, 10)
    )


def normed() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU()),
        nn.Linear(32, 10),
    )


def watched(model: nn.Module, steps: int = 4, lr: float = 0.1, **options: object) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return train(model, batches(steps, 128), optimizer, measures=NAMED, **options)


def shares(run: Run, step: int) -> dict[str | None, float]:
    return {
        r.layer: r.value for u in run.updates if u.step == step for r in u.readings if r.measure == NAMED[0]
    }


def reasons(run: Run) -> dict[str, str | None]:
    return {
        e.layer: e.reason for e in run.report.coverage if e.measure == NAMED[0] and e.status == "not observed"
    }


def moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel of raw outputs."""
    rows = x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()
    return rows.mean(0), rows.var(0)


@torch.no_grad()
def passed(model: nn.Sequential, x: Tensor, given: list[Tensor] | None = None) -> list[list[Tensor]]:
    """Inputs and outputs of the parts in evaluation; on inputs of another pass where they are given."""
    model.eval()
    inputs, outputs = [], []
    for place, part in enumerate(model):
        inputs.append(x.clone() if given is None else given[place])
        x = part(inputs[-1].clone())
        outputs.append(x.clone())
    return [inputs, outputs]


@pytest.mark.parametrize("make", [plain, convolutions, normed])
def test_shares_are_the_distances_of_raw_outputs(make: Callable[[], nn.Sequential]) -> None:
    """Each visit sees the parameters before the update, and running statistics that hold the batch."""
    torch.manual_seed(0)
    model, twin, data = make(), make(), batches(4, 128)
    states: list[dict[str, Tensor]] = []

    def noting(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = classify(model, batch)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return loss

    run = train(model, data, torch.optim.SGD(model.parameters(), lr=0.3), noting, measures=NAMED)
    for step in (1, 2, 3):
        twin.load_state_dict(states[step - 1])
        given, before = passed(twin, data[0][0])
        twin.load_state_dict(states[step])
        now, unmoved = passed(twin, data[0][0])[1], passed(twin, data[0][0], given)[1]
        found = shares(run, step)
        assert set(found) == {str(i) for i, part in enumerate(model) if list(part.parameters())}
        for layer, value in found.items():
            there, middle, here = (moments(outputs[int(layer)]) for outputs in (before, unmoved, now))
            own, upstream = hellinger2(*there, *middle).mean(), hellinger2(*middle, *here).mean()
            detail = run.reading("upstream_share", layer, step).detail
            assert detail["own"] == pytest.approx(own, rel=1e-2, abs=1e-9)
            assert detail["upstream"] == pytest.approx(upstream, rel=1e-2, abs=1e-9)
            assert detail["total"] == pytest.approx(hellinger2(*there, *here).mean(), rel=1e-2, abs=1e-9)
            assert value == pytest.approx(upstream / (upstream + own), abs=1e-3)


@pytest.mark.parametrize(("make", "first"), [(plain, "0"), (convolutions, "1"), (normed, "0")])
def test_nothing_comes_in_at_the_first_layer(make: Callable[[], nn.Sequential], first: str) -> None:
    torch.manual_seed(0)
    run = watched(make())
    for step in (1, 2, 3):
        assert run.reading("upstream_share", first, step).detail["upstream"] == 0.0
        assert shares(run, step).pop(first) == 0.0
        assert min(value for layer, value in shares(run, step).items() if layer != first) > 0.0


@pytest.mark.parametrize("make", [plain, convolutions, normed])
def test_a_network_at_rest_has_no_share(make: Callable[[], nn.Sequential]) -> None:
    """0 of 0 is no number; running statistics of a batch normalization would be movement, so they are held."""
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        module.training = False
    run = watched(model, lr=0.0)
    assert not [r for u in run.updates for r in u.readings if r.measure == "shift_origin"]
    assert set(reasons(run).values()) == {"nothing moved"}


@pytest.mark.parametrize("make", [plain, convolutions])
def test_below_the_only_layer_that_learns_all_comes_in(make: Callable[[], nn.Sequential]) -> None:
    torch.manual_seed(0)
    model = make()
    first, *others = [m for m in model if list(m.parameters())]
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    run = train(model, batches(4, 128), optimizer, measures=NAMED)
    for step in (1, 2, 3):
        start, *rest = shares(run, step).values()
        assert len(rest) == len(others)
        assert start == 0.0
        assert rest == pytest.approx([1.0] * len(rest), abs=1e-6)


def test_above_the_only_layer_that_learns_nothing_moves() -> None:
    torch.manual_seed(0)
    model = plain()
    run = train(model, batches(4, 128), torch.optim.SGD(model[-1].parameters(), lr=0.1), measures=NAMED)
    assert shares(run, 3) == {"6": 0.0}
    assert reasons(run) == dict.fromkeys(("0", "2", "4"), "nothing moved")


def test_the_share_grows_with_depth() -> None:
    """Of a plain ReLU network, averaged over bursts: none at the first layer, most of it from the third on."""
    torch.manual_seed(0)
    model = stack(nn.ReLU, depth=4, width=48)
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    run = train(model, batches(62), optimizer, measures=NAMED)
    profile = np.mean([list(shares(run, step).values()) for step in (21, 31, 41, 51, 61)], axis=0)
    assert len(profile) == 5
    assert profile[0] == 0.0
    assert 0.2 < profile[1] < 0.7 < min(profile[2:])


def test_earlier_inputs_meet_the_precision_of_the_pass() -> None:
    """Under autocast, both sides are of bf16 products: a layer at rest is at rest."""
    torch.manual_seed(0)
    model = plain()

    def mixed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[0])
        return F.cross_entropy(logits.float(), batch[1])

    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.5)
    run = train(model, batches(4, 128), optimizer, mixed, measures=NAMED)
    assert shares(run, 3) == {"0": 0.0, "2": 1.0, "4": 1.0, "6": 1.0}


def test_it_is_taken_only_when_named() -> None:
    torch.manual_seed(0)
    model = plain()
    run = train(model, batches(4), torch.optim.SGD(model.parameters(), lr=0.1))
    assert not [r for u in run.updates for r in u.readings if r.measure == "shift_origin"]
    assert session(model, 4).observers.burst is None
    assert not any(Need.SHIFT_ORIGIN in measure.needs for measure in MEASURES.values())
    assert Selection.checked(measures=("activation_shift", *ON_DEMAND)).measures == (
        "activation_shift",
        *NAMED,
    )
    with pytest.raises(ConfigurationError, match="shift_origin"):
        Selection.checked(measures=("shift_origins",))


def test_it_is_taken_beside_others() -> None:
    torch.manual_seed(0)
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = train(model, batches(4), optimizer, measures=("activation_shift", *NAMED))
    for layer in ("0", "2", "4", "6"):
        total = run.reading("upstream_share", layer, 3).detail["total"]
        assert total == pytest.approx(run.reading("step_shift", layer, 3).value, rel=1e-9)


def steps_that_keep(model: nn.Module, steps: int) -> list[int]:
    """The steps behind which inputs are still held."""
    watcher = session(model, steps, measures=NAMED)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.01), []
    for step, batch in enumerate(batches(steps)):
        watcher.begin_batch(step)
        watcher.open_window(glue=False)
        optimizer.zero_grad()
        loss = classify(model, batch)
        loss.backward()
        watcher.before_update(optimizer=optimizer)
        optimizer.step()
        watcher.end_batch(loss, batch[1])
        assert not watcher.observers.burst._unmoved
        if watcher.observers.burst._kept:
            found.append(step)
    return found


def test_inputs_are_kept_within_a_burst_only() -> None:
    """Visits at 0, 1, 2, 3, 5, 8, 12, 16, 20, 21, 30, 31: held from one to the next step, and let go there."""
    torch.manual_seed(0)
    kept = steps_that_keep(plain(), 34)
    assert {0, 1, 2, 20, 30} <= set(kept)
    assert not {3, 5, 8, 12, 16, 21, 31} & set(kept)


def fail(*arguments: object) -> None:
    raise MemoryError


def test_nothing_is_kept_behind_a_refusal() -> None:
    torch.manual_seed(0)
    model = plain()
    watcher = session(model, 8, measures=NAMED)
    for step, batch in enumerate(batches(3, 128)):
        watcher.begin_batch(step)
        watcher.open_window(glue=False)
        loss = classify(model, batch)
        loss.backward()
        if step == 2:
            assert watcher.observers.burst._kept
            model[4].register_forward_hook(fail)
        watcher.before_update()
        watcher.end_batch(loss, batch[1])
    assert watcher.observers.refusal is not None
    assert watcher.observers.burst is None


def sizes(snapshot: Snapshot) -> list[int]:
    def largest(statistic: Statistic) -> int:
        return max(t.numel() for t in statistic.to_tensors().values())

    return [largest(s) for key, s in snapshot.statistics.items() if key.statistic == "moments/unmoved"]


def test_a_snapshot_holds_moments_of_units_only() -> None:
    torch.manual_seed(0)
    update = watched(plain()).updates[-1]
    assert update.snapshot is not None
    assert sizes(update.snapshot) == [32, 32, 32, 10]


@pytest.mark.parametrize("make", [plain, convolutions, normed, Convolutions])
def test_training_is_the_same_bit_by_bit(make: Callable[[], nn.Module]) -> None:
    ends = []
    for names in (NAMED, ("data",)):
        torch.manual_seed(0)
        model = make()
        train(model, batches(8), torch.optim.Adam(model.parameters(), lr=0.01), measures=names)
        assert not [m for m in model.modules() if "forward" in vars(m)]
        ends.append(model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize(
    "way", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_a_layer_of_computed_weights_is_covered(way: Callable[[nn.Module], nn.Module]) -> None:
    """With the weights of now, on both inputs; nothing of what they are computed from is moved by it."""
    torch.manual_seed(0)
    model = plain()
    way(model[2])
    run = train(model, batches(4, 128), torch.optim.SGD(model[0].parameters(), lr=0.1), measures=NAMED)
    assert 0.9 < shares(run, 3)["2"] <= 1.0
    assert shares(run, 3)["0"] == 0.0


class Doubled(nn.Linear):
    """A layer of the user's own, which may do more than compute."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Odd(nn.Module):
    """A layer that is called twice, one of the user's own, one of two inputs, and one that is as usual."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.own = nn.Linear(64, 16), nn.Linear(16, 16), Doubled(16, 16)
        self.pair, self.head = nn.Bilinear(16, 16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.own(torch.relu(self.twice(torch.tanh(self.twice(self.first(x))))))
        return self.head(self.pair(h, h))


def test_what_cannot_be_run_again_is_not_observed() -> None:
    torch.manual_seed(0)
    run = watched(Odd())
    assert set(shares(run, 3)) == {"first", "head"}
    assert {"twice", "own"} <= set(reasons(run))
    assert all("PyTorch's own" in reasons(run)[layer] for layer in ("twice", "own"))


def test_without_the_probe_nothing_is_observed() -> None:
    torch.manual_seed(0)
    run = watched(plain(), probe=False)
    assert set(reasons(run)) == {"0", "2", "4", "6"}
    assert all("the probe" in reason for reason in reasons(run).values())


def test_a_forward_of_the_users_own_comes_back() -> None:
    torch.manual_seed(0)
    model = plain()
    own = model[2].forward
    model[2].forward = own
    watched(model)
    assert model[2].__dict__["forward"] is own
