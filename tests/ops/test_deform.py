"""Deformable convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.deform import DeformColumns, DeformColumnsGrad, DeformConv
from tests.check import case, run_cases, sampler

r = sampler(22)
nan, inf = np.nan, np.inf
IMAGE = [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]]
ONES = np.ones((1, 1, 2, 2), np.float32)


def call(op: DeformConv, x: tuple[int, ...], w: tuple[int, ...], biased: bool = True, masked: bool = True, **options: Any):
    """With offsets of up to some cells."""
    out = op.window(x[2:], w[2:]).out
    samples, axes = op.offset_group * int(np.prod(w[2:])), len(out)
    offset, mask = 2 * r(x[0], samples * axes, *out), r(x[0], samples, *out)
    return case(op, r(*x), r(*w), offset, r(w[0]) if biased else None, mask if masked else None, **options)


def moved(*offsets: float) -> np.ndarray:
    """The same offsets for four taps of every pixel, y and x in turn."""
    return np.broadcast_to(np.reshape(np.float32(offsets), (1, 8, 1, 1)), (1, 8, 2, 2)).copy()


CASES = [
    call(DeformConv(), (2, 3, 7, 5), (4, 3, 3, 2), biased=False, masked=False),
    call(DeformConv(), (2, 3, 7, 5), (4, 3, 3, 2)),
    call(DeformConv(pads=(1, 1, 1, 1), strides=(2, 1)), (1, 20, 6, 7), (19, 20, 3, 3)),
    call(DeformConv(pads=(1, 0, 2, 1), dilations=(2, 1), strides=(1, 2), offset_group=2), (2, 6, 7, 8), (5, 6, 3, 2)),
    call(DeformConv(group=2), (1, 6, 7, 5), (4, 3, 3, 2), biased=False),
    call(DeformConv(group=3, offset_group=2), (1, 12, 5, 5), (6, 4, 3, 3)),
    call(DeformConv(group=2, offset_group=4), (2, 8, 5, 6), (2, 4, 1, 1), masked=False),
    call(DeformConv(pads=(1, 1)), (2, 3, 7), (4, 3, 3), differs="onnxruntime has images alone"),
    call(DeformConv(), (1, 2, 4, 3, 4), (3, 2, 2, 2, 2), differs="onnxruntime has images alone"),
    case(DeformConv(), IMAGE, ONES, moved(0, 0, 0, 0, 0, 0, 0, 0), expect=[[[[12, 16], [24, 28]]]]),
    case(DeformConv(), IMAGE, ONES, moved(0.5, 0, 0, 0.5, 0, 0, 0, -1), expect=[[[[2.5 + 2.5 + 4 + 4, 3.5 + 1.5 + 5 + 5],
                                                                              [5.5 + 5.5 + 7 + 7, 6.5 + 3 + 8 + 8]]]]),
    case(DeformConv(), IMAGE, ONES, moved(nan, 0, 0, inf, 0, 9, 0, 0), expect=[[[[5, 6], [8, 9]]]], differs="NaN"),
    case(DeformColumns(kernel_shape=(3, 2), pads=(1, 0, 0, 1)), r(2, 3, 6, 5), r(2, 12, 5, 5), r(2, 6, 5, 5)),
    case(DeformColumnsGrad(kernel_shape=(1, 1)), [[[[1.0]], [[2.0]]]], [[[[3.0, 5.0]]]], np.zeros((1, 2, 1, 2), np.float32),
         outputs=3, expect=([[[[1, 2]]]], [[[[-3, -10]], [[2, -10]]]], [[[[3, 10]]]])),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_messages() -> None:
    f = np.dtype(np.float32)
    x, w = Spec((1, 4, 6, 6), f), Spec((2, 4, 3, 3), f)
    offset = Spec((1, 18, 4, 4), f)
    wrong: list[Any] = [
        (DeformConv(kernel_shape=(2, 2)), (x, w, offset), "kernel_shape"),
        (DeformConv(group=3), (x, w, offset), "do not fit 3 groups"),
        (DeformConv(), (Spec((1, 5, 6, 6), f), w, offset), "x has 5 channels, w wants 4"),
        (DeformConv(offset_group=2), (x, w, offset), "offset is float32"),
        (DeformConv(), (x, w, offset, None, offset), "mask is float32"),
        (DeformConv(), (x, w, offset, Spec((3,), f)), "b is float32"),
    ]
    for op, inputs, message in wrong:
        with pytest.raises(ModelError, match=message):
            op.infer(*inputs)
