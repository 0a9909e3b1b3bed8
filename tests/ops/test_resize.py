"""Resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.ops.resize import Axis, Resize
from tests.check import case, run_cases, sampler

r = sampler(9)
NONE = np.zeros(0, np.float32)
MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = ([1.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.5, 1.7], [1.0, 1.0, 0.65, 0.4])
SIZES = ([2, 3, 14, 5], [2, 3, 3, 11], [2, 3, 1, 1])
CROP = Resize(coordinate_transformation_mode="tf_crop_and_resize")
ROI = np.array([0, 0, 0.2, -0.3, 1, 1, 0.8, 1.4], np.float32)


FRACTION = "onnxruntime and PyTorch take the whole size where scales make a fraction, ONNX's suite and reference don't"


def by_scales(op: Resize, *scales: float, x: Any = None, **options: Any):
    if op.coordinate_transformation_mode == "align_corners" and any(d * f % 1 > 1e-6 for d, f in zip((2, 3, 7, 5), scales)):
        options["differs"] = FRACTION
    return case(op, r(2, 3, 7, 5) if x is None else x, None, np.array(scales, np.float32), **options)


def by_sizes(op: Resize, *sizes: int, x: Any = None, **options: Any):
    return case(op, r(2, 3, 7, 5) if x is None else x, None, None, np.array(sizes, np.int64), **options)


def plane(op: Resize, *scales: float, expect: Any, **options: Any):
    """A row of four, resized by these scales."""
    return case(op, [[1.0, 2.0, 3.0, 4.0]], None, np.array(scales, np.float32), expect=[expect], **options)


CASES = [
    *(
        by_scales(Resize(coordinate_transformation_mode=c, nearest_mode=n), *scales)
        for c in MODES
        for n in NEAREST
        for scales in SCALES
    ),
    *(
        by_sizes(Resize(coordinate_transformation_mode=c, nearest_mode=n), *sizes)
        for c in MODES
        for n in NEAREST
        for sizes in SIZES
    ),
    *(
        by_scales(Resize(mode=m, coordinate_transformation_mode=c), *s)
        for m in ("linear", "cubic")
        for c in MODES
        for s in SCALES
    ),
    *(
        by_sizes(Resize(mode=m, coordinate_transformation_mode=c), *s)
        for m in ("linear", "cubic")
        for c in MODES
        for s in SIZES
    ),
    by_scales(Resize(mode="cubic", exclude_outside=1), 1.0, 1.0, 1.5, 2.5),
    by_scales(Resize(mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1), 1.0, 1.0, 0.8, 2.5),
    *(
        case(
            Resize(mode=m, coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=10.0),
            r(2, 3, 7, 5),
            ROI,
            None,
            np.array([2, 3, 6, 9]),
        )
        for m in ("nearest", "linear", "cubic")
    ),
    *(
        by_scales(Resize(mode=m, antialias=1, exclude_outside=e), 1.0, 1.0, *scales)
        for m in ("linear", "cubic")
        for e in (0, 1)
        for scales in ((0.5, 0.7), (0.3, 1.6), (2.0, 1.5))
    ),
    by_sizes(Resize(mode="linear", antialias=1, coordinate_transformation_mode="pytorch_half_pixel"), 2, 3, 1, 2),
    by_sizes(Resize(antialias=1), 2, 3, 3, 2, differs="onnxruntime refuses it for the nearest cell"),
    plane(Resize(mode="linear", antialias=1), 1, 0.5, expect=[1.625, 3.375]),  # (1, 3, 3, 1) / 8 of 1 1 2 3, of 2 3 4 4
    plane(Resize(mode="linear", antialias=1, exclude_outside=1), 1, 0.5, expect=[12 / 7, 23 / 7]),
    plane(
        Resize(mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn"),
        1,
        2,
        expect=[1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4, 4],
    ),
    plane(Resize(coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor"), 1, 0.5, expect=[2, 4]),
    by_sizes(Resize(mode="cubic", axes=(2, 3)), 9, 4),
    by_sizes(Resize(mode="linear", axes=(2, 3, 4)), 5, 6, 3, x=r(1, 2, 3, 4, 5)),
    by_sizes(Resize(axes=(2, 3, 4)), 5, 6, 3, x=r(1, 2, 3, 4, 5)),
    by_sizes(Resize(axes=(0, 3)), 3, 9),
    by_sizes(Resize(axes=(1,)), 6, x=r(2, 3, 4, dtype=np.uint8)),
    case(
        Resize(coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.0),
        r(2, 3, 7, 5, dtype=np.uint8),
        ROI,
        None,
        np.array([2, 3, 6, 9]),
    ),
    by_sizes(Resize(mode="linear", axes=(2, 3)), 9, 4),
    by_sizes(Resize(mode="linear", axes=(-1, 2)), 9, 4),
    by_scales(Resize(axes=(3,)), 2.0),
    by_sizes(Resize(axes=(2, 3), keep_aspect_ratio_policy="not_larger"), 12, 7),
    by_sizes(Resize(axes=(2, 3), keep_aspect_ratio_policy="not_smaller"), 12, 7),
    by_scales(Resize(), 2.0, 1.0, 1.0, 1.0, x=r(2, 3, 7, 5, dtype=np.uint8)),
    by_scales(Resize(mode="linear"), 2.0, x=r(9), differs="onnxruntime interpolates two axes or more"),
    by_scales(Resize(mode="linear"), 1.0, 1.0, 2.0, 1.5, 1.2, x=r(1, 2, 3, 4, 5)),
    by_scales(Resize(), 1.0, 1.0, 2.0, 2.0, x=r(0, 3, 4, 4)),
    case(Resize(), r(2, 3), NONE, np.array([2, 2], np.float32)),
    plane(Resize(), 1, 2, expect=[1, 1, 2, 2, 3, 3, 4, 4]),
    plane(Resize(coordinate_transformation_mode="asymmetric", nearest_mode="floor"), 1, 0.5, expect=[1, 3]),
    plane(Resize(mode="linear"), 1, 2, expect=[1, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]),
    plane(Resize(mode="linear", coordinate_transformation_mode="asymmetric"), 1, 2, expect=[1, 1.5, 2, 2.5, 3, 3.5, 4, 4]),
    plane(
        Resize(mode="linear", coordinate_transformation_mode="align_corners"), 1, 1.75, expect=[1, 1.5, 2, 2.5, 3, 3.5, 4]
    ),
    plane(  # 2.4 cells, of which two are whole
        Resize(mode="linear", coordinate_transformation_mode="align_corners"),
        *(1, 0.6),
        expect=[1, 1 + 3 / 1.4],
        differs=FRACTION,
    ),
    plane(
        Resize(mode="cubic", coordinate_transformation_mode="asymmetric"),
        1,
        2,
        expect=[1, 1.40625, 2, 2.5, 3, 3.59375, 4, 4.09375],
    ),
    case(
        Resize(mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=-7.0),
        [1.0, 2.0, 3.0, 4.0],
        np.array([0.0, 2.0], np.float32),
        None,
        [5],
        expect=[1, 2.5, 4, -7, -7],
        differs="onnxruntime interpolates two axes or more",
    ),
]

test_cases = run_cases(CASES)


def test_messages() -> None:
    x = Spec((1, 3, 4, 4), np.dtype(np.float32))
    scales = spec_of(np.array([1, 1, 2, 2], np.float32))
    unknown = Spec((4,), np.dtype(np.float32))
    wrong: list[Any] = [
        (Resize(), (x, None, unknown), "scales is computed while running"),
        (Resize(), (x,), "either scales or sizes"),
        (Resize(), (x, None, scales, spec_of(np.array([1, 3, 8, 8]))), "either scales or sizes"),
        (Resize(), (x, None, spec_of(np.array([2.0, 2.0]))), "has 2 entries, 4 axes want 4"),
        (Resize(), (x, None, spec_of(np.array([1, 1, np.nan, 2]))), "must be positive"),
        (Resize(), (x, None, spec_of(np.array([1, 1, -1.0, 2]))), "must be positive"),
        (Resize(), (x, None, spec_of(np.array([1, 1, 1e12, 2]))), "more than"),
        (Resize(mode="best"), (x, None, scales), "mode is 'best'"),
        (Resize(nearest_mode="up"), (x, None, scales), "nearest_mode is 'up'"),
        (CROP, (x, None, scales), "wants a roi"),
        (CROP, (x, spec_of(np.array([0, 0, 0, 0, 1, 1, np.nan, 1])), scales), "roi .* must be finite"),
        (CROP, (x, spec_of(np.array([0, 0, 0, 0, 1, 1, np.inf, 1])), scales), "roi .* must be finite"),
    ]
    for op, inputs, message in wrong:
        with pytest.raises(ModelError, match=message):
            op.infer(*inputs)


def test_no_cell_lies_outside() -> None:
    """Whatever a roi says, the tables that kernels read from stay inside of x."""
    for mode in ("nearest", "linear", "cubic"):
        op = Resize(mode=mode, coordinate_transformation_mode="tf_crop_and_resize")
        for start, end in ((np.nan, 1.0), (0.0, np.inf), (-np.inf, np.inf), (1e30, -3e38)):
            for size in (1, 4):
                with np.errstate(all="ignore"):
                    cells, _ = op.weights(Axis(size, 6, np.float32(1.5), start, end, 6))
                assert cells.min() >= 0 and cells.max() < size, (mode, start, end)
