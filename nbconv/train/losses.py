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

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nbconv.graph import Spec
from nbconv.ops.activation import Sigmoid, Softplus
from nbconv.ops.ctc import CTCLoss
from nbconv.ops.loss import OneHotLike, SoftmaxCrossEntropyLoss
from nbconv.ops.pointwise import Abs, Add, Div, Exp, Mul, Neg, Sub
from nbconv.ops.power import Pow
from nbconv.ops.rectifier import Clip, Relu
from nbconv.ops.reduce import ReduceMean, ReduceSum
from nbconv.ops.shape import Reshape, Slice, Unsqueeze
from nbconv.ops.softmax import LogSoftmax, Softmax
from nbconv.train import sequences
from nbconv.train.readings import Adds, alike, classified, per_class


def cross_entropy(
    to: Adds,
    logits: str,
    targets: str,
    *,
    weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    class_axis: int | None = None,
    batch_axis: int = 0,
    sample_weights: str | None = None,
) -> str:
    """Softmax and categorical cross-entropy, as `torch.nn.functional.cross_entropy`. ``logits`` (n, classes, …).

    ``targets`` labels (n, …), one a sample or one a pixel: -Σ w[y] · log softmax(x)[y] / Σ w[y] (``mean``). Or the share of
    each class (n, classes, …), as mixup, a teacher or one-hot labels have them: see `soft_cross_entropy`.
    ``weights``: one a class. ``ignore_index``: a label that does not count. ``label_smoothing`` ε: the target is
    1 - ε + ε / classes at the label and ε / classes elsewhere (Szegedy 2016, Rethinking the Inception Architecture, section
    7); shares p become (1 - ε) · p + ε / classes.
    """
    _reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}, wanted 0 to 1")
    logits, targets, labels = _classes(to, "cross_entropy", logits, targets, class_axis, batch_axis)
    if not labels:
        if ignore_index is not None:
            raise ValueError("cross_entropy: ignore_index goes with labels, targets have a share for each class")
        return _soft(to, "cross_entropy", logits, targets, weights, label_smoothing, reduction, sample_weights)
    spec = to.spec(logits)
    given = [] if weights is None else [to.constant(_weights("cross_entropy", weights, spec))]
    one = ""
    if reduction == "mean" and (label_smoothing or sample_weights is not None):
        one = _one_hot(to, targets, logits, ignore_index)
        one = one if weights is None else to.add(Mul(), one, _along(to, weights, spec))
    loss = SoftmaxCrossEntropyLoss(ignore_index=ignore_index, reduction="none" if sample_weights is not None else reduction)
    hard = to.add(loss, logits, targets, *given)
    if sample_weights is not None:
        hard = _sum(to, _weighed(to, hard, sample_weights))
        hard = to.add(Div(), hard, _sum(to, one)) if one else hard
    if not label_smoothing:
        return hard
    classes = spec.shape[1]
    whole = _mask(to, targets, logits, ignore_index)
    count = whole if weights is None else to.add(Mul(), whole, _along(to, weights, spec))
    terms = to.add(Mul(), to.add(LogSoftmax(axis=1), logits), count)
    soft = to.add(Neg(), _sum(to, _weighed(to, terms, sample_weights)))
    soft = to.add(Div(), soft, _sum(to, one)) if one else soft
    return to.add(Add(), _times(to, hard, 1 - label_smoothing), _times(to, soft, label_smoothing / classes))


def soft_cross_entropy(
    to: Adds,
    logits: str,
    probabilities: str,
    *,
    weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    class_axis: int | None = None,
    batch_axis: int = 0,
    sample_weights: str | None = None,
) -> str:
    """Cross-entropy with soft labels: -Σ_c w[c] · p[c] · log softmax(x)[c], its mean over samples and pixels, as
    `torch.nn.functional.cross_entropy` with probabilities. Both (n, classes, …)."""
    _reduction(reduction)
    logits, shares, labels = _classes(to, "soft_cross_entropy", logits, probabilities, class_axis, batch_axis)
    if labels:
        raise ValueError(
            f"soft_cross_entropy: targets are {list(to.spec(probabilities).shape)}, wanted a share for each class "
            f"{list(to.spec(logits).shape)}"
        )
    return _soft(to, "soft_cross_entropy", logits, shares, weights, label_smoothing, reduction, sample_weights)


def _soft(
    to: Adds, name: str, logits: str, shares: str, weights: Any, smoothing: float, reduction: str, each: str | None
) -> str:
    spec = to.spec(logits)
    if smoothing:
        shares = _shifted(to, _times(to, shares, 1 - smoothing), smoothing / spec.shape[1])
    terms = to.add(Mul(), to.add(LogSoftmax(axis=1), logits), shares)
    if weights is not None:
        terms = to.add(Mul(), terms, _along(to, _weights(name, weights, spec), spec))
    total = to.add(Neg(), _sum(to, _weighed(to, terms, each)))
    return total if reduction == "sum" else _times(to, total, spec.shape[1] / max(spec.size, 1))


