"""Sampling by a grid."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nbconv.errors import DataDependentError, ModelError
from nbconv.graph import Spec, spec_of
from nbconv.ops.sample import AffineGrid, GridSample, GridSampleGrad, GridSampleGradGrid
from tests.check import case, run_cases, sampler

r = sampler(21)
nan, inf = np.nan, np.inf
ROW = [[[[1.0, 2.0, 3.0, 4.0]]]]


def grid(*shape: int, spread: float = 1.6) -> np.ndarray:
    """Places inside and outside of the image, none near a cell's edge."""
    rng = np.random.default_rng(sum(shape))
    return rng.uniform(-spread, spread, shape).astype(np.float32)


def row(*places: float) -> np.ndarray:
    """Places (x, 0) of a row of four."""
    return np.array([[[(x, 0.0) for x in places]]], np.float32)


CASES = [
    *(
        case(GridSample(mode=m, padding_mode=p, align_corners=a), r(2, 3, 5, 4), grid(2, 6, 3, 2))
        for m, p, a in product(("nearest", "linear", "cubic"), ("zeros", "border", "reflection"), (0, 1))
    ),
    *(
        case(GridSample(mode=m, padding_mode=p, align_corners=a), r(1, 2, 3, 4, 5), grid(1, 2, 4, 3, 3), rtol=3e-5)
        for m, p, a in product(("nearest", "linear"), ("zeros", "border", "reflection"), (0, 1))
    ),
    case(GridSample(), r(1, 37, 9, 7), grid(1, 5, 6, 2)),
    case(GridSample(), r(2, 1, 1, 1), grid(2, 2, 2, 2)),
    case(GridSample(align_corners=1), r(2, 1, 1, 1), grid(2, 2, 2, 2)),
    case(GridSample(mode="nearest"), r(2, 3, 5, 4, dtype=np.uint8), grid(2, 6, 3, 2), differs="onnxruntime has float alone"),
    case(GridSample(mode="cubic", padding_mode="reflection"), r(1, 2, 5, 6), grid(1, 4, 4, 2, spread=5.0)),
    case(GridSample(mode="cubic"), r(1, 2, 3, 4, 5), grid(1, 2, 2, 2, 3), differs="onnxruntime has no cubic volumes"),
    case(GridSample(), r(2, 3, 6), grid(2, 4, 1), differs="onnxruntime has images and volumes alone"),
    case(GridSample(), r(2, 3, 5, 4), np.zeros((2, 0, 3, 2), np.float32)),
    case(GridSample(), ROW, row(-1, -0.75, 0, 0.5, 1, 2), expect=[[[[0.5, 1, 2.5, 3.5, 2, 0]]]]),
    case(GridSample(align_corners=1), ROW, row(-1, 0, 1 / 3, 1), expect=[[[[1, 2.5, 3, 4]]]]),
    case(GridSample(padding_mode="border"), ROW, row(-1, 9, -9), expect=[[[[1, 4, 1]]]]),
    case(GridSample(padding_mode="reflection"), ROW, row(1.25, 1.5, -1.5), expect=[[[[4, 3.5, 1.5]]]]),
    case(GridSample(padding_mode="reflection", align_corners=1), ROW, row(5 / 3, -5 / 3), expect=[[[[3, 2]]]]),
    case(GridSample(mode="nearest"), ROW, row(-0.5, 0, 0.5), expect=[[[[1, 3, 3]]]]),
    case(GridSample(), ROW, row(nan, inf, -inf), expect=[[[[0, 0, 0]]]], differs="undefined"),
    case(GridSample(padding_mode="border"), ROW, row(nan, inf, -inf, 1e30), expect=[[[[1, 4, 1, 4]]]], differs="undefined"),
    case(GridSample(padding_mode="border"), [[[[1.0, nan, inf, 4.0]]]], row(-0.75, 0, 0.75), expect=[[[[nan, nan, 4]]]]),
    case(AffineGrid(), r(2, 2, 3), [2, 3, 4, 5]),
    case(AffineGrid(align_corners=1), r(2, 2, 3), [2, 3, 4, 5]),
    case(AffineGrid(), r(2, 3, 4), [2, 3, 2, 4, 5]),
    case(AffineGrid(align_corners=1), r(1, 3, 4), [1, 1, 3, 4, 5]),
    case(AffineGrid(align_corners=1), [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], [1, 1, 1, 2],
         expect=[[[[2, 2], [4, 10]]]], differs="onnxruntime divides by the cells less one"),
    case(AffineGrid(), [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], [1, 1, 1, 2], expect=[[[[2.5, 4], [3.5, 8]]]]),
    case(GridSampleGrad(size=(5, 4)), r(2, 3, 6, 3), grid(2, 6, 3, 2)),
    case(GridSampleGrad(size=(5, 4), mode="cubic", padding_mode="border"), r(2, 18, 6, 3), grid(2, 6, 3, 2)),
    case(GridSampleGrad(size=(1, 4)), [[[[1.0, 10.0]]]], row(-0.75, 0), expect=[[[[1, 5, 5, 0]]]]),
    case(GridSampleGradGrid(), r(2, 3, 6, 3), r(2, 3, 5, 4), grid(2, 6, 3, 2)),
    case(GridSampleGradGrid(mode="cubic", padding_mode="reflection"), r(2, 3, 6, 3), r(2, 3, 5, 4), grid(2, 6, 3, 2)),
    case(GridSampleGradGrid(), [[[[1.0, 10.0]]]], ROW, row(0, 9), expect=[[[[2, -1.25], [0, 0]]]]),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_messages() -> None:
    x, f = Spec((1, 3, 4, 4), np.dtype(np.float32)), np.dtype(np.float32)
    wrong = [
        (GridSample(mode="best"), (x, Spec((1, 2, 2, 2), f)), "mode is 'best'"),
        (GridSample(padding_mode="wrap"), (x, Spec((1, 2, 2, 2), f)), "padding_mode is 'wrap'"),
        (GridSample(), (x, Spec((1, 2, 2, 3), f)), "grid is float32"),
        (GridSample(), (x, Spec((2, 2, 2, 2), f)), "grid is float32"),
        (GridSample(), (Spec((1, 3, 0, 4), f), Spec((1, 2, 2, 2), f)), "nothing to sample"),
        (AffineGrid(), (Spec((1, 2, 3), f), spec_of(np.array([1, 3, 4, 4, 4]))), "theta is float32"),
    ]
    for op, inputs, message in wrong:
        with pytest.raises(ModelError, match=message):
            op.infer(*inputs)
    with pytest.raises(DataDependentError):
        AffineGrid().infer(Spec((1, 2, 3), f), Spec((4,), np.dtype(np.int64)))
