"""NonZero, Compress, Unique, NonMaxSuppression: how many results there are, values say."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Spec
from nbconv.ops.select import (
    Compress,
    CompressRoom,
    Cut,
    NonMaxSuppression,
    NonMaxSuppressionRoom,
    NonZero,
    NonZeroRoom,
    Unique,
)
from tests.check import case, run_cases, sampler

r = sampler(12)
nan = np.nan
ODD = np.ones((300, 1), np.float32)
ODD[[3, 70, 200], 0] = np.nan, np.inf, 0
BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [1, 1, 0, -0.1], [0, 10, 1, 11], [0, 10.1, 1, 11.1], [0, 100, 1, 101]]],
                 np.float32)  # fmt: skip
SCORES = np.array([[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]]], np.float32)


def random_boxes(seed: int, batch: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.random((batch, count, 2)) * 10
    return np.concatenate([corner, corner + rng.random((batch, count, 2)) * 5], 2).astype(np.float32)


def limits(most: int, iou: float, least: float) -> tuple[np.ndarray, ...]:
    return np.array(most), np.array(iou, np.float32), np.array(least, np.float32)


CASES = [
    case(NonZero(), [[1, 0], [1, 1]], expect=[[0, 1, 1], [0, 0, 1]]),
    case(NonZero(), r(2, 0, 3)),
    case(NonZero(), np.zeros((3, 4), np.float32)),
    case(NonZero(), np.array(2.0, np.float32), expect=[[0]]),
    case(NonZero(), [np.nan, 0.0, -0.0, np.inf], expect=[[0, 3]]),
    case(NonZero(), r(3, 4, 5, dtype=bool)),
    case(Compress(axis=0), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [False, True, True], expect=[[3.0, 4.0], [5.0, 6.0]]),
    case(Compress(axis=-1), r(3, 4), [False, True]),
    case(Compress(), [[1, 2], [3, 4], [5, 6]], [False, True, False, False, True], expect=[2, 5]),
    case(Compress(axis=1), r(2, 3, dtype=np.uint8), [False, False, False]),
    case(Unique(), [2.0, 1.0, 1.0, 3.0, 4.0, 3.0], outputs=4,
         expect=([1.0, 2.0, 3.0, 4.0], [1, 0, 3, 4], [1, 0, 0, 2, 3, 2], [2, 1, 2, 1])),
    case(Unique(sorted=0), [2.0, 1.0, 1.0, 3.0, 4.0, 3.0], outputs=4,
         expect=([2.0, 1.0, 3.0, 4.0], [0, 1, 3, 4], [0, 1, 1, 2, 3, 2], [1, 2, 2, 1])),
    case(Unique(axis=0), [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 3.0, 4.0]], outputs=4,
         expect=([[1.0, 0.0, 0.0], [2.0, 3.0, 4.0]], [0, 2], [0, 0, 1], [2, 1])),
    case(Unique(axis=1, sorted=0), r(2, 5, dtype=np.int64) // 5, outputs=4),
    case(NonMaxSuppression(), BOXES, SCORES, *limits(3, 0.5, 0), expect=[[0, 0, 3], [0, 0, 0], [0, 0, 5]]),
    case(NonMaxSuppression(), BOXES, SCORES, *limits(3, 0.5, 0.4), expect=[[0, 0, 3], [0, 0, 0]]),
    case(NonMaxSuppression(), BOXES, SCORES, *limits(3, 0.5, 1)),
    case(NonMaxSuppression(), BOXES, SCORES, *limits(0, 0.5, 0), expect=np.zeros((0, 3), np.int64)),
    case(NonMaxSuppression(), BOXES, SCORES, expect=np.zeros((0, 3), np.int64)),
    case(NonMaxSuppression(), random_boxes(1, 2, 40), np.random.default_rng(2).random((2, 3, 40), np.float32),
         *limits(7, 0.3, 0.2)),
    case(NonMaxSuppression(center_point_box=1), random_boxes(3, 1, 50),
         np.random.default_rng(4).random((1, 2, 50), np.float32), *limits(50, 0.4, 0.1)),
    case(NonMaxSuppression(), random_boxes(5, 1, 300) * ODD, np.round(np.random.default_rng(6).random((1, 1, 300)), 1)
         .astype(np.float32) * ODD[None, :, 0], *limits(300, 0.2, -1), differs="it orders NaN otherwise"),
    *(case(NonZeroRoom(), x, outputs=2) for x in (r(3, 4, 5, dtype=bool), r(0, 2), np.array(2.0, np.float32),
                                                 r(7, 3, dtype=np.int64), r(7, 3, dtype=np.uint16) // 5)),
    case(NonZeroRoom(), [[0.0, nan], [-0.0, 2.0]], outputs=2, expect=([[0, 1, 1, 1], [0, 0, 0, 0]], 2)),
    *(case(CompressRoom(axis=a), r(3, 4, 2, dtype=t), np.array([True, False, True])[:k], outputs=2)
      for a, t, k in ((0, "f4", 3), (1, "i8", 2), (-1, "u1", 2), (None, "f2", 3), (2, "f8", 0))),
    case(CompressRoom(), r(0, 3), np.zeros(0, bool), outputs=2),
    *(case(CompressRoom(axis=1), r(*shape), np.array([True, False, True]), outputs=2) for shape in ((0, 4, 2), (2, 3, 0))),
    case(CompressRoom(axis=1), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [False, True, True], outputs=2,
         expect=([[2, 3, 5], [6, 0, 0]], 2)),
    case(Cut(axis=1, of="NonZero"), [[0, 1, 1, 1], [0, 0, 0, 0]], np.array(2), expect=[[0, 1], [1, 1]]),
    case(NonMaxSuppressionRoom(), BOXES, SCORES, *limits(6, 0.5, 0.4), outputs=2,
         expect=([[0, 0, 3], *[[0, 0, 0]] * 5], 2)),
    case(NonMaxSuppressionRoom(), random_boxes(5, 1, 300) * ODD, np.round(np.random.default_rng(6).random((1, 1, 300)), 1)
         .astype(np.float32) * ODD[None, :, 0], np.array(300), outputs=2),
    case(NonMaxSuppressionRoom(), BOXES, SCORES, outputs=2),
]  # fmt: skip
test_cases = run_cases(CASES)


def test_what_does_not_fit() -> None:
    F32 = np.dtype(np.float32)
    with pytest.raises(DataDependentError, match="x is computed while running"):
        NonZero().infer(Spec((3,), F32))
    with pytest.raises(ModelError, match="condition has 4 entries for 3"):
        Compress(axis=0).infer(Spec((3,), F32), Spec((4,), np.dtype(bool)))
    with pytest.raises(ModelError, match=r"boxes \[1, 5, 4\] and scores \[1, 2, 6\]"):
        NonMaxSuppression().infer(Spec((1, 5, 4), F32), Spec((1, 2, 6), F32))
