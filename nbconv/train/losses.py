"""Losses: each a function that puts nodes into a graph, and returns the name of the loss, a scalar.

``to`` is what adds nodes (`nbconv.graph.builder.Builder`, or `nbconv.graph.backward.Backward`): ``to.add(op, *names)``,
``to.constant``, ``to.spec``. The other strings are names of values. ``reduction`` is "mean" or "sum" over all elements, as
in PyTorch, whose values these have where it has the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from nbconv.graph import Spec
from nbconv.graph.op import Op
from nbconv.ops.activation import Sigmoid, Softplus
from nbconv.ops.ctc import CTCLoss
from nbconv.ops.loss import OneHotLike, SoftmaxCrossEntropyLoss
from nbconv.ops.pointwise import Abs, Add, Div, Mul, Neg, Sub
from nbconv.ops.rectifier import Clip, Relu
from nbconv.ops.reduce import ReduceMean, ReduceSum
from nbconv.ops.shape import Reshape, Slice
from nbconv.ops.softmax import LogSoftmax, Softmax


class Adds(Protocol):
    """What puts nodes into a graph."""

    def add(self, op: Op, *inputs: str) -> str: ...
    def constant(self, value: Any) -> str: ...
    def spec(self, name: str) -> Spec: ...


def cross_entropy(
    to: Adds,
    logits: str,
    labels: str,
    *,
    weights: Sequence[float] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> str:
    """Softmax and categorical cross-entropy, of labels: -Σ w[y] · log softmax(x)[y] / Σ w[y] (``mean``), as
    `torch.nn.functional.cross_entropy`.

    ``logits`` (n, classes, …), ``labels`` int64 (n, …): one a sample, or one a pixel. ``weights``: one a class.
    ``ignore_index``: a label that does not count. ``label_smoothing`` ε: the target is 1 - ε + ε / classes at the label and
    ε / classes elsewhere (Szegedy 2016, Rethinking the Inception Architecture, section 7).
    """
    _reduction(reduction)
    spec = to.spec(logits)
    given = [] if weights is None else [to.constant(np.asarray(weights, spec.dtype))]
    loss = SoftmaxCrossEntropyLoss(ignore_index=ignore_index, reduction=reduction)
    hard = to.add(loss, logits, labels, *given)
    if not label_smoothing:
        return hard
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}, wanted 0 to 1")
    classes = spec.shape[1]
    whole = _mask(to, labels, logits, ignore_index)
    count = whole if weights is None else to.add(Mul(), whole, _along(to, weights, spec))
    soft = to.add(Neg(), _sum(to, to.add(Mul(), to.add(LogSoftmax(axis=1), logits), count)))
    if reduction == "mean":
        one = _one_hot(to, labels, logits, ignore_index)
        one = one if weights is None else to.add(Mul(), one, _along(to, weights, spec))
        soft = to.add(Div(), soft, _sum(to, one))
    return to.add(Add(), _times(to, hard, 1 - label_smoothing), _times(to, soft, label_smoothing / classes))


def soft_cross_entropy(
    to: Adds, logits: str, probabilities: str, *, weights: Sequence[float] | None = None, reduction: str = "mean"
) -> str:
    """Cross-entropy with soft labels: -Σ_c w[c] · p[c] · log softmax(x)[c], its mean over samples and pixels, as
    `torch.nn.functional.cross_entropy` with probabilities. Both (n, classes, …); mixup's targets, or a teacher's."""
    _reduction(reduction)
    spec = to.spec(logits)
    terms = to.add(Mul(), to.add(LogSoftmax(axis=1), logits), probabilities)
    if weights is not None:
        terms = to.add(Mul(), terms, _along(to, weights, spec))
    total = to.add(Neg(), _sum(to, terms))
    return total if reduction == "sum" else _times(to, total, spec.shape[1] / max(spec.size, 1))


def binary_cross_entropy(to: Adds, logits: str, targets: str, *, pos_weight: float = 1.0, reduction: str = "mean") -> str:
    """Sigmoid and binary cross-entropy: (1 - t) · x + (1 + (p - 1) · t) · log(1 + exp(-x)), as
    `torch.nn.functional.binary_cross_entropy_with_logits`; both of one shape, targets from 0 to 1, ``pos_weight`` p."""
    dtype = to.spec(logits).dtype
    log_weight = to.add(Add(), _times(to, targets, pos_weight - 1), to.constant(np.ones((), dtype)))
    negative = to.add(Mul(), to.add(Sub(), to.constant(np.ones((), dtype)), targets), logits)
    softplus = to.add(Softplus(), to.add(Neg(), logits))
    if pos_weight != 1:
        softplus = to.add(Mul(), softplus, log_weight)
    return _reduced(to, to.add(Add(), negative, softplus), reduction)


def hinge(to: Adds, scores: str, targets: str, *, margin: float = 1.0, reduction: str = "mean") -> str:
    """max(0, margin - t · x), targets -1 or 1 of the scores' shape (Rosasco 2004; what a linear SVM has)."""
    product = to.add(Mul(), scores, targets)
    gap = to.add(Sub(), to.constant(np.array(margin, to.spec(scores).dtype)), product)
    return _reduced(to, to.add(Relu(), gap), reduction)


