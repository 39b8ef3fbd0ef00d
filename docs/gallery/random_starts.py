"""2. Uniform or Gaussian weights
==============================

"Draw the weights uniformly in ±1/√d, or from a Gaussian: that breaks the symmetry, and constant biases do not
bring it back." It does. But the other half of the purpose is scale, of which the claim says nothing: how much
of the gradient is left at the first of ten ReLU layers? The measure :doc:`initialization
</measures/initialization>` reads that.
"""

import math

from bench import BLUE, ORANGE, RED, TEAL, VIOLET, figure, label, linear_layers, perceptron, train
from torch import nn

WIDTH, DEPTH = 64, 10


def drawn(law):
    """Ten layers of 64 inputs each, whose weights follow a law; all biases are 0.01."""
    model = perceptron(*[WIDTH] * DEPTH, 10)
    for layer in model:
        if isinstance(layer, nn.Linear):
            law(layer.weight)
            nn.init.constant_(layer.bias, 0.01)
    return model


BOUND = 1 / math.sqrt(WIDTH)
LAWS = {
    "uniform ±1/√d": lambda w: nn.init.uniform_(w, -BOUND, BOUND),
    "Gaussian, same variance": lambda w: nn.init.normal_(w, std=BOUND / math.sqrt(3)),
    "Gaussian, sd 0.01": lambda w: nn.init.normal_(w, std=0.01),
    "Gaussian, sd 1": lambda w: nn.init.normal_(w, std=1.0),
    "Gaussian, sd √(2/d)": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
}
MEASURES = ["initialization", "neuron_symmetry"]
runs = {name: train(drawn(law), 120, lr=0.02, looks=[0], measures=MEASURES) for name, law in LAWS.items()}
layers = linear_layers(drawn(LAWS["uniform ±1/√d"]))
hidden = layers[:-1]


def at_first(run, reading, layer):
    """A reading of the first visit."""
    return run.series[reading, layer][0].value


left = {}
for name, run in runs.items():
    squares = [at_first(run, "mean_square_gradient", layer) for layer in hidden]
    left[name] = [square / squares[-1] for square in squares]
a_layer = {name: left[name][0] ** (1 / (DEPTH - 2)) for name in LAWS}

# %%
# In all five networks every unit of every layer is distinct, though all biases are equal. Only one of them
# learns:
#
# - Uniform in ±1/√d is PyTorch's default. Its variance is 1/(3d), so d Var(W) is 1/3, and 2 would be needed
#   for ReLU. In theory each wide layer passes 1/6 of the squared gradient, here it is about a fifth: at the
#   first layer less than a hundred-thousandth is left.
# - A Gaussian of the same variance does the same. It is the variance that counts, not the shape.
# - "A Gaussian" alone says nothing: with a standard deviation of 0.01 each layer passes less than a
#   hundredth; with 1 the squared gradient grows more than twentyfold a layer, and the loss is no longer a
#   number.
# - With a variance of 2/d (He et al. 2015) the gradient keeps its size, within a factor of 2, and the network
#   reads the digits: test accuracy above .9 after 120 steps, where the others are at chance.
#
# ND311 speaks for the three that fade, ND312 for the one that explodes.

COLORS = dict(zip(LAWS, (BLUE, TEAL, VIOLET, RED, ORANGE), strict=True))
fig, (fading, learning) = figure(9, 3.8, 2, width_ratios=(1.5, 1))
# sphinx_gallery_start_ignore
depth = range(1, DEPTH)
for name, run in runs.items():
    is_twin = name == "Gaussian, same variance"
    style = {"color": COLORS[name], "linestyle": (0, (1, 2)) if is_twin else "-"}
    fading.plot(depth, left[name], **style, linewidth=3 if is_twin else 2)
    learning.plot([loss if math.isfinite(loss) else math.nan for loss in run.losses], **style)
fading.set(yscale="log", ylim=(1e-18, 1e14), xlim=(0.7, 9.3), xticks=depth, xlabel="layer")
fading.set_title("Squared gradient, relative to layer 9")
PLACES = {
    "uniform ±1/√d": (1.0, 6e-4),
    "Gaussian, same variance": (1.6, 3e-8),
    "Gaussian, sd 0.01": (4.4, 3e-13),
    "Gaussian, sd 1": (4.4, 3e9),
    "Gaussian, sd √(2/d)": (1.0, 60),
}
for name, (x, y) in PLACES.items():
    label(fading, x, y, name, COLORS[name], shift=(0, 0))
learning.set(xlabel="step", ylim=(0, 4), xlim=(0, 120))
learning.set_title("Loss")
label(learning, 45, 2.5, "the three that fade", VIOLET, shift=(0, 0))
label(learning, 60, 0.75, "sd √(2/d)", ORANGE, shift=(0, 0))
label(learning, 12, 3.8, "sd 1: beyond 10⁷, then no number", RED, shift=(0, 0))
# sphinx_gallery_end_ignore

# %%
# What the text says, as the build checks it:

for name, run in runs.items():
    assert all(at_first(run, "distinct_share", layer) == 1 for layer in hidden), name
    assert run.accuracy > 0.9 if name == "Gaussian, sd √(2/d)" else run.accuracy < 0.15, name
uniform, gaussian, small, large, he = runs.values()
assert "torch default" in uniform.last("weight_gain", hidden[4]).detail["laws"]
for run in (uniform, gaussian):
    assert math.isclose(at_first(run, "weight_gain", hidden[4]), 1 / 3, rel_tol=0.05)
assert uniform.last("weight_gain", hidden[4]).detail["critical_gain"] == 2
assert 0.15 < a_layer["uniform ±1/√d"] < 0.25
assert left["uniform ±1/√d"][0] < 1e-5
assert 0.15 < a_layer["Gaussian, same variance"] < 0.25
assert a_layer["Gaussian, sd 0.01"] < 0.01
assert a_layer["Gaussian, sd 1"] > 20
assert large.losses[0] > 1e7
assert not math.isfinite(large.losses[-1])
assert max(left["Gaussian, sd √(2/d)"]) / min(left["Gaussian, sd √(2/d)"]) < 2
assert all("ND311" in run.rules for run in (uniform, gaussian, small))
assert "ND312" in large.rules
assert not {"ND311", "ND312"} & he.rules
