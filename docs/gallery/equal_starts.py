"""1. Weights that start equal
===========================

"With all-zero weights, the units of a layer stay the same for ever." Of the 32 hidden units of a small
network, how many are different from each other after training, and what becomes of the others? The measure
:doc:`neuron_symmetry </measures/neuron_symmetry>` tells three kinds of equal units apart: *stuck* ones
receive no gradient, *locked* ones receive the same gradient, *healing* ones receive different gradients and
are parting.
"""

import torch
from bench import INK, MUTED, RED, SAND, TEAL, figure, train
from torch import nn

UNITS = 32


def network(activation, hidden=None, output=None, dropout=0.0):
    """64 pixels, 32 units, 10 classes; ``hidden`` and ``output`` are constants for all weights of a layer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, UNITS), activation(), nn.Dropout(dropout), nn.Linear(UNITS, 10))
    for layer, constant in ((model[0], hidden), (model[3], output)):
        if constant is not None:
            nn.init.constant_(layer.weight, constant)
            nn.init.constant_(layer.bias, constant)
    return model


def constant_bias():
    model = network(nn.Tanh)
    nn.init.constant_(model[0].bias, 0.5)
    return model


def copied_pairs():
    """The second half of the units repeats the first, incoming and outgoing."""
    model, half = network(nn.Tanh), UNITS // 2
    with torch.no_grad():
        model[0].weight[half:] = model[0].weight[:half]
        model[0].bias[half:] = model[0].bias[:half]
        model[3].weight[:, half:] = model[3].weight[:, :half]
    return model


STARTS = {
    "all zero, ReLU": network(nn.ReLU, 0, 0),
    "all zero, tanh": network(nn.Tanh, 0, 0),
    "all zero, sigmoid": network(nn.Sigmoid, 0, 0),
    "all 0.1, tanh": network(nn.Tanh, 0.1, 0.1),
    "pairs of copies, tanh": copied_pairs(),
    "first layer zero, ReLU": network(nn.ReLU, 0),
    "first layer zero, tanh": network(nn.Tanh, 0),
    "outgoing 0.1, incoming random": network(nn.Tanh, None, 0.1),
    "all 0.1, tanh, dropout 0.5": network(nn.Tanh, 0.1, 0.1, dropout=0.5),
    "random weights, all biases 0.5": constant_bias(),
}
runs = {name: train(model, 200, measures=["neuron_symmetry"]) for name, model in STARTS.items()}


def units(run, reading):
    """A share of the hidden layer, as a number of units."""
    return round(run.last(reading, "0").value * UNITS)


distinct = {name: units(run, "distinct_share") for name, run in runs.items()}
stuck = {name: units(run, "stuck_share") for name, run in runs.items()}
locked = {name: units(run, "locked_share") for name, run in runs.items()}

# %%
# The claim covers four things that differ.
#
# - All zero with ReLU or tanh: the units are stuck. Only the last bias learns, and the network does no better
#   than chance. So it is when the first layer alone is zero behind ReLU, whose slope at 0 is 0.
# - All zero with sigmoid, or one constant other than zero: the units move, all alike. One unit is at work in
#   a layer of 32, and test accuracy stays below .5.
# - Pairs of copies: 16 units are at work, and accuracy does not show it: it is above .9.
# - What is unequal anywhere around a unit parts it: random weights coming in, or a first layer of zeros under
#   a random output layer with tanh, or dropout. All 32 are distinct, and accuracy is above .9.
#
# Constant biases do no harm: random weights are enough. That part of the claim is right. The rules that speak
# are ND302 for the stuck networks, ND301 for the locked ones, and none of the two for the others.

fig, ax = figure(9, 4.4)
# sphinx_gallery_start_ignore
for row, name in enumerate(STARTS):
    repeats = SAND if stuck[name] else RED
    ax.barh(row, distinct[name], color=TEAL, height=0.62)
    ax.barh(row, UNITS - distinct[name], left=distinct[name], color=repeats, height=0.62, alpha=0.85)
    ax.text(UNITS + 1.2, row, f"{runs[name].accuracy:.2f}", va="center", color=INK)
ax.text(UNITS + 1.2, -0.85, "accuracy", va="center", color=MUTED)
ax.set_yticks(range(len(STARTS)), list(STARTS))
ax.set(xlim=(0, UNITS + 4), ylim=(len(STARTS) - 0.4, -1.2), xticks=range(0, UNITS + 1, 8))
ax.set_xlabel("hidden units after 200 steps")
ax.tick_params(length=0)
ax.tick_params(axis="y", labelcolor=INK)
ax.grid(axis="y", visible=False)
ax.spines[["left", "bottom"]].set_visible(False)
words = (("distinct", TEAL), ("repeat another, locked", RED), ("repeat another, stuck", SAND))
for x, (word, color) in zip((0, 5.2, 16.2), words, strict=True):
    ax.scatter(x + 0.4, -0.85, s=70, marker="s", color=color)
    ax.text(x + 1.1, -0.85, word, va="center", color=INK)
# sphinx_gallery_end_ignore

# %%
# What the text says, as the build checks it:

STUCK = ("all zero, ReLU", "all zero, tanh", "first layer zero, ReLU")
LOCKED = ("all zero, sigmoid", "all 0.1, tanh")
for name, run in runs.items():
    is_hurt = name in (*STUCK, *LOCKED)
    is_pair = name == "pairs of copies, tanh"
    assert distinct[name] == (1 if is_hurt else UNITS // 2 if is_pair else UNITS), name
    assert (stuck[name] == UNITS) == (name in STUCK) == ("ND302" in run.rules), name
    assert (locked[name] == UNITS) == (name in LOCKED or is_pair) == ("ND301" in run.rules), name
    assert run.accuracy < 0.15 if name in STUCK else run.accuracy < 0.5 if is_hurt else run.accuracy > 0.9, (
        name
    )
