"""Ops whose result has as many entries as values say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.infer import INT64
from nbconv.graph.op import Op
from nbconv.ops.gather import GatherGrad
from nbconv.ops.linear import reshape

if TYPE_CHECKING:
    from nbconv.graph.backward import Backward


class NonZero(Op):
    """Indices (rank, n) of the entries that are not 0, in row-major order (of a scalar: one row, as NumPy's
    ``atleast_1d``)."""

    moves = True

    def infer(self, x: Spec) -> Spec:
        return want.make((max(1, x.rank), int(np.count_nonzero(want.known(x, "x")))), INT64)

    def reference(self, x: np.ndarray) -> np.ndarray:
        return np.array(np.nonzero(np.atleast_1d(x)), np.int64).reshape(max(1, x.ndim), -1)


class Compress(Op):
    """The slices along ``axis`` (None: elements of the flat array) where ``condition`` holds."""

    moves = True

    axis: int | None = None

    def infer(self, x: Spec, condition: Spec) -> Spec:
        want.kind("b", condition=condition)
        want.rank(condition, 1, 1, "condition")
        axis = None if self.axis is None else want.axis(self.axis, x.rank)
        length = x.size if axis is None else x.shape[axis]
        if condition.size > length:
            raise ModelError(f"condition has {condition.size} entries for {length}")
        count = int(np.count_nonzero(want.known(condition, "condition")))
        return want.make((count,) if axis is None else (*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)

    def reference(self, x: np.ndarray, condition: np.ndarray) -> np.ndarray:
        return np.compress(condition, x, self.axis)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, condition = to.inputs
        places = to.constant(np.flatnonzero(want.known(condition, "condition")))
        if self.axis is not None:
            return to.add(GatherGrad(axis=want.axis(self.axis, x.rank), shape=x.shape), to.dy(), places), None
        return reshape(to, to.add(GatherGrad(axis=0, shape=(x.size,)), to.dy(), places), x.shape), None


class Unique(Op):
    """(values, indices of their first places, for each entry the index of its value, counts) of the distinct entries, or
    slices along ``axis``; in order of first place where ``sorted`` is 0."""

    moves = True

    axis: int | None = None
    sorted: int = 1

    def infer(self, x: Spec) -> tuple[Spec, ...]:
        if self.axis is not None:
            want.axis(self.axis, x.rank)
        found = self.reference(want.known(x, "x"))
        return tuple(Spec(y.shape, y.dtype) for y in found)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        y, first, inverse, counts = np.unique(x, True, True, True, axis=self.axis)
        inverse = inverse.reshape(-1)
        if not self.sorted:
            order = np.argsort(first, kind="stable")
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            y = np.take(y, order, 0 if self.axis is None else self.axis)
            first, inverse, counts = first[order], rank[inverse], counts[order]
        return y, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


class NonMaxSuppression(Op):
    """(n, 3) of batch, class and box, best scores first in each class: boxes (batch, boxes, 4) whose overlap (IoU) with none
    that was taken before exceeds ``iou_threshold``. scores (batch, classes, boxes). ``center_point_box``: 1 for
    (x, y, width, height), 0 for two opposite corners (y, x, y, x)."""

    center_point_box: int = 0

    def infer(self, boxes: Spec, scores: Spec, *limits: Spec | None) -> Spec:
        want.one_type("f", boxes=boxes, scores=scores)
        want.rank(boxes, 3, 3, "boxes")
        want.rank(scores, 3, 3, "scores")
        if boxes.shape[2] != 4 or boxes.shape[0] != scores.shape[0] or boxes.shape[1] != scores.shape[2]:
            raise ModelError(f"boxes {list(boxes.shape)} and scores {list(scores.shape)}: wanted (n, k, 4) and (n, c, k)")
        for name, spec in zip(("max_output_boxes_per_class", "iou_threshold", "score_threshold"), limits, strict=False):
            want.scalar(spec, name)
        if not limits or (limits[0] is not None and limits[0].value is not None and limits[0].value.reshape(()) <= 0):
            return want.make((0, 3), INT64)
        given = [s for s in (boxes, scores, *limits) if s is not None]
        if any(s.value is None for s in given):
            raise DataDependentError("scores decide how many boxes there are")
        return Spec(self.reference(*(s and s.value for s in (boxes, scores, *limits))).shape, INT64)

    def reference(self, boxes, scores, most=None, iou=None, least=None) -> np.ndarray:
        most = 0 if most is None else int(most.reshape(()))
        iou = 0.0 if iou is None else float(iou.reshape(()))
        rows = []
        for n in range(len(scores) if most > 0 else 0):
            corners = _corners(boxes[n], self.center_point_box)
            for c, of_class in enumerate(scores[n]):
                chosen = np.arange(len(of_class)) if least is None else np.flatnonzero(of_class > least.reshape(()))
                rows += [(n, c, k) for k in suppressed(corners, of_class, chosen, most, iou)]
        return np.array(rows, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, centred: int) -> np.ndarray:
    """(least, greatest) of both axes: (k, 4)."""
    a, b = boxes[:, :2], boxes[:, 2:]
    low, high = (a - b / 2, a + b / 2) if centred else (np.minimum(a, b), np.maximum(a, b))
    return np.concatenate([low, high], 1)


def suppressed(corners: np.ndarray, scores: np.ndarray, chosen: np.ndarray, most: int, iou: float) -> list[int]:
    """At most so many of the ``chosen`` boxes by falling score (of equal ones the first), each overlapping none before it by
    more than ``iou``."""
    order = chosen[np.argsort(-scores[chosen], kind="stable")]
    left, top, right, bottom = np.ascontiguousarray(corners[order].T)
    area = (right - left) * (bottom - top)
    gone = np.zeros(len(order), bool)
    taken: list[int] = []
    with np.errstate(all="ignore"):
        for i in range(len(order)):
            if gone[i]:
                continue
            taken.append(int(order[i]))
            if len(taken) == most:
                break
            wide = np.minimum(right[i], right[i + 1 :]) - np.maximum(left[i], left[i + 1 :])
            high = np.minimum(bottom[i], bottom[i + 1 :]) - np.maximum(top[i], top[i + 1 :])
            shared = np.maximum(wide, 0) * np.maximum(high, 0)
            union = area[i] + area[i + 1 :] - shared
            over = (shared / union > iou) & (union > 0) & (area[i + 1 :] > 0)
            if area[i] > 0:
                gone[i + 1 :] |= over
    return taken
