"""Losses of boxes and of detectors' heads, as those of `nbconv.train.losses`.

Targets of heads are what `nbconv.vision.ssd_targets` and `fcos_targets` give, stacked: float (n, anchors, 5) of a box and a
label, which is 0 for none, the class from 1, and -1 where nothing counts.
"""

from __future__ import annotations

from math import pi

import numpy as np

from nbconv.ops.cast import Cast
from nbconv.ops.detection import HardNegatives, Held
from nbconv.ops.loss import OneHotLike, SoftmaxCrossEntropyLoss
from nbconv.ops.nary import Max, Min
from nbconv.ops.pointwise import Add, Div, Mul, Neg, Sub
from nbconv.ops.rectifier import Relu
from nbconv.ops.shape import Reshape, Slice
from nbconv.ops.trigonometry import Atan
from nbconv.train.losses import focal_each, huber
from nbconv.train.readings import Adds, alike
from nbconv.train.terms import reduced, shifted, summed, times

EPSILON = 1e-7
KINDS = ("iou", "giou", "diou", "ciou")


def smooth_l1(to: Adds, x: str, targets: str, *, beta: float = 1.0, reduction: str = "mean") -> str:
    """d²/(2·beta) where |d| < beta, else |d| - beta/2, with d = x - t, as `torch.nn.functional.smooth_l1_loss` (Girshick
    2015). Both of one shape."""
    return times(to, huber(to, x, targets, delta=beta, reduction=reduction), 1 / beta)


def iou(to: Adds, boxes: str, targets: str, *, kind: str = "giou", reduction: str = "mean") -> str:
    """1 - IoU of boxes (n, …, 4), left, top, right, bottom, with targets of the same shape, less what draws boxes apart
    towards each other, as `torchvision.ops`: ``kind`` "iou" nothing, "giou" the share of the smallest box around both that
    neither has (Rezatofighi 2019), "diou" the squared distance of the middles over that of its corners, "ciou" this and the
    difference of the proportions (Zheng 2020; it is computed in NumPy)."""
    return reduced(to, _iou_each(to, boxes, targets, kind), reduction)


def ssd(
    to: Adds,
    head: tuple[str, str],
    targets: str,
    *,
    negatives: int = 3,
    least: int = 0,
    box_weight: float = 1.0,
    beta: float = 1.0,
) -> str:
    """The loss of an SSD head (Liu 2016, equations 1 to 3): softmax and cross-entropy of the anchors that stand for an
    object and of those of none that are worst, ``negatives`` for each of the former in the picture, ``least`` at least; and
    ``box_weight`` times `smooth_l1` of the former's boxes; both over their number in the batch.

    ``head``: boxes (n, anchors, 4) as `nbconv.vision.ssd` reads them, and scores (n, anchors, classes) before the softmax,
    class 0 for none.
    """
    boxes, scores = head
    n, anchors, classes = _head(to, boxes, scores, targets)
    wanted, labels = _parts(to, targets)
    flat = _shaped(to, scores, (n * anchors, classes))
    each = SoftmaxCrossEntropyLoss(ignore_index=-1, reduction="none")
    entropy = _shaped(to, to.add(each, flat, _shaped(to, labels, (n * anchors,))), (n, anchors))
    counted = to.add(HardNegatives(ratio=int(negatives), least=int(least)), entropy, labels)
    some = to.add(HardNegatives(ratio=0), entropy, labels)
    there = _shaped(to, some, (n, anchors, 1))
    place = smooth_l1(to, to.add(Mul(), boxes, there), to.add(Mul(), wanted, there), beta=beta, reduction="sum")
    total = to.add(Add(), summed(to, to.add(Mul(), entropy, counted)), times(to, place, box_weight))
    return to.add(Div(), total, _count(to, some))


def fcos(
    to: Adds,
    head: tuple[str, str],
    targets: str,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    kind: str = "giou",
    box_weight: float = 1.0,
) -> str:
    """The loss of an anchor-free head (Tian 2019): the focal loss of all points and classes (Lin 2017: sigmoid,
    cross-entropy, -alpha · (1 - p)^gamma · log p), and ``box_weight`` times `iou` of those that stand for an object, both
    over their number in the batch.

    ``head``: distances (n, points, 4), positive, as `nbconv.vision.fcos` reads them, and scores (n, points, classes) before
    the sigmoid, where class k of the targets is k - 1.
    """
    distances, scores = head
    (n, points, classes), dtype = _head(to, distances, scores, targets), to.spec(scores).dtype
    wanted, labels = _parts(to, targets)
    flat = _shaped(to, scores, (n * points, classes))
    index = to.add(Sub(), _shaped(to, labels, (n * points,)), to.constant(np.ones((), np.int64)))
    hot = to.add(OneHotLike(), index, flat)
    focal = _shaped(to, focal_each(to, flat, hot, gamma, alpha), (n, points, classes))
    zeros = to.constant(np.zeros((n, points), dtype))
    counted = to.add(HardNegatives(ratio=0, least=max(points, 1)), zeros, labels)
    some = to.add(HardNegatives(ratio=0), zeros, labels)
    signs = to.constant(np.array([-1, -1, 1, 1], dtype))
    apart = _iou_each(to, to.add(Mul(), distances, signs), to.add(Mul(), wanted, signs), kind)
    place = summed(to, to.add(Mul(), apart, some))
    kind_of = summed(to, to.add(Mul(), focal, _shaped(to, counted, (n, points, 1))))
    return to.add(Div(), to.add(Add(), kind_of, times(to, place, box_weight)), _count(to, some))