def binary_cross_entropy(
    to: Adds,
    logits: str,
    targets: str,
    *,
    pos_weight: Any = 1.0,
    weights: Any = None,
    reduction: str = "mean",
    sample_weights: str | None = None,
) -> str:
    """Sigmoid and binary cross-entropy: (1 - t) · x + (1 + (p - 1) · t) · log(1 + exp(-x)), as
    `torch.nn.functional.binary_cross_entropy_with_logits`; both of one shape, targets from 0 to 1. ``pos_weight`` p, and
    ``weights``, which each element's loss is multiplied by: a number, or one a class along axis 1 of (n, classes, …),
    of shape (classes) or (classes, 1, …)."""
    targets = alike(to, "binary_cross_entropy", logits, targets)
    spec = to.spec(logits)
    one = to.constant(np.ones((), spec.dtype))
    negative = to.add(Mul(), to.add(Sub(), one, targets), logits)
    softplus = to.add(Softplus(), to.add(Neg(), logits))
    if np.any(np.asarray(pos_weight) != 1):
        more = per_class(to, "binary_cross_entropy", "pos_weight", np.asarray(pos_weight, np.float64) - 1, spec)
        softplus = to.add(Mul(), softplus, to.add(Add(), to.add(Mul(), targets, more), one))
    loss = to.add(Add(), negative, softplus)
    if weights is not None:
        loss = to.add(Mul(), loss, per_class(to, "binary_cross_entropy", "weights", weights, spec))
    return _reduced(to, loss, reduction, sample_weights)


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
    return _reduced(to, focal_each(to, logits, targets, gamma, alpha), reduction, sample_weights)


