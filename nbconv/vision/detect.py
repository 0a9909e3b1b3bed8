"""Heads of detectors, decoded: YOLO, SSD, BlazeFace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nbconv.vision.boxes import Detections, iou, nms


def yolo(
    output: np.ndarray, *, score: float = 0.25, overlap: float = 0.45, most: int = 300, objectness: bool | None = None
) -> Detections:
    """The detections of one picture from a YOLO head, in pixels of the network's input.

    ``output`` without its batch axis, or with one of 1, is told by its shape: (n, 6) left, top, right, bottom, score, class
    of an end-to-end head (YOLOv10, YOLO26: suppressed already); (4 + classes, n) as YOLOv8 and later give it; (n, 5 +
    classes) with ``objectness`` as YOLOv5 and YOLOX do, whose boxes are decoded. Of (rows, columns) the shorter is the
    features; pass ``objectness`` where both readings are possible: by default an array that is longer than wide has one.
    Boxes are centre and size there. ``score``: the least score; ``overlap``: see `nms`. ValueError for other shapes.
    """
    rows = np.asarray(output, np.float32)
    rows = rows[0] if rows.ndim == 3 and rows.shape[0] == 1 else rows
    if rows.ndim != 2 or min(rows.shape) < 5:
        raise ValueError(f"output has shape {list(np.shape(output))}, wanted (n, 6), (4 + classes, n) or (n, 5 + classes)")
    if rows.shape[1] == 6 and objectness is None:
        rows = rows[rows[:, 4] >= score]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][:most]
        return Detections(rows[:, :4].copy(), rows[:, 4].copy(), rows[:, 5].astype(np.int64))
    if rows.shape[0] < rows.shape[1]:
        rows = rows.T
        has = bool(objectness)
    else:
        has = objectness is None or objectness
    scores = rows[:, 5:] * rows[:, 4:5] if has else rows[:, 4:]
    if scores.shape[1] == 0:
        scores = rows[:, 4:5]
    classes = scores.argmax(1)
    best = scores[np.arange(len(scores)), classes]
    likely = best >= score
    return _kept(_corners(rows[likely, :4]), best[likely], classes[likely], overlap, most)


def ssd(
    boxes: np.ndarray,
    scores: np.ndarray,
    anchors: np.ndarray,
    *,
    variances: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    score: float = 0.5,
    overlap: float = 0.45,
    most: int = 200,
    background: int | None = 0,
) -> Detections:
    """The detections of one picture from an SSD head (Liu et al., 2016), in the anchors' units.

    ``boxes`` (n, 4): dx, dy, log width, log height relative to ``anchors`` (n, 4) of centre and size, scaled by
    ``variances``. ``scores`` (n, classes), of which ``background`` is none. A box may be found for several classes.
    ValueError where shapes do not fit.
    """
    boxes, scores, anchors = (np.atleast_2d(np.asarray(v, np.float32)) for v in (boxes, scores, anchors))
    boxes, scores, anchors = (v.reshape(-1, v.shape[-1]) for v in (boxes, scores, anchors))
    if not len(boxes) == len(scores) == len(anchors) or boxes.shape[1] != 4 or anchors.shape[1] != 4:
        raise ValueError(
            f"boxes {boxes.shape}, scores {scores.shape}, anchors {anchors.shape}: wanted (n, 4), (n, c), (n, 4)"
        )
    if np.shape(variances) != (4,):
        raise ValueError(f"variances is {variances!r}, wanted four numbers: of x, y, width and height")
    moves = boxes * np.asarray(variances, np.float32)
    centre = anchors[:, :2] + moves[:, :2] * anchors[:, 2:]
    found = _corners(np.concatenate([centre, anchors[:, 2:] * np.exp(moves[:, 2:])], 1))
    where, classes = np.nonzero(scores >= score)
    if background is not None:
        where, classes = where[classes != background], classes[classes != background]
    return _kept(found[where], scores[where, classes], classes, overlap, most)


def best_boxes(
    boxes: np.ndarray, scores: np.ndarray, *, score: float = 0.5, overlap: float = 0.45, most: int = 200
) -> Detections:
    """The detections of one picture from a head that decodes its boxes: ``boxes`` (n, 4) are left, top, right, bottom,
    ``scores`` (n, classes) probabilities, without one of no object; either with a batch axis of 1 before it. Such are the
    outputs of a model that `nbconv.finetune` taught boxes. ValueError where shapes do not fit."""
    boxes, scores = (np.asarray(v, np.float32) for v in (boxes, scores))
    boxes, scores = (v[0] if v.ndim == 3 and len(v) == 1 else v for v in (boxes, scores))
    if boxes.ndim != 2 or scores.ndim != 2 or boxes.shape != (len(scores), 4):
        raise ValueError(f"boxes {boxes.shape}, scores {scores.shape}: wanted (n, 4), (n, classes) of one picture")
    where, classes = np.nonzero(scores >= score)
    return _kept(boxes[where], scores[where, classes], classes, overlap, most)


def fcos(
    distances: np.ndarray,
    scores: np.ndarray,
    points: np.ndarray,
    *,
    score: float = 0.5,
    overlap: float = 0.5,
    most: int = 200,
) -> Detections:
    """The detections of one picture from an anchor-free head (Tian et al., 2019), in pixels; classes count from 0.

    ``distances`` (n, 4) from each of ``points`` (n, 3; `nbconv.vision.fcos_points`) to the left, top, right and bottom of
    its box, in strides. ``scores`` (n, classes), probabilities. ValueError where shapes do not fit.
    """
    sides, scores, points = (np.asarray(v, np.float32) for v in (distances, scores, points))
    sides, scores, points = (v.reshape(-1, v.shape[-1]) for v in (sides, scores, points))
    if not len(sides) == len(scores) == len(points) or sides.shape[1] != 4 or points.shape[1] != 3:
        raise ValueError(
            f"distances {sides.shape}, scores {scores.shape}, points {points.shape}: wanted (n, 4), (n, c), (n, 3)"
        )
    where, classes = np.nonzero(scores >= score)
    at, far = points[where, :2], sides[where] * points[where, 2:]
    boxes = np.concatenate([at - far[:, :2], at + far[:, 2:]], 1)
    return _kept(boxes, scores[where, classes], classes, overlap, most)


def anchor_boxes(size: tuple[int, int], strides: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """Centres (n, 2), in pixels, of anchors on grids of these strides over a (height, width), ``counts`` of them a cell."""
    rows = []
    for stride, count in zip(strides, counts, strict=True):
        y, x = (np.arange(-(-d // stride), dtype=np.float32) * stride + stride / 2 for d in size)
        grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        rows.append(np.repeat(grid, count, 0))
    return np.concatenate(rows) if rows else np.zeros((0, 2), np.float32)


def blazeface_anchors(size: int = 128) -> np.ndarray:
    """Centres of MediaPipe's short-range face detector's anchors: 2 a cell of 8 pixels, 6 a cell of 16."""
    return anchor_boxes((size, size), (8, 16), (2, 6))


def blazeface(
    regressors: np.ndarray, scores: np.ndarray, *, size: int = 128, score: float = 0.5, overlap: float = 0.3, most: int = 100
) -> Detections:
    """The faces of one picture from BlazeFace (Bazarevsky et al., 2019), in pixels of the network's input.

    ``regressors`` (n, 16): centre and size of the box, six keypoints (eyes, nose, mouth, ears), relative to the anchors'
    centres; ``scores`` (n, 1) before the sigmoid. Overlapping boxes are blended by their scores, as the paper has it.
    ValueError where shapes do not fit.
    """
    anchors = blazeface_anchors(size)
    found = np.asarray(regressors, np.float32)
    if found.shape[-1:] != (16,):
        raise ValueError(f"regressors have shape {list(found.shape)}, wanted (n, 16)")
    found = found.reshape(-1, 16)
    logits = np.asarray(scores, np.float32).reshape(-1)
    if not len(found) == len(logits) == len(anchors):
        raise ValueError(f"{len(found)} regressors and {len(logits)} scores, wanted {len(anchors)} for size {size}")
    with np.errstate(over="ignore"):
        likely = 1 / (1 + np.exp(-logits))
    chosen = np.flatnonzero(likely >= score)
    likely, found, anchors = likely[chosen], found[chosen], anchors[chosen]
    centre = found[:, :2] + anchors
    boxes = _corners(np.concatenate([centre, found[:, 2:4]], 1))
    points = found[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return _blended(boxes, likely, points, overlap, most)


def _blended(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, overlap: float, most: int) -> Detections:
    """For each box that `nms` keeps, the mean of those that it suppresses, weighted by score."""
    left = np.argsort(-scores, kind="stable")
    rows: list[tuple[np.ndarray, float, np.ndarray]] = []
    while len(left) and len(rows) < most:
        near = iou(boxes[left[0]], boxes[left])[0] > overlap
        near[0] = True
        group = left[near]
        weights = scores[group] / scores[group].sum()
        rows.append((weights @ boxes[group], float(scores[left[0]]), np.tensordot(weights, points[group], 1)))
        left = left[~near]
    if not rows:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), points[:0])
    box, best, marks = (np.array(v, np.float32) for v in zip(*rows, strict=True))
    return Detections(box, best, np.zeros(len(rows), np.int64), marks)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """(left, top, right, bottom) of centre and size."""
    half = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def _kept(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, overlap: float, most: int) -> Detections:
    kept = nms(boxes, scores, classes, threshold=overlap, most=most)
    return Detections(boxes[kept].astype(np.float32), scores[kept].astype(np.float32), classes[kept].astype(np.int64))
