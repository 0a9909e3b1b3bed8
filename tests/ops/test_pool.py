"""Pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.model import load
from nbconv.ops.global_pool import GlobalAveragePool, GlobalLpPool, GlobalMaxPool
from nbconv.ops.pool import (
    AveragePool,
    AveragePoolGrad,
    LpPool,
    MaxPool,
    MaxPoolGrad,
)
from nbconv.ops.unpool import MaxUnpool, MaxUnpoolGrad
from tests.check import case, node_model, run_cases, sampler

r = sampler(3)
nan, inf = np.nan, np.inf

WINDOWS = [
    {"kernel_shape": (3, 2)},
    {"kernel_shape": (3, 2), "strides": (2, 3), "pads": (1, 0, 2, 1)},
    {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1},
    {"kernel_shape": (3, 3), "strides": (3, 2), "pads": (0, 1, 1, 1), "ceil_mode": 1},
    {"kernel_shape": (2, 3), "dilations": (3, 2), "pads": (1, 1, 0, 2)},
    {"kernel_shape": (3, 4), "strides": (2, 2), "auto_pad": "SAME_UPPER"},
    {"kernel_shape": (3, 4), "strides": (2, 3), "auto_pad": "SAME_LOWER"},
    {"kernel_shape": (3, 2), "strides": (2, 2), "auto_pad": "VALID"},
    {"kernel_shape": (9, 7)},
    {"kernel_shape": (1, 1), "strides": (2, 2)},
]
GRID = [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]]
TIES = [[[[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]]]

VOLUMES = [
    {"kernel_shape": (2, 3, 2)},
    {"kernel_shape": (2, 3, 2), "strides": (2, 1, 3), "pads": (1, 0, 1, 0, 2, 1)},
    {"kernel_shape": (3, 3, 3), "strides": (2, 2, 2), "pads": (1, 1, 1, 1, 1, 1), "ceil_mode": 1},
    {"kernel_shape": (2, 2, 2), "dilations": (3, 2, 1), "pads": (1, 1, 0, 0, 1, 1)},
    {"kernel_shape": (3, 4, 2), "strides": (2, 2, 2), "auto_pad": "SAME_UPPER"},
]


def pooled(*shape: int, **window: Any):
    """Maxima and their places."""
    return MaxPool(**window).reference(r(*shape))


CASES = [
    *(case(MaxPool(**window), r(2, 19, 5, 6, 7), outputs=2) for window in VOLUMES),
    *(case(op(**window), r(2, 3, 5, 6, 7)) for window in VOLUMES for op in (MaxPool, AveragePool)),
    *(case(AveragePool(count_include_pad=1, **window), r(2, 3, 5, 6, 7)) for window in VOLUMES),
    *(case(LpPool(p=p, **window), r(2, 19, 5, 6, 7)) for p, window in zip((1, 2, 3, 4, 7), VOLUMES, strict=True)),
    case(
        LpPool(kernel_shape=(1, 2), p=3),
        [[[[0.0, 0.0, nan, -2.0, inf, 1.0]]]],
        expect=[[[[0, nan, nan, inf, inf]]]],
    ),
    case(MaxPool(kernel_shape=(2, 2, 2), storage_order=1), r(2, 3, 3, 4, 5), outputs=2),
    case(
        MaxPool(kernel_shape=(2,), pads=(1, 0)),
        [[[nan, -inf, -inf, 5.0, nan]]],
        outputs=2,
        expect=([[[nan, nan, -inf, 5, nan]]], [[[0, 0, 1, 3, 4]]]),
        differs="NaN",
    ),
    *(
        case(MaxUnpool(kernel_shape=k, strides=k), *pooled(2, 19, *size, kernel_shape=k, strides=k))
        for k, size in (((2,), (8,)), ((2, 3), (6, 9)), ((2, 2, 2), (4, 4, 6)))
    ),
    case(
        MaxUnpool(kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        r(1, 2, 2, 2),
        [[[[0, 2], [6, 8]], [[9, 11], [15, 17]]]],
    ),
    case(
        MaxUnpool(kernel_shape=(2,), strides=(2,)),
        [[[1.0, 2.0], [3.0, 4.0]]],
        [[[5, 1], [2, 7]]],
        expect=[[[0, 2, 3, 0], [0, 1, 0, 4]]],
    ),
    case(
        MaxUnpool(kernel_shape=(2,), strides=(2,)),
        [[[1.0, inf], [3.0, 4.0]]],
        [[[0, 8], [-1, 6]]],
        expect=[[[nan, 0, 0, 0], [nan, 0, 4, 0]]],
        differs="onnxruntime refuses it",
    ),
    case(MaxUnpool(kernel_shape=(2,), strides=(2,)), [[[1.0, 2.0]]], [[[1, 2]]], [1, 1, 5], expect=[[[0, 1, 2, 0, 0]]]),
    case(MaxUnpool(kernel_shape=(2,), strides=(2,)), [[[1.0, 2.0]]], [[[1, 4]]], [1, 1, 5], expect=[[[0, 1, 0, 0, 2]]]),
    case(
        MaxUnpoolGrad(inferred=(1, 2, 4)),
        [[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]],
        [[[5, 1], [-1, 8]]],
        expect=[[[6, 2], [0, 0]]],
    ),
    *(case(MaxPool(**window), r(2, 5, 9, 7), outputs=2) for window in WINDOWS),
    *(case(MaxPool(storage_order=1, **window), r(2, 3, 9, 7), outputs=2) for window in WINDOWS),
    *(case(op(**window), r(2, 5, 9, 7)) for window in WINDOWS for op in (AveragePool, LpPool)),
    *(case(AveragePool(count_include_pad=1, **window), r(2, 5, 9, 7)) for window in WINDOWS),
    *(case(op(kernel_shape=(3,), strides=(2,), pads=(1, 0)), r(2, 5, 9)) for op in (MaxPool, AveragePool, LpPool)),
    *(case(op(kernel_shape=(2, 3, 1), pads=(1, 0, 0, 0, 1, 0)), r(2, 3, 4, 5, 3)) for op in (MaxPool, AveragePool, LpPool)),
    *(case(op(kernel_shape=(2, 2)), r(0, 3, 4, 5)) for op in (AveragePool, LpPool)),
    case(MaxPool(kernel_shape=(2, 2)), r(0, 3, 4, 5)),
    case(MaxPool(kernel_shape=(3, 2), strides=(2, 1)), r(2, 3, 9, 7, dtype=np.uint8), outputs=2),
    case(MaxPool(kernel_shape=(2, 2), pads=(1, 1, 0, 0)), r(2, 3, 9, 7, dtype=np.int8)),
    case(MaxPool(kernel_shape=(2, 2)), GRID, outputs=2, expect=([[[[5, 6], [8, 9]]]], [[[[4, 5], [7, 8]]]])),
    case(
        MaxPool(kernel_shape=(2, 2), storage_order=1),
        GRID,
        outputs=2,
        expect=([[[[5, 6], [8, 9]]]], [[[[4, 7], [5, 8]]]]),
    ),
    case(MaxPool(kernel_shape=(2, 2)), TIES, outputs=2, expect=([[[[7, 7]]]], [[[[0, 1]]]])),
    case(
        MaxPool(kernel_shape=(1, 2)),
        [[[[1.0, nan, 3.0, -inf, -inf]]]],
        outputs=2,
        expect=([[[[nan, nan, 3, -inf]]]], [[[[1, 1, 2, 3]]]]),
        differs="onnxruntime passes NaN over, ONNX does not say; NumPy and PyTorch keep it",
    ),
    case(AveragePool(kernel_shape=(2, 2), pads=(1, 1, 0, 0)), GRID, expect=[[[[1, 1.5, 2.5], [2.5, 3, 4], [5.5, 6, 7]]]]),
    case(
        AveragePool(kernel_shape=(2, 2), pads=(1, 1, 0, 0), count_include_pad=1),
        GRID,
        expect=[[[[0.25, 0.75, 1.25], [1.25, 3, 4], [2.75, 6, 7]]]],
    ),
    case(AveragePool(kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1), GRID, expect=[[[[3, 4.5], [7.5, 9]]]]),
    case(
        AveragePool(kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1, count_include_pad=1),
        GRID,
        expect=[[[[3, 4.5], [7.5, 9]]]],
    ),
    case(LpPool(kernel_shape=(1, 2), p=2), [[[[3.0, -4.0, 0.0]]]], expect=[[[[5, 4]]]]),
    case(LpPool(kernel_shape=(1, 2), p=1), [[[[3.0, -4.0, 0.0]]]], expect=[[[[7, 4]]]]),
    *(case(op, r(2, 5, 9, 7)) for op in (GlobalAveragePool(), GlobalMaxPool(), GlobalLpPool(), GlobalLpPool(p=3))),
    *(case(op, r(2, 5, 9)) for op in (GlobalAveragePool(), GlobalMaxPool(), GlobalLpPool())),
    *(case(op, r(0, 5, 9, 7)) for op in (GlobalAveragePool(), GlobalMaxPool())),
    case(GlobalAveragePool(), GRID, expect=[[[[5]]]]),
    case(GlobalMaxPool(), [[[[1.0, nan], [2.0, 3.0]]]], expect=[[[[nan]]]], differs="onnxruntime passes NaN over"),
    case(GlobalMaxPool(), GRID, expect=[[[[9]]]]),
    case(GlobalLpPool(), [[[[3.0], [4.0]]]], expect=[[[[5]]]]),
]

CASES += [
    case(
        MaxPoolGrad(kernel_shape=(2, 2)),
        [[[[1.0, 2.0]]]],
        [[[[3.0, 3.0, 5.0], [3.0, nan, nan]]]],
        expect=[[[[0, 0, 0], [0, 3, 0]]]],
    ),
    case(MaxPoolGrad(kernel_shape=(2, 3), strides=(1, 2), pads=(1, 0, 0, 2)), r(2, 19, 5, 4), np.round(r(2, 19, 5, 7))),
    case(AveragePoolGrad(kernel_shape=(3, 2), size=(5, 4), strides=(2, 1), pads=(1, 0, 1, 1)), r(2, 19, 3, 4)),
    *(
        case(MaxPoolGrad(**w), np.ones_like(MaxPool(**w).reference(x)[0]), np.round(x))
        for w in VOLUMES
        for x in [r(2, 19, 5, 6, 7)]
    ),
    *(
        case(
            MaxPoolGrad(kernel_shape=(2,), dilations=(4,), pads=(1, 2)),
            np.array([[[5, 7]]], dtype),
            np.array([[[1, 2, 3]]], dtype),
            expect=np.array([[[7, 0, 0]]], dtype),
        )
        for dtype in ("f4", "f8")
    ),
    case(
        AveragePoolGrad(kernel_shape=(2, 2), size=(3, 2), divided=0),
        [[[[1.0], [10.0]]]],
        expect=[[[[1, 1], [11, 11], [10, 10]]]],
    ),
]

test_cases = run_cases(CASES)


def test_places_beyond_what_float32_counts() -> None:
    x = np.zeros((1, 1, 2**24 + 2), np.float32)
    x[0, 0, -1] = 1
    op = MaxPool(kernel_shape=(2,), dilations=(2**24 + 1,))
    found = load(node_model(op, (x,), [x.dtype, np.dtype(np.int64)])).run({"x0": x})
    assert found["y1"].item() == 2**24 + 1


def test_messages() -> None:
    x = Spec((1, 3, 8, 8), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"kernel_shape \[3\] has 1 entries, the 2 spatial axes want 2"):
        MaxPool(kernel_shape=(3,)).infer(x)
    with pytest.raises(ModelError, match=r"a \[9, 9\] window does not fit an input of size \[8, 8\]"):
        AveragePool(kernel_shape=(9, 9)).infer(x)
    with pytest.raises(ModelError, match=r"strides .* must be positive"):
        MaxPool(kernel_shape=(2, 2), strides=(0, 1)).infer(x)
    with pytest.raises(UnsupportedError, match="x is int64"):
        AveragePool(kernel_shape=(2, 2)).infer(Spec(x.shape, np.dtype(np.int64)))
    with pytest.raises(ModelError, match="of rank 2, wanted rank 3 or more"):
        GlobalAveragePool().infer(Spec((2, 3), x.dtype))
    for op in (LpPool(kernel_shape=(2, 2), p=0), GlobalLpPool(p=0)):
        with pytest.raises(ModelError, match="p is 0, must be positive"):
            op.infer(x)
    with pytest.raises(ModelError, match="MaxPool lacks its attribute 'kernel_shape'"):
        MaxPool()
