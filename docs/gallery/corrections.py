"""8. What such notes need corrected
=================================

The claims of this gallery are those of common course notes. Where each holds, and where it needs a
correction, with the number that shows it; a link leads to the page that measures more. What has no link is
computed here.
"""

import math

import torch
from bench import FAINT, MUTED, RED, TEAL, figure, label
from torch import nn

from nndiag.functional import ema_batches, warm_up

# %%
# **Initialization**
#
# - *All units of an all-zero layer stay the same for ever.* Three verdicts, not one: stuck, locked, or
#   healing. :doc:`equal_starts`
# - *Uniform in ±1/√d, or Gaussian.* The first has d Var(W) = 1/3, below critical for every activation; the
#   second says nothing until a variance is given. :doc:`random_starts`
# - *Constant biases bring no symmetry.* Right. :doc:`equal_starts`
#
# **Dropout**
#
# - *Each unit is dropped with probability p, and at test time weights are multiplied by p.* Under that rule p
#   is the probability of being kept. PyTorch's p is that of being dropped; it divides by 1 - p in training,
#   and evaluation mode is the identity: nothing is to be scaled.
# - *2^N sub-networks.* As a count, for 0 < p < 1; the entropy is N bits at p = 0.5 alone. :doc:`dropout`
# - *Units adapt to each other less.* Not seen: their correlation did not move before accuracy did.
#   :doc:`dropout`

ones = torch.ones(100_000)
torch.manual_seed(0)
dropped = nn.Dropout(0.2)(ones)
assert abs(float((dropped == 0).float().mean()) - 0.2) < 0.01
assert math.isclose(float(dropped.max()), 1 / 0.8, rel_tol=1e-6)
assert torch.equal(nn.Dropout(0.2).eval()(ones), ones)

# %%
# **Normalization, the formulas**
#
# - *Layer normalization: μ = Σ x, δ = √(Σ (x - μ)² + ε).* The factor 1/H is missing twice. For x = (1, 2, 3,
#   4), μ is 2.5 and δ² is 1.25, and the output is ±1.34 and ±0.45. As written, μ would be 10 and δ² 230, and
#   the output, between -0.59 and -0.40, would not even be centered.
# - *Batch normalization: one index for samples and features.* Mean and variance belong to a feature j, over
#   samples i; in a convolution to a channel, over samples and positions. :doc:`common_frame`
# - *Layer normalization gives all units the same range.* Mean and scale are shared, gain and offset are each
#   unit's own. :doc:`unlike_features`

x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
right = nn.functional.layer_norm(x, (4,))
written = (x - x.sum()) / torch.sqrt(((x - x.sum()) ** 2).sum() + 1e-5)
assert (float(x.mean()), float(x.var(correction=0))) == (2.5, 1.25)
assert torch.allclose(right, (x - 2.5) / math.sqrt(1.25 + 1e-5))
assert [round(abs(float(value)), 2) for value in right] == [1.34, 0.45, 0.45, 1.34]
assert (float(x.sum()), float(((x - x.sum()) ** 2).sum())) == (10, 230)
assert [round(float(written[place]), 2) for place in (0, -1)] == [-0.59, -0.4]

# %%
# **Batch normalization, at test time**
#
# - *Unbiased estimates.* In PyTorch that is true of the stored variance only: training divides by the biased
#   one. A fresh layer of momentum 0.1 that has met the batch (0, 3) stores a mean of 0.15 and a variance of
#   0.9 + 0.1 x 4.5 = 1.35, while its output is ±1, because the biased variance is 2.25.
# - *The mean over all mini-batches.* An exponential average. With momentum 0.1 it is as good as 19 batches,
#   and needs 44 until its start weighs less than 1%; with 0.5 it is 7, with 0.03 152, with 0.01 459, with
#   0.001 4603. The figure has what is left of the start.
# - *Batches must be alike.* Unlike inputs did no harm. Unlike labels did, to group normalization too:
#   shuffle. :doc:`alike_batches`

layer = nn.BatchNorm1d(1, momentum=0.1)
output = layer(torch.tensor([[0.0], [3.0]])).detach()
assert math.isclose(float(layer.running_mean), 0.15, rel_tol=1e-6)
assert math.isclose(float(layer.running_var), 1.35, rel_tol=1e-6)
assert torch.allclose(output, torch.tensor([[-1.0], [1.0]]), atol=1e-4)
START = {0.5: 7, 0.1: 44, 0.03: 152, 0.01: 459, 0.001: 4603}
assert {a: warm_up(a) for a in START} == START
assert round(ema_batches(0.1), 9) == 19

# %%
# **Internal covariate shift**
#
# - *It slows training, and normalization works because it takes it away.* Contested: a network whose shift
#   was made more than ten times that of the plain one, on purpose, learned better than the plain one.
#   :doc:`covariate_shift`
# - *It saturates upper layers, so that learning stops early.* Saturated layers were met, and learning had not
#   stopped. :doc:`covariate_shift`
#
# The same corrections stand, measure by measure, in :doc:`/measures/initialization`,
# :doc:`/measures/neuron_symmetry`, :doc:`/measures/saturation`, :doc:`/measures/activation_shift`,
# :doc:`/measures/dropout_capacity` and :doc:`/measures/norm_drift`.

fig, (formula, start) = figure(9.2, 3.8, 2, width_ratios=(1, 1.3))
# sphinx_gallery_start_ignore
for values, color, word, place in (
    (right, TEAL, "with 1/H", (1.15, -1.5)),
    (written, RED, "as written", (2.6, -0.9)),
):
    formula.plot(x, values, "o-", color=color, markersize=7)
    label(formula, *place, word, color, shift=(0, 0))
formula.axhline(0, color=FAINT, linewidth=1)
formula.set(xlabel="x", xticks=(1, 2, 3, 4), ylim=(-1.8, 1.8))
formula.set_title("Layer normalization of (1, 2, 3, 4)")
batches = torch.logspace(0, 4, 200)
shades = ("#9cc3e6", "#6ba3d6", "#4585c4", "#2f6db5", "#1d4a80")
for (a, needed), shade in zip(START.items(), shades, strict=True):
    start.plot(batches, (1 - a) ** batches, color=shade)
    start.plot(needed, 0.01, "o", color=shade, markersize=7)
    label(start, needed, 0.01, f"{needed}", shade, shift=(0, 11), ha="left")
    half = math.log(0.5) / math.log(1 - a)
    label(start, half, 0.5, f"{a:g}", shade, shift=(5, 4), ha="left")
start.axhline(0.01, color=MUTED, linestyle=(0, (3, 3)), linewidth=1.2)
start.set(xscale="log", xlabel="batches", ylim=(0, 1.02), xlim=(1, 1e4))
start.set_title("What running statistics keep of their start")
# sphinx_gallery_end_ignore