def multiclass_hinge(to: Adds, scores: str, labels: str, *, margin: float = 1.0, reduction: str = "mean") -> str:
    """Σ_{j≠y} max(0, margin - x[y] + x[j]) / classes, its mean over samples, as `torch.nn.functional.multi_margin_loss`
    (Weston and Watkins 1999). ``scores`` (n, classes, …), ``labels`` int64 (n, …)."""
    _reduction(reduction)
    spec = to.spec(scores)
    mask = to.add(OneHotLike(), labels, scores)
    mine = to.add(ReduceSum(), to.add(Mul(), scores, mask), to.constant(np.array([1], np.int64)))
    shift = to.add(
        Sub(), to.constant(np.array(margin, spec.dtype)), to.add(Mul(), mask, to.constant(np.array(margin, spec.dtype)))
    )
    gaps = to.add(Relu(), to.add(Add(), to.add(Sub(), scores, mine), shift))
    total = _sum(to, gaps)
    return _times(to, total, 1 / spec.shape[1] if reduction == "sum" else 1 / max(spec.size, 1))


def mse(to: Adds, x: str, targets: str, *, reduction: str = "mean") -> str:
    """(x - t)², as `torch.nn.functional.mse_loss`."""
    d = to.add(Sub(), x, targets)
    return _reduced(to, to.add(Mul(), d, d), reduction)


def l1(to: Adds, x: str, targets: str, *, reduction: str = "mean") -> str:
    """|x - t|, as `torch.nn.functional.l1_loss`; its derivative is 0 at 0."""
    return _reduced(to, to.add(Abs(), to.add(Sub(), x, targets)), reduction)


def huber(to: Adds, x: str, targets: str, *, delta: float = 1.0, reduction: str = "mean") -> str:
    """d²/2 where |d| ≤ delta, else delta · (|d| - delta/2), with d = x - t, as `torch.nn.functional.huber_loss` (Huber
    1964): c · (d - c/2) with c = d clipped to ±delta."""
    if not delta > 0:
        raise ValueError(f"delta is {delta}, wanted a positive number")
    d, dtype = to.add(Sub(), x, targets), to.spec(x).dtype
    c = to.add(Clip(), d, to.constant(np.array(-delta, dtype)), to.constant(np.array(delta, dtype)))
    return _reduced(to, to.add(Mul(), c, to.add(Sub(), d, _times(to, c, 0.5))), reduction)


def ctc(
    to: Adds,
    logits: str,
    labels: str,
    *,
    blank: int = 0,
    ignore_index: int = -1,
    time_major: bool = False,
    lengths_first: bool = False,
    zero_infinity: bool = False,
    reduction: str = "mean",
) -> str:
    """-ln of the probability that softmax(x), step by step, shows the labels with blanks and repetitions between them, as
    `torch.nn.functional.ctc_loss` of log-softmax (Graves 2006); ``mean`` divides each sequence's by its labels first.

    ``logits`` (n, steps, classes), or with ``time_major`` (steps, n, classes). ``labels`` int64 (n, most): those of a
    sequence, then ``ignore_index`` to the end; class ``blank`` is no label. ``lengths_first``: the first column says how
    many steps of each sequence count, the labels stand behind it. A sequence of too few steps for its labels has an
    infinite loss, or with ``zero_infinity`` none.
    """
    _reduction(reduction)
    op = CTCLoss(
        blank=blank, pad=ignore_index, reduction=reduction, time_major=int(time_major), zero_infinity=int(zero_infinity)
    )
    if not lengths_first:
        return to.add(op, logits, labels)
    if to.spec(labels).rank != 2 or not to.spec(labels).shape[1]:
        raise ValueError(f"labels are {to.spec(labels)}, wanted (n, 1 + most): lengths, then labels")
    number = [to.constant(np.array([k], np.int64)) for k in (0, 1, to.spec(labels).shape[1])]
    first = to.add(Slice(), labels, number[0], number[1], number[1])
    lengths = to.add(Reshape(), first, to.constant(np.array([-1], np.int64)))
    return to.add(op, logits, to.add(Slice(), labels, number[1], number[2], number[1]), lengths)


def dice(to: Adds, logits: str, targets: str, *, ignore_index: int | None = None, smooth: float = 1.0) -> str:
    """1 - (2 · Σ p · t + smooth) / (Σ p + Σ t + smooth), its mean over samples and classes (Sudre 2017, Generalised Dice
    overlap, section 2, with Laplace's smoothing).

    ``targets`` int64 (n, …): labels, and p is the softmax of ``logits`` (n, classes, …); or of the logits' shape and
    type: masks from 0 to 1, and p is the sigmoid.
    """
    spec = to.spec(logits)
    if to.spec(targets).dtype.kind == "i":
        p, t = to.add(Softmax(axis=1), logits), to.add(OneHotLike(), targets, logits)
        if ignore_index is not None:
            t, p = _one_hot(to, targets, logits, ignore_index), to.add(Mul(), p, _mask(to, targets, logits, ignore_index))
    else:
        p, t = to.add(Sigmoid(), logits), targets
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


def _reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, wanted 'mean' or 'sum'")


def _reduced(to: Adds, x: str, reduction: str) -> str:
    _reduction(reduction)
    return to.add((ReduceMean if reduction == "mean" else ReduceSum)(keepdims=0), x)


def _sum(to: Adds, x: str) -> str:
    return to.add(ReduceSum(keepdims=0), x)


def _times(to: Adds, x: str, factor: float) -> str:
    return to.add(Mul(), x, to.constant(np.array(factor, to.spec(x).dtype)))


def _shifted(to: Adds, x: str, by: float) -> str:
    return to.add(Add(), x, to.constant(np.array(by, to.spec(x).dtype)))


def _along(to: Adds, weights: Sequence[float], spec: Spec) -> str:
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
