"""Losses of a score for each class, by labels or by a number for each class, as those of `nbconv.train.losses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.graph import Spec
from nbconv.ops.activation import Sigmoid
from nbconv.ops.loss import OneHotLike, SoftmaxCrossEntropyLoss
from nbconv.ops.pointwise import Add, Div, Exp, Mul, Neg, Sub
from nbconv.ops.power import Pow
from nbconv.ops.rectifier import Clip, Relu
from nbconv.ops.reduce import ReduceMean, ReduceSum
from nbconv.ops.softmax import LogSoftmax, Softmax
from nbconv.train.readings import Adds, classified
from nbconv.train.terms import check_gamma, check_reduction, shifted, summed, times, weighed


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
    check_reduction(reduction)
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
        hard = summed(to, weighed(to, hard, sample_weights))
        hard = to.add(Div(), hard, summed(to, one)) if one else hard
    if not label_smoothing:
        return hard
    classes = spec.shape[1]
    whole = _mask(to, targets, logits, ignore_index)
    count = whole if weights is None else to.add(Mul(), whole, _along(to, weights, spec))
    terms = to.add(Mul(), to.add(LogSoftmax(axis=1), logits), count)
    soft = to.add(Neg(), summed(to, weighed(to, terms, sample_weights)))
    soft = to.add(Div(), soft, summed(to, one)) if one else soft
    return to.add(Add(), times(to, hard, 1 - label_smoothing), times(to, soft, label_smoothing / classes))


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
    check_reduction(reduction)
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
        shares = shifted(to, times(to, shares, 1 - smoothing), smoothing / spec.shape[1])
    terms = to.add(Mul(), to.add(LogSoftmax(axis=1), logits), shares)
    if weights is not None:
        terms = to.add(Mul(), terms, _along(to, _weights(name, weights, spec), spec))
    total = to.add(Neg(), summed(to, weighed(to, terms, each)))
    return total if reduction == "sum" else times(to, total, spec.shape[1] / max(spec.size, 1))


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
    check_reduction(reduction)
    check_gamma(gamma)
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
    total = to.add(Neg(), summed(to, weighed(to, terms, sample_weights)))
    return total if reduction == "sum" else to.add(Div(), total, summed(to, one))


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
    check_reduction(reduction)
    scores, labels, _ = _classes(to, "multiclass_hinge", scores, labels, class_axis, batch_axis, dense=False)
    spec = to.spec(scores)
    mask = to.add(OneHotLike(), labels, scores)
    mine = to.add(ReduceSum(), to.add(Mul(), scores, mask), to.constant(np.array([1], np.int64)))
    shift = to.add(
        Sub(), to.constant(np.array(margin, spec.dtype)), to.add(Mul(), mask, to.constant(np.array(margin, spec.dtype)))
    )
    gaps = to.add(Relu(), to.add(Add(), to.add(Sub(), scores, mine), shift))
    total = summed(to, weighed(to, gaps, sample_weights))
    return times(to, total, 1 / spec.shape[1] if reduction == "sum" else 1 / max(spec.size, 1))


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

    both = shifted(to, times(to, planes(to.add(Mul(), p, t)), 2.0), smooth)
    each = shifted(to, to.add(Add(), planes(p), planes(t)), smooth)
    overlap = to.add(ReduceMean(keepdims=0), to.add(Div(), both, each))
    return to.add(Sub(), to.constant(np.ones((), spec.dtype)), overlap)


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
