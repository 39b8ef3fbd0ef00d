"""3. Dropout as 2^N networks
==========================

"Dropout trains 2^N networks that share their weights, like bagging, and weakens co-adaptation of units. At
test time the weights are multiplied by p." How many networks are that really, how much can the layer still
say under its masks, do units become less alike, and what is to be scaled? The measure :doc:`dropout_capacity
</measures/dropout_capacity>` counts. Here p is the probability of being *dropped*, as in PyTorch; with the
rule above it would be that of being kept.
"""

import numpy as np
import torch
from bench import BLUE, MUTED, ORANGE, SAND, TEAL, TRAINING, digits, figure, label, train
from torch import nn
from torch.nn import functional as F

UNITS, CLASSES = 64, 10
RATES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def network(p):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, UNITS), nn.ReLU(), nn.Dropout(p), nn.Linear(UNITS, CLASSES))


models = {p: network(p) for p in RATES}
runs = {p: train(model, 300, measures=["dropout_capacity"]) for p, model in models.items()}
x, y = digits()


def alike(model):
    """The mean absolute correlation between units, without masks."""
    with torch.no_grad():
        units = torch.relu(model[0](x))
    units = units[:, units.std(0) > 0]
    among = torch.corrcoef(units.T).abs()
    return float((among.sum() - len(among)) / (len(among) * (len(among) - 1)))


def newest(reading):
    """A reading of the dropout, by drop probability; without dropout there is nothing to read."""
    return np.array([runs[p].last(reading, "2").value for p in RATES[1:]])


bits, kept, left = newest("entropy_bits"), newest("kept_units"), newest("effective_dof")
correlation = np.array([alike(models[p]) for p in RATES])
score = np.array([runs[p].accuracy for p in RATES])

# %%
# At test time: 200 masks of the network trained with p = 0.5, averaged, against evaluation mode, and against
# evaluation mode with weights halved once more.

half, test, labels = models[0.5], x[TRAINING:], y[TRAINING:]
with torch.no_grad():
    members = torch.stack([F.log_softmax(half.train()(test), 1) for _ in range(200)])
    whole = F.log_softmax(half.eval()(test), 1)
    halved = F.log_softmax(F.linear(half[:3](test) / 2, half[3].weight, half[3].bias), 1)
    met = float(half[:3].eval()(test).mean())
    masked = sum(float(half[:3].train()(test).mean()) for _ in range(50)) / 50 / met
average = members.mean(0) - members.mean(0).logsumexp(1, keepdim=True)


def right(log_probabilities):
    return float((log_probabilities.argmax(1) == labels).float().mean())


def divergence(log_probabilities):
    """How far it is, in nats a sample, from the average over masks."""
    return float((average.exp() * (average - log_probabilities)).sum(1).mean())


a_member = float(np.mean([right(member) for member in members]))

# %%
# - 2^N: the measure gives log2 of it, N = 64, at every p between 0 and 1. But masks are not equally likely,
#   and their entropy is N bits at p = 0.5 only: 30 bits at 0.1 and at 0.9, 9 at 0.98.
# - Capacity left: at p = 0.5, 32 of 64 units are kept on average, but units repeat each other, and about 12
#   degrees of freedom are left to the output layer (Wager et al. 2013). Ten classes take 9. From p = 0.7 on
#   there are fewer, and ND501 says so; from 0.9 on accuracy suffers.
# - Like bagging: yes. One masked network is right in .94 of the cases, the average of 200 in .96.
# - Test time: evaluation mode alone is that average, to less than 0.001 nats. PyTorch divides by 1 - p in
#   training, so that the layer behind meets the same mean with masks and without, within 1%. Halving the
#   weights at test time, as the older rule wants, goes 20 times further from the average. It hardly costs
#   accuracy here, where one layer follows and all logits shrink together.
# - Co-adaptation: the mean absolute correlation between units is .24 without dropout, and from 0.1 to 0.7 it
#   stays within .04 of that. It falls only where accuracy does. Nothing is promised here.

fig, (entropy, capacity, harm) = figure(9.6, 3.5, 3)
# sphinx_gallery_start_ignore
grid = np.linspace(0.001, 0.999, 300)
entropy.axhline(UNITS, color=MUTED, linestyle=(0, (3, 3)), linewidth=1.2)
entropy.plot(grid, -UNITS * (grid * np.log2(grid) + (1 - grid) * np.log2(1 - grid)), color=BLUE, alpha=0.35)
entropy.plot(RATES[1:], bits, "o", color=BLUE, markersize=5)
entropy.set(ylim=(0, 72), xlabel="p, dropped", yticks=range(0, 65, 16))
entropy.set_title("Bits in a mask")
label(entropy, 0.03, 68, "log₂ of 2ᴺ", MUTED, shift=(0, 0))
label(entropy, 0.5, 34, "their entropy", BLUE, shift=(0, 0), ha="center")

capacity.axhline(CLASSES - 1, color=MUTED, linestyle=(0, (3, 3)), linewidth=1.2)
capacity.plot(RATES[1:], kept, "o-", color=SAND, markersize=5)
capacity.plot(RATES[1:], left, "o-", color=BLUE, markersize=5)
capacity.set(ylim=(0, 72), xlabel="p, dropped", yticks=range(0, 65, 16))
capacity.set_title("Capacity left")
label(capacity, 0.34, 50, "units kept", SAND, shift=(0, 0))
label(capacity, 0.13, 37, "degrees of\nfreedom", BLUE, shift=(0, 0))
label(capacity, 0.08, 5.5, "classes - 1", MUTED, shift=(0, 0))

harm.plot(RATES, score, "o-", color=TEAL, markersize=5)
harm.plot(RATES, correlation, "o-", color=ORANGE, markersize=5)
harm.set(ylim=(0, 1.08), xlabel="p, dropped")
harm.set_title("What it does")
label(harm, 0.3, 0.89, "test accuracy", TEAL, shift=(0, 0))
label(harm, 0.05, 0.31, "correlation of units", ORANGE, shift=(0, 0))
# sphinx_gallery_end_ignore

# %%
# What the text says, as the build checks it:

assert set(newest("log2_subnetworks")) == {UNITS}
assert bits[RATES.index(0.5) - 1] == UNITS
assert [round(bits[RATES.index(p) - 1]) for p in (0.1, 0.9, 0.98)] == [30, 30, 9]
assert kept[RATES.index(0.5) - 1] == 32
assert 10 < left[RATES.index(0.5) - 1] < 15
assert all((degrees < CLASSES - 1) == (p >= 0.7) for p, degrees in zip(RATES[1:], left, strict=True))
assert all(("ND501" in run.rules) == (p >= 0.7) for p, run in runs.items())
assert all((accuracy < 0.9) == (p >= 0.9) for p, accuracy in zip(RATES, score, strict=True))
assert 0.92 < a_member < 0.95
assert 0.95 < right(average) < 0.975
assert divergence(whole) < 0.001
assert divergence(halved) > 20 * divergence(whole)
assert abs(masked - 1) < 0.01
assert right(whole) - right(halved) < 0.01
assert abs(correlation[0] - 0.24) < 0.03
assert all(abs(correlation[RATES.index(p)] - correlation[0]) < 0.04 for p in (0.1, 0.3, 0.5, 0.7))
