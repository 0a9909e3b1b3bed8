"""Products and convolutions of 8-bit integers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.ops.integer import DynamicQuantizeLinear, MatMulInteger, QLinearGemm, QLinearMatMul
from nbconv.ops.integer_conv import ConvInteger, QLinearConv
from tests.check import Case, case, check_op, run_cases

U8, I8, I32 = (partial(np.array, dtype=dtype) for dtype in (np.uint8, np.int8, np.int32))
rng = np.random.default_rng(26)


def i8(*shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape).astype(np.int8)


def u8(*shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def f32(*values: float) -> np.ndarray:
    return np.array(values if len(values) != 1 else values[0], np.float32)


def scales(*shape: int) -> np.ndarray:
    return rng.uniform(0.01, 0.1, shape).astype(np.float32)


U, S = np.array(7, np.uint8), np.array(-5, np.int8)


def conv(x: np.ndarray, w: np.ndarray, b: bool = False, **fields: Any) -> Case:
    """Of a scale for each channel."""
    bias = [rng.integers(-2000, 2000, w.shape[0]).astype(np.int32)] if b else []
    zeros = np.zeros(w.shape[0], w.dtype)
    return case(
        QLinearConv(**fields), x, f32(0.05), np.array(3, x.dtype), w, scales(w.shape[0]), zeros, f32(5),
        np.array(9, x.dtype), *bias,
    )  # fmt: skip


CASES = [
    case(MatMulInteger(), u8(5, 7), u8(7, 3), U, U),
    case(MatMulInteger(), u8(5, 7), i8(7, 3), U, S),
    case(MatMulInteger(), i8(5, 700), i8(700, 3)),  # more than a float32 holds
    case(MatMulInteger(), u8(2, 3, 5, 7), i8(7, 4), None, i8(4)),
    case(MatMulInteger(), u8(3, 5), u8(5, 2), u8(3), u8(2), differs="no zero points by row"),
    case(MatMulInteger(), u8(2, 3, 5), u8(2, 5, 2), u8(2, 3, 1), u8(2, 1, 2), differs="no zero points by row"),
    case(
        MatMulInteger(), U8([[11, 7, 3], [10, 6, 2]]), U8([[1, 4], [2, 5], [3, 6]]), U8(12),
        U8(0), expect=I32([[-38, -83], [-44, -98]]),
    ),
    case(MatMulInteger(), u8(0, 4), u8(4, 3)),
    case(MatMulInteger(), np.full((1, 33100), 255, np.uint8), np.full((33100, 1), 255, np.uint8), differs="overflows",
         expect=I32([[33100 * 255 * 255 - 2**32]])),
    case(QLinearMatMul(), u8(5, 7), f32(0.02), U, u8(7, 3), f32(0.03), U, f32(0.4), U),
    case(QLinearGemm(), u8(5, 7), f32(0.02), U, i8(7, 3), f32(0.03), np.int8(0).reshape(()), f32(0.4), U,
         np.array([0, 900, -400], np.int32)),
    case(QLinearMatMul(), u8(2, 5, 9), f32(0.02), U, i8(9, 3), scales(3), np.zeros(3, np.int8), f32(0.5), U),
    case(QLinearMatMul(), i8(5, 300), f32(0.02), S, i8(300, 3), f32(0.03), S, f32(2), S),
    case(QLinearMatMul(), u8(3, 4), scales(3), u8(3), u8(4, 5), scales(5), u8(5), scales(3) * 50, u8(3), differs="by row"),
    case(QLinearMatMul(), I8([[1, 2]]), f32(1), I8(0), I8([[1], [2]]), f32(0.5), I8(0), f32(1), I8(3),
         expect=I8([[5]])),  # 2.5 goes to 2 before 3 is added
    case(ConvInteger(), u8(2, 3, 7, 6), u8(4, 3, 3, 3), U, U),
    case(ConvInteger(pads=(1, 1, 1, 1), strides=(2, 1), group=2), u8(1, 4, 7, 6), u8(6, 2, 3, 3), U),
    case(ConvInteger(auto_pad="SAME_UPPER"), u8(1, 40, 5, 5), u8(3, 40, 3, 3), U),
    case(ConvInteger(pads=(2, 2), dilations=(2,)), u8(1, 3, 9), u8(2, 3, 3), U, u8(2), differs="scalars alone"),
    case(ConvInteger(), i8(1, 2, 4, 4, 4), i8(2, 2, 2, 2, 2), S, S),
    case(
        ConvInteger(), np.arange(2, 11, dtype=np.uint8).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2), np.uint8),
        U8(1), expect=I32([[[[12, 16], [24, 28]]]]),
    ),
    conv(u8(2, 3, 8, 7), i8(5, 3, 3, 3), b=True, pads=(1, 1, 1, 1)),
    conv(i8(2, 40, 6, 5), i8(4, 40, 3, 3), strides=(2, 2)),
    conv(u8(1, 6, 6, 6), i8(6, 1, 3, 3), b=True, group=6, pads=(0, 1, 2, 1)),
    conv(u8(1, 4, 12), i8(3, 4, 5), strides=(2,), auto_pad="SAME_LOWER"),
    case(QLinearConv(), u8(1, 2, 5, 5), f32(0.05), U, u8(3, 2, 2, 2), f32(0.02), U, f32(0.3), U),
    case(QLinearConv(), u8(1, 2, 3, 3, 3), f32(0.05), U, u8(3, 2, 2, 2, 2), f32(0.02), U, f32(0.3), U),
    case(QLinearConv(), i8(1, 2, 5, 5), f32(0.05), S, i8(3, 2, 2, 2), scales(3), i8(3), f32(0.3), S),
    case(
        QLinearConv(), U8([[[3, 1, 255]]]), f32(0.5), U8(1), I8([[[1]]]), f32(1), I8(0), f32(1), U8(9),
        I32([1]), expect=U8([[[11, 9, 137]]]),
    ),  # 1.5, 0.5 and 127.5 go to even
    case(DynamicQuantizeLinear(), [0.0, 2.0, -3.0, -2.6, 1.34, 0.51], outputs=3,
         expect=(U8([153, 255, 0, 20, 221, 179]), f32(5 / 255), U8(153))),
    case(DynamicQuantizeLinear(), [-1.0, -2.1, -1.3, -2.5, -3.34, -4.0], outputs=3),
    case(DynamicQuantizeLinear(), [[1.0, 2.1, 1.3], [2.5, 3.34, 4.0]], outputs=3),
    case(DynamicQuantizeLinear(), [0.0, 0.0], outputs=3, expect=(U8([0, 0]), f32(1), U8(0))),
    case(DynamicQuantizeLinear(), np.zeros((0, 3), np.float32), outputs=3,
         expect=(np.zeros((0, 3), np.uint8), f32(1), U8(0))),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_messages() -> None:
    a, b = Spec((2, 3), np.dtype(np.uint8)), Spec((3, 4), np.dtype(np.int8))
    with pytest.raises(ModelError, match=r"a_zero_point is int8.*, wanted uint8"):
        MatMulInteger().infer(a, b, Spec((), np.dtype(np.int8)))
    with pytest.raises(ModelError, match=r"b_zero_point is int8\(3\), wanted a scalar or one for each column of \[3, 4\]"):
        MatMulInteger().infer(a, b, None, Spec((3,), np.dtype(np.int8)))
    with pytest.raises(UnsupportedError, match="A is int16, wanted int8 or uint8"):
        MatMulInteger().infer(Spec((2, 3), np.dtype(np.int16)), b)
    x, w = Spec((1, 3, 8, 8), np.dtype(np.uint8)), Spec((4, 3, 3, 3), np.dtype(np.int8))
    with pytest.raises(ModelError, match=r"w_zero_point is int8\(3\), with 4 output channels it wants shape \[4\]"):
        ConvInteger().infer(x, w, None, Spec((3,), np.dtype(np.int8)))
    with pytest.raises(ModelError, match=r"x has 3 channels, w wants 6"):
        ConvInteger(group=2).infer(x, w)


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed: int) -> None:
    """Convolutions and products of any geometry, as onnxruntime has them: exact, the rounded ones within a step."""
    rng = np.random.default_rng([28, seed])
    kind = (np.uint8, np.int8)[seed % 2]

    def draw(dtype: Any, *shape: int) -> np.ndarray:
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape).astype(dtype)

    rank, group = int(rng.integers(1, 3)), int(rng.choice([1, 1, 2, 3]))
    n, ci, co = int(rng.integers(1, 3)), group * int(rng.integers(1, 20)), group * int(rng.integers(1, 9))
    kernel, stride, dilation = (tuple(rng.integers(1, top, rank).tolist()) for top in (4, 3, 3))
    size = [int(k * d + rng.integers(0, 9)) for k, d in zip(kernel, dilation, strict=True)]
    fields: dict[str, Any] = {"strides": stride, "dilations": dilation, "group": group,
                              "pads": tuple(rng.integers(0, 2, 2 * rank).tolist())}  # fmt: skip
    x, w = draw(kind, n, ci, *size), draw(np.int8, co, ci // group, *kernel)
    conv_scale = np.float32(0.05 * np.sqrt(w[0].size))
    zero = np.array(rng.integers(-20, 20) if kind is np.int8 else rng.integers(100, 140), kind)
    bias = rng.integers(-9999, 9999, co).astype(np.int32)
    check_op(
        QLinearConv(**fields), x, f32(0.05), zero, w, scales(co), np.zeros(co, np.int8), conv_scale * 4, zero, bias, steps=1
    )
    if kind is np.uint8:
        check_op(ConvInteger(**fields), x, w.view(np.uint8), zero, U)
    m, k, columns = (int(v) for v in rng.integers(1, 40, 3))
    a, b = draw(kind, n, m, k), draw(np.int8, k, columns)
    check_op(MatMulInteger(), a, b, zero, draw(np.int8, columns))
    check_op(QLinearMatMul(), a, f32(0.05), zero, b, scales(columns), draw(np.int8, columns), f32(5), zero, steps=1)
