"""What a loss is made of, read off the graph that autograd built: it costs no computation, and no device is asked.

The graph outlives the backward pass; only the tensors in it are freed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from torch import Tensor

from nndiag import compat

_LOOKED_AT = 128
"""Operations behind a loss that are looked at, the nearest first: terms are added and weighted there."""

_VIEWS = frozenset(
    "Alias Clone Expand Index Permute ReshapeAlias Select Slice Split Squeeze T ToCopy Transpose Unsqueeze UnsafeView"
    " View".split()
)
"""Operations that change no number."""

Form = Literal["cross entropy", "binary cross entropy", "squared error"]


class LossForm(NamedTuple):
    """What is known of a loss.

    Attributes:
        form: What the whole loss is, where it is the plain mean of one known kind.
        classes: Of cross entropy.
        squashed: The function that the loss applies to what that function has made already; None: it is not so.
        parameter: The parameter nearest to what is squashed twice.
    """

    form: Form | None = None
    classes: int | None = None
    squashed: Literal["softmax", "sigmoid"] | None = None
    parameter: Tensor | None = None

    @property
    def guessing(self) -> float | None:
        """The loss of an answer that ignores the sample: equal odds. None where it takes more than the graph."""
        if self.form == "cross entropy" and self.classes is not None and self.classes > 1:
            return math.log(self.classes)
        return math.log(2) if self.form == "binary cross entropy" else None


def loss_form(loss: Tensor) -> LossForm:
    """Reads a scalar loss; of one without a graph nothing is known."""
    begin = _behind_views(loss.grad_fn)
    if begin is None:
        return LossForm()
    form, classes = _form(begin)
    for node in _nearest(begin):
        squashed, given = _squashed_twice(node)
        if squashed is not None:
            return LossForm(form, classes, squashed, _parameter(given))
    return LossForm(form, classes)


def _form(node: Any) -> tuple[Form | None, int | None]:
    """The kind of a loss that is a mean over its entries."""
    kind = _kind(node)
    if compat.saved_number(node, "reduction") != 1:
        return None, None
    if kind in ("NllLoss", "NllLoss2D"):
        inner = _behind_views(_first(node))
        shape, axis = compat.made_shape(inner), compat.saved_number(inner, "dim")
        if _kind(inner) == "LogSoftmax" and shape is not None and axis is not None:
            return "cross entropy", shape[axis]
        return None, None
    known: dict[str, Form] = {
        "MseLoss": "squared error",
        "BinaryCrossEntropy": "binary cross entropy",
        "BinaryCrossEntropyWithLogits": "binary cross entropy",
    }
    return known.get(kind), None


def _squashed_twice(node: Any) -> tuple[Literal["softmax", "sigmoid"] | None, Any]:
    """Whether an operation of a loss squashes what the same function has squashed; and what that was given."""
    kind, given = _kind(node), _behind_views(_first(node))
    if kind == "LogSoftmax" and _kind(given) == "Softmax":
        return "softmax", given
    if kind == "BinaryCrossEntropy" and _kind(given) == "Sigmoid":
        given = _behind_views(_first(given))
        return ("sigmoid", given) if _kind(given) == "Sigmoid" else (None, None)
    if kind == "BinaryCrossEntropyWithLogits" and _kind(given) == "Sigmoid":
        return "sigmoid", given
    return None, None


def _nearest(begin: Any) -> Iterator[Any]:
    """Operations by their distance from the loss."""
    pending, seen = deque([begin]), {begin}
    for _ in range(_LOOKED_AT):
        if not pending:
            return
        node = pending.popleft()
        yield node
        for following, _place in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)


def _parameter(begin: Any) -> Tensor | None:
    """The parameter that is the fewest operations away."""
    nodes = _nearest(begin) if begin is not None else ()
    return next((node.variable for node in nodes if _kind(node) == "AccumulateGrad"), None)


def _behind_views(node: Any) -> Any:
    while _kind(node) in _VIEWS:
        node = _first(node)
    return node


def _first(node: Any) -> Any:
    following = getattr(node, "next_functions", ())
    return following[0][0] if following else None


def _kind(node: Any) -> str:
    """``LogSoftmax`` of ``LogSoftmaxBackward0``; nothing of None."""
    name = "" if node is None else str(node.name()).rpartition("::")[2]
    return name.partition("Backward")[0]
