"""TFLite's operators: each beside values from NumPy, and beside LiteRT where that is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbconv
from tests.tflite_cases import CASES, Case, F, Fixed, model
from tests.tflite_files import O, Quantised, T, constant, litert, write


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case) -> None:
    content, fed, expected = model(case)
    loaded = nbconv.load(content, threads=1)
    assert [p.shape for p in loaded.outputs] == [e.shape for e in expected]
    found = loaded.run({p.name: x for p, x in zip(loaded.inputs, fed, strict=True)})
    for got, want in zip(found.values(), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, 2e-5, 2e-5)
    for theirs, want in zip(litert(content, fed) or (), expected):
        np.testing.assert_allclose(theirs, want, 1e-4, 1e-4)


def quantised(
    x: np.ndarray, dtype: Any, axis: int | None = None, even: bool = False
) -> tuple[np.ndarray, np.ndarray, Quantised]:
    """x as integers, what they stand for, and how; ``even``: 0 is 0."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    rest = None if axis is None else tuple(i for i in range(x.ndim) if i != axis)
    least, most = np.minimum(x.min(rest), 0), np.maximum(x.max(rest), 1e-3)
    scale = np.maximum(-least, most) / high if even else (most - least) / (high - low)
    zero = np.zeros_like(scale) if even else np.round(low - least / scale)
    wide = [1] * x.ndim if axis is None else [-1 if i == axis else 1 for i in range(x.ndim)]
    values = np.clip(np.round(x / scale.reshape(wide)) + zero.reshape(wide), low, high).astype(dtype)
    real = ((values - zero.reshape(wide)) * scale.reshape(wide).astype(F)).astype(F)
    return values, real, Quantised(np.atleast_1d(scale).tolist(), np.atleast_1d(zero).astype(int).tolist(), axis or 0)


INTEGER = {"AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "ADD",
           "SUB", "MUL", "LOGISTIC", "TANH", "SOFTMAX", "HARD_SWISH", "LEAKY_RELU", "PRELU", "MEAN", "RESIZE_BILINEAR",
           "MAX_POOL_2D", "PAD", "RELU6", "RESHAPE", "TRANSPOSE", "STRIDED_SLICE", "SPLIT", "GATHER",
           "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH", "SPACE_TO_BATCH_ND", "MAXIMUM", "PACK",
           "L2_NORMALIZATION"}  # fmt: skip
KEEP = {"MAX_POOL_2D", "PAD", "RESHAPE", "TRANSPOSE", "STRIDED_SLICE", "SPLIT", "GATHER", "RESIZE_NEAREST_NEIGHBOR", "PACK",
        "SPACE_TO_DEPTH", "SPACE_TO_BATCH_ND", "MAXIMUM", "CONCATENATION", "RESIZE_BILINEAR", "AVERAGE_POOL_2D"}  # fmt: skip
"""What TFLite computes on integers of one scale."""
FIXED_RANGE = {"SOFTMAX": (0, 1, 256), "LOGISTIC": (0, 1, 256), "TANH": (-1, 1, 256), "L2_NORMALIZATION": (-1, 1, 256)}
"""operator → the range of its result that TFLite asks for"""


BYTES = {"ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "PAD"}
"""Those that are tried with uint8, too."""


def is_float(case: Case) -> bool:
    first = case.inputs[0]
    return isinstance(first, Fixed) or first.dtype == F


QUANTISED = [
    (case, dtype)
    for case in CASES
    for dtype in ("int8", "uint8")
    if case.op in INTEGER and is_float(case) and (dtype == "int8" or case.op in BYTES)
]


@pytest.mark.parametrize(("case", "dtype"), QUANTISED, ids=str)
def test_quantised(case: Case, dtype: str) -> None:
    """Within one of what the numbers that the integers stand for give."""
    tensors, fed, real, first = [], [], [], None
    weighs = "CONV" in case.op or case.op == "FULLY_CONNECTED"
    for i, v in enumerate(case.inputs):
        data = v.data if isinstance(v, Fixed) else v
        if data.dtype != F:
            tensors.append(constant(f"c{i}", data, data.dtype))
            real.append(data)
        elif weighs and isinstance(v, Fixed) and data.ndim == 1:
            before = (
                np.array(tensors[i - 1].quantised.scale)
                if case.op != "TRANSPOSE_CONV"
                else np.array(tensors[1].quantised.scale)
            )
            scale = before * np.array(tensors[2 if case.op == "TRANSPOSE_CONV" else 0].quantised.scale)
            values = np.round(data / scale).astype(np.int32)
            tensors.append(constant(f"c{i}", values, np.int32, Quantised(scale.tolist(), [0] * len(scale))))
            real.append((values * scale).astype(F))
        elif weighs and isinstance(v, Fixed):
            axis = (3 if case.op == "DEPTHWISE_CONV_2D" else 0) if dtype == "int8" else None
            values, meant, how = quantised(data, dtype, axis, even=dtype == "int8")
            tensors.append(constant(f"c{i}", values, dtype, how))
            real.append(meant)
        else:
            values, meant, how = quantised(data if first is None or case.op not in KEEP else np.clip(data, *first), dtype)
            if case.op in KEEP and i and first is not None:
                how, low = tensors[0 if case.op != "SPLIT" else 1].quantised, np.iinfo(dtype)
                values = np.clip(np.round(data / how.scale[0]) + how.zero[0], low.min, low.max).astype(dtype)
                meant = ((values.astype(int) - how.zero[0]) * F(how.scale[0])).astype(F)
            first = (data.min(), data.max())
            tensors.append(T(f"x{i}", data.shape, dtype, values if isinstance(v, Fixed) else None, how))
            real.append(meant)
            fed += [] if isinstance(v, Fixed) else [(i, values)]
    expected = case.expect(*real)
    expected = [np.asarray(e) for e in (expected if isinstance(expected, tuple) else (expected,))]
    made = list(range(len(tensors), len(tensors) + len(expected)))
    info, wanted = np.iinfo(dtype), []
    for i, e in enumerate(expected):
        how = quantised(e, dtype)[2]
        if case.op in KEEP:
            how = tensors[1 if case.op == "SPLIT" else 0].quantised
        if case.op in FIXED_RANGE:
            low, high, steps = FIXED_RANGE[case.op]
            how = Quantised([(high - low) / steps], [info.min if low == 0 else 0])
        tensors.append(T(f"y{i}", e.shape, dtype, None, how))
        wanted.append(np.clip(np.round(e / F(how.scale[0])) + how.zero[0], info.min, info.max).astype(int))
    content = write(tensors, [O(case.op, range(made[0]), made, case.options, case.table)], [i for i, _ in fed], made)
    loaded = nbconv.load(content, threads=1)
    found = loaded.run({f"x{i}": values for i, values in fed})
    for got, want in zip(found.values(), wanted, strict=True):
        assert got.dtype == dtype
        assert np.abs(got.astype(int) - want).max() <= 1
        assert (got != want).mean() < 0.05
    for theirs, got in zip(litert(content, [values for _, values in fed]) or (), found.values()):
        assert np.abs(theirs.astype(int) - got).max() <= 1