def focal_each(to: Adds, logits: str, targets: str, gamma: float, alpha: float | None) -> str:
    """`binary_focal` of each element."""
    _gamma(gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, wanted from 0 to 1, or None")
    targets = alike(to, "binary_focal", logits, targets)
    one = to.constant(np.ones((), to.spec(logits).dtype))
    right, wrong = to.add(Softplus(), to.add(Neg(), logits)), to.add(Softplus(), logits)  # -log p, -log(1 - p)
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    positive = _times(to, to.add(Mul(), to.add(Mul(), targets, right), _raised(to, wrong, gamma)), a)
    other = to.add(Mul(), to.add(Sub(), one, targets), wrong)
    negative = _times(to, to.add(Mul(), other, _raised(to, right, gamma)), b)
    return to.add(Add(), positive, negative)


def _raised(to: Adds, minus_log: str, gamma: float) -> str:
    """q^γ of -log q."""
    return to.add(Exp(), _times(to, minus_log, -gamma))


def focal(
    to: Adds,
    logits: str,
    labels: str,
    *,
    gamma: float = 2.0,
    weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    class_axis: int | None = None,
    batch_axis: int = 0,
    sample_weights: str | None = None,
) -> str:
    """Softmax and focal loss: -Σ w[y] · (1 - p[y])^γ · log p[y] / Σ w[y] (``mean``), p the softmax of ``logits``
    (n, classes, …), of labels (n, …) (Lin 2017, Focal loss for dense object detection, with a softmax). γ 0 is
    `cross_entropy`."""
    _reduction(reduction)
    _gamma(gamma)
    logits, labels, _ = _classes(to, "focal", logits, labels, class_axis, batch_axis, dense=False)
    spec = to.spec(logits)
    one = _one_hot(to, labels, logits, ignore_index)
    if weights is not None:
        one = to.add(Mul(), one, _along(to, _weights("focal", weights, spec), spec))
    log_p = to.add(LogSoftmax(axis=1), logits)
    terms = to.add(Mul(), one, log_p)
    if gamma:
        rest = to.add(Sub(), to.constant(np.ones((), spec.dtype)), to.add(Exp(), log_p))
        least = 0.0 if gamma >= 1 else 1e-7  # below 1, the power has no derivative at 0
        rest = to.add(Clip(), rest, to.constant(np.array(least, spec.dtype)))
        terms = to.add(Mul(), terms, to.add(Pow(), rest, to.constant(np.array(gamma, spec.dtype))))
    total = to.add(Neg(), _sum(to, _weighed(to, terms, sample_weights)))
    return total if reduction == "sum" else to.add(Div(), total, _sum(to, one))


def _gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma is {gamma}, wanted 0 or more")


def hinge(
    to: Adds, scores: str, targets: str, *, margin: float = 1.0, reduction: str = "mean", sample_weights: str | None = None
) -> str:
    """max(0, margin - t · x), targets -1 or 1 of the scores' shape (Rosasco 2004; what a linear SVM has)."""
    product = to.add(Mul(), scores, alike(to, "hinge", scores, targets))
    gap = to.add(Sub(), to.constant(np.array(margin, to.spec(scores).dtype)), product)
    return _reduced(to, to.add(Relu(), gap), reduction, sample_weights)


def multiclass_hinge(
    to: Adds,
    scores: str,
    labels: str,
    *,
    margin: float = 1.0,
    reduction: str = "mean",
    class_axis: int | None = None,
    batch_axis: int = 0,
    sample_weights: str | None = None,
) -> str:
    """Σ_{j≠y} max(0, margin - x[y] + x[j]) / classes, its mean over samples, as `torch.nn.functional.multi_margin_loss`
    (Weston and Watkins 1999). ``scores`` (n, classes, …), labels (n, …)."""
    _reduction(reduction)
    scores, labels, _ = _classes(to, "multiclass_hinge", scores, labels, class_axis, batch_axis, dense=False)
    spec = to.spec(scores)
    mask = to.add(OneHotLike(), labels, scores)
    mine = to.add(ReduceSum(), to.add(Mul(), scores, mask), to.constant(np.array([1], np.int64)))
    shift = to.add(
        Sub(), to.constant(np.array(margin, spec.dtype)), to.add(Mul(), mask, to.constant(np.array(margin, spec.dtype)))
    )
    gaps = to.add(Relu(), to.add(Add(), to.add(Sub(), scores, mine), shift))
    total = _sum(to, _weighed(to, gaps, sample_weights))
    return _times(to, total, 1 / spec.shape[1] if reduction == "sum" else 1 / max(spec.size, 1))


def mse(to: Adds, x: str, targets: str, *, reduction: str = "mean", sample_weights: str | None = None) -> str:
    """(x - t)², as `torch.nn.functional.mse_loss`; both of one shape."""
    d = to.add(Sub(), x, alike(to, "mse", x, targets))
    return _reduced(to, to.add(Mul(), d, d), reduction, sample_weights)


def l1(to: Adds, x: str, targets: str, *, reduction: str = "mean", sample_weights: str | None = None) -> str:
    """|x - t|, as `torch.nn.functional.l1_loss`; its derivative is 0 at 0. Both of one shape."""
    return _reduced(to, to.add(Abs(), to.add(Sub(), x, alike(to, "l1", x, targets))), reduction, sample_weights)


def huber(
    to: Adds, x: str, targets: str, *, delta: float = 1.0, reduction: str = "mean", sample_weights: str | None = None
) -> str:
    """d²/2 where |d| ≤ delta, else delta · (|d| - delta/2), with d = x - t, as `torch.nn.functional.huber_loss` (Huber
    1964): c · (d - c/2) with c = d clipped to ±delta. Both of one shape."""
    if not delta > 0:
        raise ValueError(f"delta is {delta}, wanted a positive number")
    d, dtype = to.add(Sub(), x, alike(to, "huber", x, targets)), to.spec(x).dtype
    c = to.add(Clip(), d, to.constant(np.array(-delta, dtype)), to.constant(np.array(delta, dtype)))
    return _reduced(to, to.add(Mul(), c, to.add(Sub(), d, _times(to, c, 0.5))), reduction, sample_weights)


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
    _reduction(reduction)
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


def dice(
    to: Adds,
    logits: str,
    targets: str,
    *,
    ignore_index: int | None = None,
    smooth: float = 1.0,
    activation: str | None = None,
    class_axis: int | None = None,
    batch_axis: int = 0,
) -> str:
    """1 - (2 · Σ p · t + smooth) / (Σ p + Σ t + smooth), its mean over samples and classes (Sudre 2017, Generalised Dice
    overlap, section 2, with Laplace's smoothing). ``logits`` (n, classes, …).

    ``targets``: labels (n, …), or a mask from 0 to 1 for each class (n, classes, …); with one class (n, …), too. p is the
    ``activation`` of the logits, "softmax" over classes or "sigmoid"; by default the softmax for labels and the sigmoid for
    masks. A `Trainer` takes the one that the model ends in.
    """
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(f"activation is {activation!r}, wanted 'softmax' or 'sigmoid'")
    logits, targets, labels = classified(to, "dice", logits, targets, class_axis, batch_axis)
    spec = to.spec(logits)
    if ignore_index is not None and not labels:
        raise ValueError("dice: ignore_index goes with labels, targets are masks")
    soft = labels if activation is None else activation == "softmax"
    if soft and spec.shape[1] == 1:
        raise ValueError(f"dice: outputs {list(spec.shape)} have one class, and a softmax of one is 1: wanted a sigmoid")
    p = to.add(Softmax(axis=1) if soft else Sigmoid(), logits)
    if labels:
        t = _one_hot(to, targets, logits, ignore_index)
        p = p if ignore_index is None else to.add(Mul(), p, _mask(to, targets, logits, ignore_index))
    else:
        t = targets
    axes = to.constant(np.arange(2, spec.rank, dtype=np.int64))

    def planes(v: str) -> str:
        return v if spec.rank == 2 else to.add(ReduceSum(), v, axes)

    both = _shifted(to, _times(to, planes(to.add(Mul(), p, t)), 2.0), smooth)
    each = _shifted(to, to.add(Add(), planes(p), planes(t)), smooth)
    overlap = to.add(ReduceMean(keepdims=0), to.add(Div(), both, each))
    return to.add(Sub(), to.constant(np.ones((), spec.dtype)), overlap)


def l2_penalty(to: Adds, parameters: Iterable[str], weight: float) -> str:
    """weight / 2 · Σ w² over parameters: what PyTorch's ``weight_decay`` of SGD is the gradient of."""
    return _penalty(to, [_sum(to, to.add(Mul(), p, p)) for p in parameters], weight / 2)


def l1_penalty(to: Adds, parameters: Iterable[str], weight: float) -> str:
    """weight · Σ |w| over parameters (Tibshirani 1996)."""
    return _penalty(to, [_sum(to, to.add(Abs(), p)) for p in parameters], weight)


def _penalty(to: Adds, parts: list[str], weight: float) -> str:
    if not parts:
        raise ValueError("a penalty wants at least one parameter")
    total = parts[0]
    for part in parts[1:]:
        total = to.add(Add(), total, part)
    return _times(to, total, weight)


def _classes(
    to: Adds, loss: str, logits: str, targets: str, class_axis: int | None, batch_axis: int, *, dense: bool = True
) -> tuple[str, str, bool]:
    """`classified`, for losses that compare classes: one class alone has nothing to learn."""
    found = classified(to, loss, logits, targets, class_axis, batch_axis, dense=dense)
    if to.spec(found[0]).shape[1] < 2:
        other = {"focal": "binary_focal", "multiclass_hinge": "hinge"}.get(loss, "binary_cross_entropy")
        shape = list(to.spec(logits).shape)
        raise ValueError(f"{loss}: outputs {shape} have one class, and it is 0 for all of them: {other} is a loss for one")
    return found


def _weights(loss: str, weights: Any, spec: Spec) -> np.ndarray:
    """One weight a class."""
    found = np.asarray(weights, spec.dtype)
    if found.shape != (spec.shape[1],):
        raise ValueError(f"{loss}: weights have shape {list(found.shape)}, wanted [{spec.shape[1]}], one a class")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError(f"{loss}: weights are {found.tolist()}, wanted finite numbers of 0 or more")
    return found


def _reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, wanted 'mean' or 'sum'")


def _reduced(to: Adds, x: str, reduction: str, sample_weights: str | None = None) -> str:
    _reduction(reduction)
    return to.add((ReduceMean if reduction == "mean" else ReduceSum)(keepdims=0), _weighed(to, x, sample_weights))


def _weighed(to: Adds, x: str, sample_weights: str | None) -> str:
    """(n, …) times a weight a sample, where there are."""
    if sample_weights is None:
        return x
    spec, have = to.spec(x), to.spec(sample_weights)
    if have.shape != spec.shape[:1]:
        raise ValueError(f"sample weights have shape {list(have.shape)}, wanted {list(spec.shape[:1])}, one a sample")
    if spec.rank > 1:
        axes = to.constant(np.arange(1, spec.rank, dtype=np.int64))
        sample_weights = to.add(Unsqueeze(), sample_weights, axes)
    return to.add(Mul(), x, sample_weights)


def _sum(to: Adds, x: str) -> str:
    return to.add(ReduceSum(keepdims=0), x)


def _times(to: Adds, x: str, factor: float) -> str:
    return to.add(Mul(), x, to.constant(np.array(factor, to.spec(x).dtype)))


def _shifted(to: Adds, x: str, by: float) -> str:
    return to.add(Add(), x, to.constant(np.array(by, to.spec(x).dtype)))


def _along(to: Adds, weights: Any, spec: Spec) -> str:
    """A weight a class, to broadcast against (n, classes, …)."""
    return to.constant(np.asarray(weights, spec.dtype).reshape(1, -1, *[1] * (spec.rank - 2)))


def _one_hot(to: Adds, labels: str, scores: str, ignore_index: int | None) -> str:
    """1 at the label's class, and 0 throughout where it is ignored."""
    ignored = -1 if ignore_index is None else ignore_index
    return to.add(OneHotLike(ignore=ignored), labels, scores)


def _mask(to: Adds, labels: str, scores: str, ignore_index: int | None) -> str:
    """1, but 0 where the label is ignored, in the scores' shape."""
    ignored = -1 if ignore_index is None else ignore_index
    return to.add(OneHotLike(off=1.0, ignore=ignored), labels, scores)
