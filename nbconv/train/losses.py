"""Losses: each a function that puts nodes into a graph, and returns the name of the loss, a scalar.

``to`` is what adds nodes (`nbconv.graph.builder.Builder`, or `nbconv.graph.backward.Backward`): ``to.add(op, *names)``,
``to.constant``, ``to.spec``. The other strings are names of values. ``reduction`` is "mean" or "sum" over all elements, as
in PyTorch, whose values these have where it has the loss.

Targets have the shape that is said, but for axes of size one, which may be missing or too many: (n,) is read as (n, 1) where
outputs are that, and masks (n, h, w) as (n, 1, h, w). Anything else is a ValueError; nothing is broadcast
(`nbconv.train.readings`). Integers are taken for floats where floats are wanted, and floats for labels where their shape is
that of labels. ``class_axis`` is where outputs have their classes: 1 unless labels fit with another axis alone.
``batch_axis`` is where outputs count samples, 1 of (t, n, classes); targets have them first.

``sample_weights`` (n,): each sample's loss is multiplied by its own; a mean stays one over all, as Keras has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nbconv.ops.activation import Softplus
from nbconv.ops.ctc import CTCLoss
from nbconv.ops.pointwise import Abs, Add, Exp, Mul, Neg, Sub
from nbconv.ops.rectifier import Clip, Relu
from nbconv.ops.shape import Reshape, Slice
from nbconv.train import sequences
from nbconv.train.readings import Adds, alike, per_class
from nbconv.train.terms import check_gamma, check_reduction, reduced, summed, times


def binary_cross_entropy(
    to: Adds,
    logits: str,
    targets: str,
    *,
    pos_weight: Any = 1.0,
    weights: Any = None,
    reduction: str = "mean",
    class_axis: int = 1,
    sample_weights: str | None = None,
) -> str:
    """Sigmoid and binary cross-entropy: (1 - t) · x + (1 + (p - 1) · t) · log(1 + exp(-x)), as
    `torch.nn.functional.binary_cross_entropy_with_logits`; both of one shape, targets from 0 to 1. ``pos_weight`` p, and
    ``weights``, which each element's loss is multiplied by: a number, or one a class along ``class_axis``, of shape
    (classes), or (classes, 1, …) as PyTorch broadcasts them."""
    targets = alike(to, "binary_cross_entropy", logits, targets)
    spec = to.spec(logits)
    one = to.constant(np.ones((), spec.dtype))
    negative = to.add(Mul(), to.add(Sub(), one, targets), logits)
    softplus = to.add(Softplus(), to.add(Neg(), logits))
    if np.any(np.asarray(pos_weight) != 1):
        more = per_class(to, "binary_cross_entropy", "pos_weight", np.asarray(pos_weight, np.float64) - 1, spec, class_axis)
        softplus = to.add(Mul(), softplus, to.add(Add(), to.add(Mul(), targets, more), one))
    loss = to.add(Add(), negative, softplus)
    if weights is not None:
        loss = to.add(Mul(), loss, per_class(to, "binary_cross_entropy", "weights", weights, spec, class_axis))
    return reduced(to, loss, reduction, sample_weights)


def binary_focal(
    to: Adds,
    logits: str,
    targets: str,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    reduction: str = "mean",
    sample_weights: str | None = None,
) -> str:
    """Sigmoid and focal loss: -α · t · (1 - p)^γ · log p - (1 - α) · (1 - t) · p^γ · log(1 - p), p the sigmoid of x (Lin
    2017, Focal loss for dense object detection, equation 5), as torchvision's `sigmoid_focal_loss` has it for targets 0 and
    1; both of one shape. ``alpha`` None: without α and 1 - α."""
    return reduced(to, focal_each(to, logits, targets, gamma, alpha), reduction, sample_weights)


def focal_each(to: Adds, logits: str, targets: str, gamma: float, alpha: float | None) -> str:
    """`binary_focal` of each element."""
    check_gamma(gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, wanted from 0 to 1, or None")
    targets = alike(to, "binary_focal", logits, targets)
    one = to.constant(np.ones((), to.spec(logits).dtype))
    right, wrong = to.add(Softplus(), to.add(Neg(), logits)), to.add(Softplus(), logits)  # -log p, -log(1 - p)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    positive = times(to, to.add(Mul(), to.add(Mul(), targets, right), _raised(to, wrong, gamma)), a)
    other = to.add(Mul(), to.add(Sub(), one, targets), wrong)
    negative = times(to, to.add(Mul(), other, _raised(to, right, gamma)), b)
    return to.add(Add(), positive, negative)


def _raised(to: Adds, minus_log: str, gamma: float) -> str:
    """q^γ of -log q."""
    return to.add(Exp(), times(to, minus_log, -gamma))


def hinge(
    to: Adds, scores: str, targets: str, *, margin: float = 1.0, reduction: str = "mean", sample_weights: str | None = None
) -> str:
    """max(0, margin - t · x), targets -1 or 1 of the scores' shape (Rosasco 2004; what a linear SVM has)."""
    product = to.add(Mul(), scores, alike(to, "hinge", scores, targets))
    gap = to.add(Sub(), to.constant(np.array(margin, to.spec(scores).dtype)), product)
    return reduced(to, to.add(Relu(), gap), reduction, sample_weights)


