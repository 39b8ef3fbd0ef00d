"""7. One frame for all normalizations
===================================

"Normalizations have a common frame, h = f(g (x - μ) / δ + b)." Six of them in that frame, each against
PyTorch's own. They differ in the set of entries that μ and δ are taken over; it is found here by asking
automatic differentiation which entries one output depends on.
"""

import torch
from bench import BLUE, FAINT, ORANGE, figure, perceptron, train
from matplotlib.patches import Rectangle
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

SAMPLES, CHANNELS, SIDE, EPS = 3, 4, 2, 1e-5


def frame(x, over, g, b=0.0, centered=True, spread=torch.mean, eps=EPS):
    """g (x - μ) / δ + b, with μ and δ² taken over some axes."""
    mean = x.mean(over, keepdim=True) if centered else 0.0
    square = spread((x - mean) ** 2, over, keepdim=True)
    return g * (x - mean) / torch.sqrt(square + eps) + b


def in_groups(x, groups=2):
    return x.reshape(len(x), groups, -1, SIDE, SIDE)


def behind_channels(module, x):
    """PyTorch's layer and RMS normalization want the features last."""
    return module(x.movedim(1, -1)).movedim(-1, 1)


torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
x = (torch.randn(SAMPLES, CHANNELS, SIDE, SIDE) * 3 + 1).requires_grad_()
v = torch.randn(CHANNELS, 8).requires_grad_()
modules = {
    "BN": nn.BatchNorm2d(CHANNELS, eps=EPS),
    "IN": nn.InstanceNorm2d(CHANNELS, eps=EPS, affine=True),
    "GN": nn.GroupNorm(2, CHANNELS, eps=EPS),
    "LN": nn.LayerNorm(CHANNELS, eps=EPS),
    "RMSNorm": nn.RMSNorm(CHANNELS, eps=EPS),
    "WN": weight_norm(nn.Linear(8, CHANNELS, bias=False)),
}
for module in modules.values():
    for parameter in module.parameters():
        nn.init.normal_(parameter)
gains = {name: next(m.parameters()).reshape(-1, 1, 1) for name, m in modules.items()}
offsets = {name: m.bias.reshape(-1, 1, 1) for name, m in modules.items() if name not in ("RMSNorm", "WN")}
with torch.no_grad():
    modules["WN"].parametrizations.weight.original1.copy_(v)

framed = {
    "BN": frame(x, (0, 2, 3), gains["BN"], offsets["BN"]),
    "IN": frame(x, (2, 3), gains["IN"], offsets["IN"]),
    "GN": frame(in_groups(x), (2, 3, 4), in_groups(gains["GN"][None].expand_as(x)), 0).reshape(x.shape)
    + offsets["GN"],
    "LN": frame(x, 1, gains["LN"], offsets["LN"]),
    "RMSNorm": frame(x, 1, gains["RMSNorm"], centered=False),
    "WN": frame(v, 1, gains["WN"].reshape(-1, 1), centered=False, spread=torch.sum, eps=0.0),
}
own = {name: modules[name](x) for name in ("BN", "IN", "GN")}
own |= {name: behind_channels(modules[name], x) for name in ("LN", "RMSNorm")}
own["WN"] = modules["WN"].weight
off = {name: float((framed[name] - own[name]).detach().abs().max()) for name in framed}


def depends_on(output, entries):
    """Which entries the first output depends on."""
    return torch.autograd.grad(output.flatten()[0], entries, retain_graph=True)[0] != 0


reach = {name: depends_on(y, v if name == "WN" else x) for name, y in framed.items()}
torch.set_default_dtype(torch.float32)

# %%
# All six agree with PyTorch to twelve digits. Three things that the frame alone does not say:
#
# - The variance is a mean: δ² = (1/n) Σ (x - μ)² + ε, divided by n and not by n - 1, with ε under the root.
#   RMSNorm has μ = 0. WN is a frame around weights: x is the weight vector v of a unit, μ = 0, and δ is its
#   length, a sum.
# - g and b belong to a channel or feature in all of them, whatever μ and δ are taken over.
# - BN alone reaches into other samples. In evaluation it uses running numbers, and depends on one entry
#   alone.
#
# What follows from the frame: where a weight is divided by its own length, or its output by its own scale,
# only its direction counts. The gradient is then orthogonal to it, plain gradient descent makes it longer and
# longer, and the same step turns it less: ``effective_rate`` of :doc:`norm_drift </measures/norm_drift>`.
# After 200 steps it is below .9 of its start for every such weight, in front of BN and LN and with WN alike.


