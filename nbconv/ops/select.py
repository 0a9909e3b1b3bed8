"""Ops whose result has as many entries as values say."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Spec, spec_of
from nbconv.graph import infer as want
from nbconv.graph.op import CHANNELS_FIRST, ONLY_FLOAT32, STORED, Op
from nbconv.kernels.index_params import Boxes
from nbconv.lowering.context import Lowering
from nbconv.lowering.indices import INT64
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

    def bound(self) -> tuple[Op, int]:
        return NonZeroRoom(), 1


class NonZeroRoom(Op):
    """(room, count): room (rank, size of x) begins with what `NonZero` finds, packed; zeros behind."""

    domain = "nbconv"
    moves = True
    processor_dtypes = frozenset(np.dtype(t) for t in ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4"))
    kernel_layout = CHANNELS_FIRST

    def infer(self, x: Spec) -> tuple[Spec, Spec]:
        return want.make((max(1, x.rank), x.size), INT64), Spec((), INT64)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = NonZero().reference(x)
        return packed(found, (len(found), x.size)), np.array(found.shape[1], np.int64)

    def lower(self, to: Lowering) -> None:
        x, (rank, n) = to.inputs[0], to.outputs[0].shape
        if n == 0:
            to.fill(to.output(1), 1)
            return
        kind = "float32" if x.dtype.kind == "f" else x.dtype.itemsize
        sizes = np.array(x.shape or (1,), np.int64)
        to.step(
            f"select.non_zero_{kind}",
            1,
            work=8 * n,
            writes=("y", "count"),
            x=to.input(0),
            sizes=to.table("sizes", sizes),
            y=to.output(0),
            count=to.output(1),
            rank=rank,
            n=n,
        )


class Cut(Op):
    """The first ``count`` entries of ``room`` along ``axis``, packed at its begin: what an op ``of`` this type finds."""

    domain = "nbconv"
    moves = True
    evaluator = ""  # it computes nothing: a part of the same memory

    axis: int
    of: str

    @property
    def label(self) -> str:
        return self.of

    def infer(self, room: Spec, count: Spec) -> Spec:
        if count.value is None:
            raise DataDependentError("values decide how many results there are")
        return Spec(self.cut(room.shape, int(count.value)), room.dtype)

    def cut(self, room: tuple[int, ...], count: int) -> tuple[int, ...]:
        """The result's shape."""
        axis = self.axis % len(room)
        return (*room[:axis], count, *room[axis + 1 :])

    def reference(self, room: np.ndarray, count: np.ndarray) -> np.ndarray:
        shape = self.cut(room.shape, int(count))
        return room.reshape(-1)[: prod(shape)].reshape(shape)


def packed(found: np.ndarray, room: tuple[int, ...]) -> np.ndarray:
    """Zeros of shape ``room`` that begin with the elements found."""
    y = np.zeros(room, found.dtype)
    y.reshape(-1)[: found.size] = found.reshape(-1)
    return y


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

    def bound(self) -> tuple[Op, int]:
        return CompressRoom(axis=self.axis), self.axis or 0

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        x, condition = to.inputs
        places = to.constant(np.flatnonzero(want.known(condition, "condition")))
        if self.axis is not None:
            return to.add(GatherGrad(axis=want.axis(self.axis, x.rank), shape=x.shape), to.dy(), places), None
        return reshape(to, to.add(GatherGrad(axis=0, shape=(x.size,)), to.dy(), places), x.shape), None


