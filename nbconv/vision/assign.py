"""What each anchor or point of a detector shall find in a picture: the targets that its losses are told.

Targets are float32 (n, 5) a picture: four numbers of a box and a label, which is 0 for none, the class from 1, and -1 where
nothing counts. The losses `nbconv.train.box_losses.ssd` and `fcos` take them, stacked to a batch. Boxes that are given are
(left, top, right, bottom), as everywhere here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nbconv.vision.boxes import iou
from nbconv.vision.detect import anchor_boxes

VARIANCES = (0.1, 0.1, 0.2, 0.2)


def ssd_anchors(
    size: tuple[int, int], strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float] = (1.0,)
) -> np.ndarray:
    """Anchors of an SSD head, float32 (n, 4) of centre and size in pixels of a picture of ``size`` (height, width).

    On the grid of each of ``strides`` a cell has a box for each of its ``sizes`` and each ratio of width to height, of the
    area of a square of that size. They lie as a convolution's channels do when these stand last: rows, columns, sizes,
    ratios. ValueError where there are not as many sizes as strides.
    """
    if len(sizes) != len(strides):
        raise ValueError(f"there are {len(strides)} strides and sizes for {len(sizes)}, wanted a sequence for each")
    found = [np.zeros((0, 4), np.float32)]
    for stride, here in zip(strides, sizes, strict=True):
        shape = np.array([(s * r**0.5, s / r**0.5) for s in here for r in ratios], np.float32).reshape(-1, 2)
        centres = anchor_boxes(size, (stride,), (len(shape),))
        found.append(np.concatenate([centres, np.tile(shape, (len(centres) // max(len(shape), 1), 1))], 1))
    return np.concatenate(found).astype(np.float32)


def ssd_targets(
    boxes: Any,
    labels: Any,
    anchors: np.ndarray,
    *,
    overlap: float = 0.5,
    ignored: float | None = None,
    variances: Sequence[float] = VARIANCES,
) -> np.ndarray:
    """Targets of an SSD head for one picture (Liu et al., 2016, "Matching strategy"), float32 (anchors, 5).

    ``boxes`` (k, 4) have ``labels`` (k,) from 1; ``anchors`` (n, 4) are centre and size. An anchor stands for the box that
    it overlaps most, if by ``overlap`` (IoU) or more; and each box has the anchor that overlaps it most, whatever that is,
    of two that want one the box with the greater overlap. Overlaps from ``ignored`` on, below that, do not count. The box is
    told as `nbconv.vision.ssd` reads it. ValueError where shapes do not fit, or for a box without area.
    """
    boxes, labels = _checked(boxes, labels)
    anchors = np.asarray(anchors, np.float32).reshape(-1, 4)
    found = np.zeros((len(anchors), 5), np.float32)
    if not len(boxes) or not len(anchors):
        return found
    shared = iou(np.concatenate([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], 1), boxes)
    best, whose = shared.max(axis=1), shared.argmax(axis=1)
    label = np.where(best >= overlap, labels[whose], 0)
    if ignored is not None:
        label[(best >= ignored) & (best < overlap)] = -1
    left = shared.copy()
    for _ in range(min(len(boxes), len(anchors))):
        a, b = np.unravel_index(left.argmax(), left.shape)
        whose[a], label[a] = b, labels[b]
        left[a], left[:, b] = -1, -1
    mine = boxes[whose]
    centre, size = (mine[:, :2] + mine[:, 2:]) / 2, mine[:, 2:] - mine[:, :2]
    moves = np.concatenate([(centre - anchors[:, :2]) / anchors[:, 2:], np.log(size / anchors[:, 2:])], 1)
    found[:, :4] = np.where(label[:, None] > 0, moves / np.asarray(variances, np.float32), 0)
    found[:, 4] = label
    return found


def fcos_points(size: tuple[int, int], strides: Sequence[int]) -> np.ndarray:
    """The points of an anchor-free head: float32 (n, 3) of x, y and stride, on the grid of each stride over a picture of
    ``size`` (height, width), in rows."""
    found = [np.zeros((0, 3), np.float32)]
    for stride in strides:
        centres = anchor_boxes(size, (stride,), (1,))
        found.append(np.concatenate([centres, np.full((len(centres), 1), stride, np.float32)], 1))
    return np.concatenate(found)


def fcos_targets(boxes: Any, labels: Any, points: np.ndarray, *, radius: float = 1.5) -> np.ndarray:
    """Targets of an anchor-free head for one picture (Tian et al., 2019, FCOS), float32 (points, 5).

    ``boxes`` (k, 4) have ``labels`` (k,) from 1; ``points`` (n, 3) are `fcos_points`. A point stands for a box in which it
    lies, within ``radius`` strides of the middle, whose farthest side is from 4 to 8 strides away (of the finest stride
    nearer, too, of the coarsest farther); of several for the smallest. A box that no point stands for has the nearest point
    inside it, of the stride that fits its size. The box is told by the distances to its left, top, right and bottom, in
    strides. ValueError where shapes do not fit, or for a box without area.
    """
    boxes, labels = _checked(boxes, labels)
    points = np.asarray(points, np.float32).reshape(-1, 3)
    found = np.concatenate([np.ones((len(points), 4), np.float32), np.zeros((len(points), 1), np.float32)], 1)
    if not len(boxes) or not len(points):
        return found
    stride = points[:, 2]
    sides = np.concatenate([points[:, None, :2] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None, :2]], 2)
    sides /= stride[:, None, None]
    far, inside = sides.max(axis=2), sides.min(axis=2) > 0
    middle = np.abs(points[:, None, :2] - (boxes[:, :2] + boxes[:, 2:])[None] / 2).max(axis=2) / stride[:, None]
    low = np.where(stride == stride.min(), 0, 4)[:, None]
    high = np.where(stride == stride.max(), np.inf, 8)[:, None]
    near, fits = middle <= radius, (far > low) & (far <= high)
    stands = inside & near & fits
    for b in np.flatnonzero(~stands.any(axis=0)):
        of = [k for k in (inside[:, b] & fits[:, b], inside[:, b]) if k.any()]
        if of:
            stands[np.flatnonzero(of[0])[middle[of[0], b].argmin()], b] = True
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    cost = np.where(stands, area, np.inf)
    whose, some = cost.argmin(axis=1), stands.any(axis=1)
    found[some, :4] = sides[some, whose[some]]
    found[some, 4] = labels[whose[some]]
    return found


def _checked(boxes: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both, if they fit."""
    boxes, labels = np.asarray(boxes, np.float32), np.asarray(labels)
    if boxes.size and boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes have shape {list(boxes.shape)}, wanted (k, 4)")
    boxes, labels = boxes.reshape(-1, 4), labels.reshape(-1)
    if len(boxes) != len(labels):
        raise ValueError(f"there are {len(boxes)} boxes and {len(labels)} labels, wanted one a box")
    if labels.size and not (labels.dtype.kind in "iu" and labels.min() >= 1):
        raise ValueError(f"labels are {labels.dtype} from {labels.min()}, wanted integers from 1: 0 is no object")
    flat = np.flatnonzero(~(boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    if len(flat):
        raise ValueError(f"box {flat[0]} is {boxes[flat[0]].tolist()}, wanted left < right and top < bottom")
    return boxes, labels