def with_weight_norm():
    model = perceptron(64, 48, 48, 10)
    return nn.Sequential(*[weight_norm(part) if isinstance(part, nn.Linear) else part for part in model])


networks = {
    "BN": perceptron(64, 48, 48, 10, norm=nn.BatchNorm1d),
    "LN": perceptron(64, 48, 48, 10, norm=nn.LayerNorm),
    "WN": with_weight_norm(),
}
rates = {}
for name, model in networks.items():
    run = train(model, 200, lr=0.5, momentum=0.0, measures=["norm_drift"])
    rates[name] = {
        layer: run.last(reading, layer).value for reading, layer in run.series if reading == "effective_rate"
    }


# %%
# The entry with the orange frame depends on the blue ones: μ and δ are taken over them. Small squares are
# the positions of one channel of one sample.


# sphinx_gallery_start_ignore
def draw(axes, name, entries):
    """A row for each sample, a column for each channel, a square for each position."""
    rows, columns, height, width = entries.shape
    for r, c, h, w in torch.cartesian_prod(*map(torch.arange, entries.shape)).tolist():
        corner = c * (width + 0.5) + w, r * (height + 0.5) + h
        color = BLUE if entries[r, c, h, w] else FAINT
        is_output = r == c == h == w == 0
        edge = ORANGE if is_output else "white"
        axes.add_patch(
            Rectangle(
                corner,
                1,
                1,
                facecolor=color,
                edgecolor=edge,
                linewidth=2.4 if is_output else 1.2,
                zorder=2 + is_output,
            )
        )
    axes.set(
        xlim=(-0.2, columns * (width + 0.5) - 0.3), ylim=(rows * (height + 0.5) - 0.3, -0.2), aspect="equal"
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(name)


WORDS = {
    "BN": ("channels", "samples"),
    "IN": ("channels", "samples"),
    "GN": ("channels, in 2 groups", "samples"),
    "LN": ("channels", "samples"),
    "RMSNorm": ("channels", "samples"),
    "WN": ("inputs", "units"),
}


# sphinx_gallery_end_ignore
fig, grid = figure(9, 5.2, columns=3, rows=2)
# sphinx_gallery_start_ignore
for axes, (name, entries) in zip(grid.flat, reach.items(), strict=True):
    draw(axes, name, entries if entries.ndim == 4 else entries[:, :, None, None])
    across, down = WORDS[name]
    axes.set_xlabel(across)
    axes.set_ylabel(down)
# sphinx_gallery_end_ignore

# %%
# What the text says, as the build checks it:

assert max(off.values()) < 1e-12
expected = {
    "BN": (slice(None), 0),
    "IN": (0, 0),
    "GN": (0, slice(0, 2)),
    "LN": (0, slice(None), 0, 0),
    "RMSNorm": (0, slice(None), 0, 0),
    "WN": (0,),
}
for name, where in expected.items():
    wanted = torch.zeros_like(reach[name])
    wanted[where] = True
    assert torch.equal(reach[name], wanted), name
assert [name for name, entries in reach.items() if name != "WN" and entries[1:].any()] == ["BN"]
assert int(depends_on(modules["BN"].eval()(x), x).sum()) == 1
assert not torch.allclose(
    frame(x, 1, 1.0, spread=torch.sum), nn.functional.layer_norm(x.movedim(1, -1), (CHANNELS,)).movedim(-1, 1)
)
learned = {
    name: sum(parameter.numel() for parameter in modules[name].parameters())
    for name in ("BN", "IN", "GN", "LN")
}
assert set(learned.values()) == {2 * CHANNELS}
assert all(rate < 0.9 for layers in rates.values() for rate in layers.values())
assert set(rates["BN"]) == set(rates["LN"]) == {"0", "3"}
assert set(rates["WN"]) == {"0", "2", "4"}