class CompressRoom(Op):
    """(room, count): room, as large as x, flat without ``axis``, begins with what `Compress` finds, packed; zeros behind."""

    domain = "nbconv"
    moves = True
    processor_dtypes, kernel_layout = ONLY_FLOAT32 | STORED, CHANNELS_FIRST

    axis: int | None = None

    def infer(self, x: Spec, condition: Spec) -> tuple[Spec, Spec]:
        _, n, _ = self.about(x.shape)
        want.kind("b", condition=condition)
        want.rank(condition, 1, 1, "condition")
        if condition.size > n:
            raise ModelError(f"condition has {condition.size} entries for {n}")
        return Spec((n,) if self.axis is None else x.shape, x.dtype), Spec((), INT64)

    def about(self, x: tuple[int, ...]) -> tuple[int, int, int]:
        """x's sizes before, along and behind the axis."""
        axis = None if self.axis is None else want.axis(self.axis, len(x))
        return (1, prod(x), 1) if axis is None else (prod(x[:axis]), x[axis], prod(x[axis + 1 :]))

    def reference(self, x: np.ndarray, condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = np.compress(condition, x, self.axis)
        return packed(found, (x.size,) if self.axis is None else x.shape), np.array(condition.sum(), np.int64)

    def lower(self, to: Lowering) -> None:
        x, entries = to.inputs[0], to.inputs[1].size
        outer, n, inner = self.about(x.shape)
        if entries == 0:
            if x.size:
                to.fill(to.output(0), x.size)
            to.fill(to.output(1), 1)
            return
        if x.size == 0:  # slices without elements are counted, too
            outer, inner = 1, 0
        to.step(
            f"select.compress_{x.dtype.itemsize}",
            1,
            work=8 * x.size,
            writes=("y", "count"),
            x=to.input(0),
            condition=to.input(1),
            y=to.output(0),
            count=to.output(1),
            outer=outer,
            n=n,
            inner=inner,
            entries=entries,
        )


class Unique(Op):
    """(values, indices of their first places, for each entry the index of its value, counts) of the distinct entries, or
    slices along ``axis``; in order of first place where ``sorted`` is 0."""

    moves = True
    in_numpy = "a sort of labels or boxes behind a network, not of activations"

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


class Suppression(Op, abstract=True):
    """Boxes (batch, boxes, 4), scores (batch, classes, boxes), and limits: what suppression asks of them."""

    center_point_box: int = 0

    def check(self, boxes: Spec, scores: Spec, limits: tuple[Spec | None, ...]) -> None:
        """ModelError for what does not fit."""
        want.one_type("f", boxes=boxes, scores=scores)
        want.rank(boxes, 3, 3, "boxes")
        want.rank(scores, 3, 3, "scores")
        if boxes.shape[2] != 4 or boxes.shape[0] != scores.shape[0] or boxes.shape[1] != scores.shape[2]:
            raise ModelError(f"boxes {list(boxes.shape)} and scores {list(scores.shape)}: wanted (n, k, 4) and (n, c, k)")
        for name, spec in zip(("max_output_boxes_per_class", "iou_threshold", "score_threshold"), limits, strict=False):
            want.scalar(spec, name)


class NonMaxSuppression(Suppression):
    """(n, 3) of batch, class and box, best scores first in each class: boxes (batch, boxes, 4) whose overlap (IoU) with none
    that was taken before exceeds ``iou_threshold``. scores (batch, classes, boxes). ``center_point_box``: 1 for
    (x, y, width, height), 0 for two opposite corners (y, x, y, x)."""

    def infer(self, boxes: Spec, scores: Spec, *limits: Spec | None) -> Spec:
        self.check(boxes, scores, limits)
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

    def bound(self) -> tuple[Op, int]:
        return NonMaxSuppressionRoom(center_point_box=self.center_point_box), 0


class NonMaxSuppressionRoom(Suppression):
    """(room, count): room (most, 3) begins with what `NonMaxSuppression` finds; zeros behind. As many boxes a class as are
    allowed, where that is known, or as there are."""

    domain = "nbconv"
    makes_room = True
    processor_dtypes, kernel_layout = ONLY_FLOAT32, CHANNELS_FIRST

    def infer(self, boxes: Spec, scores: Spec, *limits: Spec | None) -> tuple[Spec, Spec]:
        self.check(boxes, scores, limits)
        return want.make((prod(scores.shape[:2]) * self.most(scores, limits), 3), INT64), Spec((), INT64)

    def most(self, scores: Spec, limits: tuple[Spec | None, ...]) -> int:
        """Boxes of a class that may be kept."""
        given = limits[0] if limits else None
        if given is None:
            return 0
        return scores.shape[2] if given.value is None else min(scores.shape[2], max(0, int(given.value.reshape(()))))

    def reference(self, boxes, scores, *limits) -> tuple[np.ndarray, np.ndarray]:
        found = NonMaxSuppression(center_point_box=self.center_point_box).reference(boxes, scores, *limits)
        room, _ = self.infer(spec_of(boxes), spec_of(scores), *(x if x is None else spec_of(x) for x in limits))
        return packed(found, room.shape), np.array(len(found), np.int64)

    def has_kernel(self, inputs, outputs) -> bool:
        limits = [s is None or s.dtype in kinds for s, kinds in zip(inputs[2:], ((INT64,), ONLY_FLOAT32, ONLY_FLOAT32))]
        return super().has_kernel(inputs, outputs) and all(limits)

    def lower(self, to: Lowering) -> None:
        if to.outputs[0].size == 0:
            to.fill(to.output(1), 1)
            return
        (_, classes, n), lanes = to.inputs[1].shape, to.target.lanes
        units, room = prod(to.inputs[1].shape[:2]), -(-self.most(to.inputs[1], to.inputs[2:]) // lanes) * lanes
        kept, counts = to.scratch(INT64, units * room), to.scratch(INT64, units)
        zero = to.zeros(1)
        to.step(
            "select.suppress",
            units,
            work=64 * units * n,
            writes=("kept", "counts", "scratch"),
            boxes=to.input(0),
            scores=to.input(1),
            most=to.input(2),
            iou=to.input(3) if to.has(3) else zero,
            least=to.input(4) if to.has(4) else zero,
            kept=kept,
            counts=counts,
            scratch=to.floats_per_thread(2 * n + 5 * room),
            shape=Boxes(classes, n, room, int(to.has(4)), int(bool(self.center_point_box))),
        )
        to.step(
            "select.rows",
            1,
            work=8 * units * room,
            writes=("y", "total"),
            kept=kept,
            counts=counts,
            y=to.output(0),
            total=to.output(1),
            groups=units,
            classes=classes,
            room=room,
            most=to.outputs[0].shape[0],
        )


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
    with np.errstate(all="ignore"):
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