def mse(to: Adds, x: str, targets: str, *, reduction: str = "mean", sample_weights: str | None = None) -> str:
    """(x - t)², as `torch.nn.functional.mse_loss`; both of one shape."""
    d = to.add(Sub(), x, alike(to, "mse", x, targets))
    return reduced(to, to.add(Mul(), d, d), reduction, sample_weights)


def l1(to: Adds, x: str, targets: str, *, reduction: str = "mean", sample_weights: str | None = None) -> str:
    """|x - t|, as `torch.nn.functional.l1_loss`; its derivative is 0 at 0. Both of one shape."""
    return reduced(to, to.add(Abs(), to.add(Sub(), x, alike(to, "l1", x, targets))), reduction, sample_weights)


def huber(
    to: Adds, x: str, targets: str, *, delta: float = 1.0, reduction: str = "mean", sample_weights: str | None = None
) -> str:
    """d²/2 where |d| ≤ delta, else delta · (|d| - delta/2), with d = x - t, as `torch.nn.functional.huber_loss` (Huber
    1964): c · (d - c/2) with c = d clipped to ±delta. Both of one shape."""
    if not delta > 0:
        raise ValueError(f"delta is {delta}, wanted a positive number")
    d, dtype = to.add(Sub(), x, alike(to, "huber", x, targets)), to.spec(x).dtype
    c = to.add(Clip(), d, to.constant(np.array(-delta, dtype)), to.constant(np.array(delta, dtype)))
    return reduced(to, to.add(Mul(), c, to.add(Sub(), d, times(to, c, 0.5))), reduction, sample_weights)


def ctc(
    to: Adds,
    logits: str,
    labels: str,
    *,
    blank: int = 0,
    ignore_index: int = -1,
    batch_axis: int = 0,
    lengths_first: bool = False,
    zero_infinity: bool = False,
    reduction: str = "mean",
) -> str:
    """-ln of the probability that softmax(x), step by step, shows the labels with blanks and repetitions between them, as
    `torch.nn.functional.ctc_loss` of log-softmax (Graves 2006); ``mean`` divides each sequence's by its labels first.

    ``logits`` (n, steps, classes), or with ``batch_axis`` 1 (steps, n, classes). ``labels`` int64 (n, most): those of a
    sequence, then ``ignore_index`` to the end; class ``blank`` is no label. ``lengths_first``: the first column says how
    many steps of each sequence count, the labels stand behind it. A sequence of too few steps for its labels has an
    infinite loss, or with ``zero_infinity`` none.
    """
    check_reduction(reduction)
    if batch_axis not in (0, 1):
        raise ValueError(f"ctc: batch_axis is {batch_axis!r}, wanted 0 or 1")
    sequences.check_shapes(to.spec(labels).dtype, to.spec(labels).shape, to.spec(logits).shape, lengths_first)
    op = CTCLoss(blank=blank, pad=ignore_index, reduction=reduction, time_major=batch_axis, zero_infinity=int(zero_infinity))
    if not lengths_first:
        return to.add(op, logits, labels)
    number = [to.constant(np.array([k], np.int64)) for k in (0, 1, to.spec(labels).shape[1])]
    first = to.add(Slice(), labels, number[0], number[1], number[1])
    lengths = to.add(Reshape(), first, to.constant(np.array([-1], np.int64)))
    return to.add(op, logits, to.add(Slice(), labels, number[1], number[2], number[1]), lengths)


def l2_penalty(to: Adds, parameters: Iterable[str], weight: float) -> str:
    """weight / 2 · Σ w² over parameters: what PyTorch's ``weight_decay`` of SGD is the gradient of."""
    return _penalty(to, [summed(to, to.add(Mul(), p, p)) for p in parameters], weight / 2)


def l1_penalty(to: Adds, parameters: Iterable[str], weight: float) -> str:
    """weight · Σ |w| over parameters (Tibshirani 1996)."""
    return _penalty(to, [summed(to, to.add(Abs(), p)) for p in parameters], weight)


def _penalty(to: Adds, parts: list[str], weight: float) -> str:
    if not parts:
        raise ValueError("a penalty wants at least one parameter")
    total = parts[0]
    for part in parts[1:]:
        total = to.add(Add(), total, part)
    return times(to, total, weight)
