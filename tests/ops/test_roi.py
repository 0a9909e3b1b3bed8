"""Regions of images."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.roi import MaxRoiPool, MaxRoiPoolGrad, RoiAlign, RoiAlignGrad
from tests.check import case, run_cases, sampler

r = sampler(23)
nan, inf = np.nan, np.inf
ROIS = np.array([[0.3, 1.1, 5.2, 6.4], [2.1, -3.37, 9.73, 3.9], [1.2, 2.3, 1.9, 2.6], [-6, -7, 20.3, 30.1]], np.float32)
IMAGES = np.array([1, 0, 1, 0])
IMAGE = [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]]
WITH_IMAGE = np.array(
    [[1, 0.3, 1.1, 5.2, 6.4], [0, 2.1, -3.37, 9.73, 3.9], [1, 4, 5, 2, 3], [0, -6, -7, 20.3, 30.1]], np.float32
)
SIZE = {"output_height": 3, "output_width": 2}

CASES = [
    *(
        case(RoiAlign(mode=m, coordinate_transformation_mode=t, sampling_ratio=s, **SIZE), r(2, 3, 7, 6), ROIS, IMAGES)
        for m, t, s in product(("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 2))
    ),
    case(RoiAlign(spatial_scale=0.25, sampling_ratio=2, output_height=7, output_width=7), r(2, 37, 9, 8), 3 * ROIS, IMAGES),
    case(RoiAlign(coordinate_transformation_mode="output_half_pixel", sampling_ratio=1, output_width=3, output_height=1),
         IMAGE, [[0.0, 0.0, 3.0, 2.0]], [0], expect=[[[[4.5, 5.5, 6]]]]),
    case(RoiAlign(coordinate_transformation_mode="output_half_pixel", sampling_ratio=1),
         IMAGE, [[0.0, 0.0, inf, 2.0], [0.0, 0.0, 1.0, 1.0]], [0, 1], expect=[[[[nan]]], [[[nan]]]], differs="undefined"),
    case(RoiAlign(**SIZE), r(2, 3, 7, 6), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)),
    case(RoiAlignGrad(**SIZE), r(4, 3, 3, 2), r(2, 3, 7, 6), ROIS, IMAGES),
    case(RoiAlignGrad(sampling_ratio=2, **SIZE), r(4, 19, 3, 2), r(2, 19, 7, 6), ROIS, IMAGES),
    case(RoiAlignGrad(mode="max", sampling_ratio=2, **SIZE), r(4, 3, 3, 2), r(2, 3, 7, 6), ROIS, IMAGES),
    case(RoiAlignGrad(coordinate_transformation_mode="output_half_pixel", sampling_ratio=1), [[[[4.0]]]], IMAGE,
         [[0.0, 0.0, 1.0, 1.0]], [0], expect=[[[[1, 1, 0], [1, 1, 0], [0, 0, 0]]]]),
    case(MaxRoiPool(pooled_shape=(3, 2)), r(2, 3, 7, 6), WITH_IMAGE),
    case(MaxRoiPool(pooled_shape=(2, 2), spatial_scale=0.5), r(2, 3, 7, 6), WITH_IMAGE),
    case(MaxRoiPool(pooled_shape=(1, 2)), IMAGE, [[0.0, 0.0, 0.0, 2.0, 1.0], [0.0, 5.0, 5.0, 6.0, 6.0]],
         expect=[[[[5, 6]]], [[[0, 0]]]]),
    case(MaxRoiPool(pooled_shape=(1, 1)), IMAGE, [[0.0, nan, 0.0, 2.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0]],
         expect=[[[[nan]]], [[[nan]]]], differs="undefined"),
    case(MaxRoiPoolGrad(pooled_shape=(1, 2)), [[[[1.0, 10.0]]]], IMAGE, [[0.0, 0.0, 0.0, 2.0, 1.0]],
         expect=[[[[0, 0, 0], [0, 1, 10], [0, 0, 0]]]]),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_messages() -> None:
    f, i = np.dtype(np.float32), np.dtype(np.int64)
    x, rois, images = Spec((1, 4, 6, 6), f), Spec((2, 4), f), Spec((2,), i)
    wrong: list[Any] = [
        (RoiAlign(mode="min"), (x, rois, images), "mode is 'min'"),
        (RoiAlign(coordinate_transformation_mode="best"), (x, rois, images), "coordinate_transformation_mode is 'best'"),
        (RoiAlign(), (x, Spec((2, 5), f), images), "rois float32"),
        (RoiAlign(output_height=0), (x, rois, images), "the output is 0×1"),
        (RoiAlign(), (Spec((1, 4, 0, 6), f), rois, images), "nothing to sample"),
        (MaxRoiPool(pooled_shape=(1,)), (x, Spec((2, 5), f)), "pooled_shape"),
    ]
    for op, inputs, message in wrong:
        with pytest.raises(ModelError, match=message):
            op.infer(*inputs)