def _head(to: Adds, boxes: str, scores: str, targets: str) -> tuple[int, int, int]:
    """(n, anchors, classes), where a head's outputs and targets fit."""
    shapes = [to.spec(name).shape for name in (boxes, scores, targets)]
    if len(shapes[1]) != 3 or shapes[0] != (*shapes[1][:2], 4) or shapes[2] != (*shapes[1][:2], 5):
        raise ValueError(
            f"boxes are {list(shapes[0])}, scores {list(shapes[1])}, targets {list(shapes[2])}: "
            "wanted [n, anchors, 4], [n, anchors, classes], [n, anchors, 5]"
        )
    if to.spec(targets).dtype.kind != "f":
        raise ValueError(f"targets are {to.spec(targets)}, wanted floats: boxes and labels")
    return shapes[1]


def _parts(to: Adds, targets: str) -> tuple[str, str]:
    """(the boxes, the labels as int64 (n, anchors))."""
    n, anchors, _ = to.spec(targets).shape
    labels = to.add(Cast(to=7), _shaped(to, _columns(to, targets, 4, 5), (n, anchors)))
    return _columns(to, targets, 0, 4), labels


def _count(to: Adds, some: str) -> str:
    """How many anchors stand for an object, 1 at least."""
    return to.add(Max(), summed(to, some), to.constant(np.ones((), to.spec(some).dtype)))


def _iou_each(to: Adds, boxes: str, targets: str, kind: str) -> str:
    """`iou` of each box, (n, …)."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, wanted one of {', '.join(KINDS)}")
    targets = alike(to, "iou", boxes, targets)
    if to.spec(boxes).shape[-1:] != (4,):
        raise ValueError(f"iou: boxes are {list(to.spec(boxes).shape)}, wanted [n, …, 4]")

    def op(kind: type, *names: str) -> str:
        return to.add(kind(), *names)

    def square(v: str) -> str:
        return to.add(Mul(), v, v)

    (l1, t1, r1, b1), (l2, t2, r2, b2) = _sides(to, boxes), _sides(to, targets)
    wide, high = op(Sub, op(Min, r1, r2), op(Max, l1, l2)), op(Sub, op(Min, b1, b2), op(Max, t1, t2))
    shared = op(Mul, op(Relu, wide), op(Relu, high))
    w1, h1, w2, h2 = op(Sub, r1, l1), op(Sub, b1, t1), op(Sub, r2, l2), op(Sub, b2, t2)
    whole = op(Sub, op(Add, op(Mul, w1, h1), op(Mul, w2, h2)), shared)
    part = op(Div, shared, shifted(to, whole, EPSILON))
    loss = shifted(to, op(Neg, part), 1.0)
    if kind == "iou":
        return loss
    wide, high = op(Sub, op(Max, r1, r2), op(Min, l1, l2)), op(Sub, op(Max, b1, b2), op(Min, t1, t2))
    if kind == "giou":
        around = op(Mul, wide, high)
        return op(Add, loss, op(Div, op(Sub, around, whole), shifted(to, around, EPSILON)))
    apart = op(Add, square(op(Sub, op(Add, l1, r1), op(Add, l2, r2))), square(op(Sub, op(Add, t1, b1), op(Add, t2, b2))))
    corner = shifted(to, op(Add, square(wide), square(high)), EPSILON)
    loss = op(Add, loss, op(Div, times(to, apart, 0.25), corner))
    if kind == "diou":
        return loss
    turn = op(Sub, op(Atan, op(Div, w2, h2)), op(Atan, op(Div, w1, h1)))
    shape = times(to, square(turn), 4 / pi**2)
    weight = op(Held, op(Div, shape, shifted(to, op(Sub, shape, part), 1 + EPSILON)))
    return op(Add, loss, op(Mul, weight, shape))


def _sides(to: Adds, boxes: str) -> list[str]:
    shape = to.spec(boxes).shape[:-1]
    return [_shaped(to, _columns(to, boxes, k, k + 1), shape) for k in range(4)]


def _columns(to: Adds, x: str, begin: int, end: int) -> str:
    """A part of the last axis."""
    axis = to.spec(x).rank - 1
    return to.add(Slice(), x, *(to.constant(np.array([k], np.int64)) for k in (begin, end, axis)))


def _shaped(to: Adds, x: str, shape: tuple[int, ...]) -> str:
    return to.add(Reshape(allowzero=1), x, to.constant(np.array(shape, np.int64)))
