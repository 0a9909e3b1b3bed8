"""onnxruntime's operators on 8-bit integers, held to onnxruntime within one step, and to values written down."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Node, Spec
from nbconv.ops.qlinear import (
    LookUp,
    QLinearAdd,
    QLinearConcat,
    QLinearLeakyRelu,
    QLinearMul,
    QLinearSigmoid,
    QLinearSoftmax,
    QLinearWhere,
)
from nbconv.ops.qlinear_pool import QLinearAveragePool, QLinearGlobalAveragePool, QLinearReduceMean
from tests.check import case, check_op, run_cases

U8, I8, F32 = (partial(np.array, dtype=dtype) for dtype in (np.uint8, np.int8, np.float32))
rng = np.random.default_rng(27)


def u8(*shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def i8(*shape: int) -> np.ndarray:
    return rng.integers(-128, 128, shape).astype(np.int8)


S, T = F32(0.05), F32(0.11)
POOL = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1)}

CASES = [
    case(QLinearAdd(), u8(2, 3, 5), S, U8(100), u8(3, 1), T, U8(130), F32(0.13), U8(90), steps=1),
    case(QLinearAdd(), i8(2, 33), S, I8(-3), i8(2, 33), T, I8(7), F32(0.13), I8(1), steps=1),
    case(QLinearAdd(), u8(7), S, None, u8(7), T, None, F32(0.2), differs="wants zero points"),
    case(QLinearAdd(), U8([1, 5, 200]), F32(1), U8(1), U8([2, 2, 250]), F32(2), U8(2), F32(8), U8(3),
         expect=U8([3, 3, 90]), steps=1),
    case(QLinearMul(), u8(2, 3, 5), S, U8(100), u8(1, 5), T, U8(130), F32(0.5), U8(90), steps=1),
    case(QLinearMul(), i8(40), S, I8(-3), i8(1), T, I8(7), F32(0.5), I8(1), steps=1),
    case(QLinearMul(), I8([10, -10, 127]), F32(0.5), I8(0), I8([3, 3, 127]), F32(1), I8(0), F32(1), I8(1),
         expect=I8([16, -14, 127])),
    case(QLinearSigmoid(), u8(3, 50), S, U8(128), F32(1 / 256), U8(0), steps=1),
    case(QLinearSigmoid(), i8(3, 50), S, I8(4), F32(1 / 256), I8(-128), steps=1),
    case(QLinearSigmoid(), U8([0, 128, 255]), F32(1), U8(128), F32(1 / 256), U8(0), expect=U8([0, 128, 255])),
    case(QLinearLeakyRelu(alpha=0.2), u8(3, 50), S, U8(100), F32(0.04), U8(40), steps=1),
    case(QLinearLeakyRelu(), i8(3, 50), S, None, F32(0.04), differs="onnxruntime aborts"),
    case(QLinearLeakyRelu(alpha=0.5), I8([-6, 4]), F32(1), I8(0), F32(2), I8(0), expect=I8([-2, 2])),
    case(LookUp(), U8([3, 0, 255]), i8(256)),
    case(LookUp(), U8(3), np.arange(255, -1, -1, dtype=np.uint8), expect=U8(252)),
    case(LookUp(rank=1), U8(3), np.arange(255, -1, -1, dtype=np.uint8), expect=U8([252])),
    case(LookUp(), I8([-1, 0, -128]), np.arange(256, dtype=np.uint8), expect=U8([255, 0, 128])),
    case(QLinearSoftmax(opset=13), u8(3, 40), S, U8(9), F32(1 / 256), U8(0), steps=1),
    case(QLinearSoftmax(opset=13, axis=1), i8(2, 5, 3), S, I8(9), F32(1 / 256), I8(-128), steps=1),
    case(QLinearSoftmax(opset=11, axis=1), u8(2, 5, 3), S, U8(9), F32(1 / 256), U8(0), steps=1),
    case(QLinearSoftmax(opset=13), U8([[7, 7, 7, 7]]), S, U8(9), F32(1 / 256), U8(0), expect=U8([[64, 64, 64, 64]])),
    case(QLinearSoftmax(opset=13), u8(3, 40), S, U8(9), F32(1 / 255), U8(0), steps=0),
    case(QLinearSoftmax(opset=13), U8([[255, 0], [0, 0]]), F32(1), U8(9), F32(1 / 255), U8(0),
         expect=U8([[254, 0], [127, 127]])),
    case(QLinearSoftmax(opset=13), U8([[255, 0]]), F32(1), U8(9), F32(2), U8(3), expect=U8([[3, 3]])),
    case(QLinearSoftmax(opset=13), U8([[10, 9]]), F32(1), U8(9), F32(1e-39), U8(3), expect=U8([[255, 255]])),
    case(QLinearAveragePool(**POOL), u8(2, 3, 7, 6), S, U8(9), T, U8(30), steps=1),
    case(QLinearAveragePool(count_include_pad=1, ceil_mode=1, **POOL), u8(1, 3, 8, 6), S, U8(9), S, U8(30), steps=1),
    case(QLinearAveragePool(channels_last=1, **POOL), u8(2, 7, 6, 5), S, U8(9), T, U8(30), steps=1),
    case(QLinearAveragePool(kernel_shape=(3,)), u8(2, 3, 9), S, None, T, differs="wants zero points"),
    case(QLinearAveragePool(kernel_shape=(2,)), U8([[[1, 2, 4]]]), F32(1), U8(0), F32(0.5), U8(1), expect=U8([[[4, 7]]])),
    case(QLinearGlobalAveragePool(), u8(2, 3, 7, 6), S, U8(9), T, U8(30), steps=1),
    case(QLinearGlobalAveragePool(channels_last=1), i8(2, 7, 6, 40), S, I8(9), T, I8(-30), steps=1),
    case(QLinearGlobalAveragePool(), U8([[[1, 2, 4, 5]]]), F32(1), U8(1), F32(0.5), U8(0), expect=U8([[[4]]])),
    case(QLinearReduceMean(axes=(1, -1), keepdims=0), u8(2, 3, 4), S, U8(9), T, U8(30), differs="no kernel"),
    case(QLinearReduceMean(axes=(1,), keepdims=1), U8([[1, 2], [5, 8]]), F32(1), None, F32(0.5), expect=U8([[3], [13]]),
         differs="no kernel"),
    case(QLinearConcat(axis=1), S, U8(9), u8(2, 3), T, U8(30), u8(2, 2), S, U8(9), u8(2, 1), F32(0.01), U8(200), steps=1),
    case(QLinearConcat(axis=0), S, I8(9), i8(2, 3), T, I8(30), steps=1),
    case(QLinearConcat(axis=0), F32(1), U8(0), U8([1, 2]), F32(1), U8(0), U8([1, 200]), F32(2), U8(1),
         expect=U8([1, 2, 0, 255])),
    case(QLinearWhere(), rng.random((3, 4)) < 0.5, u8(3, 4), S, U8(3), u8(4), T, U8(30), S, U8(7), steps=1),
    case(QLinearWhere(), [True, False], U8([4, 4]), F32(1), U8(0), U8([4, 4]), F32(2), U8(2), F32(1), U8(1),
         expect=U8([5, 5])),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_messages() -> None:
    x, s = Spec((2, 3), np.dtype(np.uint8)), Spec((), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"A is uint8, B is int8: wanted one type"):
        QLinearAdd().infer(x, s, None, Spec((2, 3), np.dtype(np.int8)), s, None, s)
    with pytest.raises(ModelError, match=r"x_scale is float32\(3\), wanted a scalar"):
        QLinearSigmoid().infer(x, Spec((3,), np.dtype(np.float32)), None, s)
    with pytest.raises(ModelError, match="stand 4 inputs, wanted three for each array"):
        QLinearConcat(axis=0).infer(s, Spec((), np.dtype(np.uint8)), x, s, Spec((), np.dtype(np.uint8)), x)
    with pytest.raises(ModelError, match="its input B is left out"):
        Node(QLinearAdd(), ("a", "s", "", "", "s", "", "s"), ("y",)).infer((x, s, None, None, s, None, s))
    with pytest.raises(ModelError, match="its input y_scale is left out"):
        Node(QLinearSigmoid(), ("x", "s"), ("y",)).infer((x, s, None, None))


@pytest.mark.parametrize("seed", range(10))
def test_random_shapes(seed: int) -> None:
    """Any shapes, scales and zero points, as onnxruntime has them within a step."""
    rng = np.random.default_rng([29, seed])
    kind = (np.uint8, np.int8)[seed % 2]

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, shape).astype(kind)

    def scaled() -> tuple[np.ndarray, np.ndarray]:
        return F32(rng.uniform(0.01, 0.1)), draw()

    shape = tuple(rng.integers(1, 9, int(rng.integers(1, 5))).tolist())
    spread = tuple(d if rng.random() < 0.6 else 1 for d in shape)[int(rng.integers(len(shape))) :]
    x, y = draw(*shape), draw(*spread)
    for op in (QLinearAdd(), QLinearMul()):
        check_op(op, x, *scaled(), y, *scaled(), *scaled(), steps=1)
        check_op(op, y, *scaled(), x, *scaled(), *scaled(), steps=1)
    alpha = float(rng.uniform(0, 1))
    for op in (QLinearSigmoid(), QLinearLeakyRelu(alpha=alpha)):
        check_op(op, x, *scaled(), *scaled(), steps=1)
    axis = int(rng.integers(-len(shape), len(shape)))
    least = np.array(np.iinfo(kind).min, kind)
    check_op(QLinearSoftmax(opset=13, axis=axis), x, *scaled(), F32(1 / 256), least, steps=1)
    check_op(QLinearConcat(axis=axis), *scaled(), x, *scaled(), x, *scaled(), steps=1)
    check_op(QLinearWhere(), rng.random(spread) < 0.5, x, *scaled(), y, *scaled(), *scaled(), steps=1)
    size = rng.integers(3, 9, 2)
    planes = draw(*rng.integers(1, 6, 2).tolist(), *size.tolist())
    check_op(QLinearGlobalAveragePool(), planes, *scaled(), *scaled(), steps=1)
    window = {
        "kernel_shape": tuple(rng.integers(1, 4, 2).tolist()), "strides": tuple(rng.integers(1, 4, 2).tolist()),
        "count_include_pad": seed // 2 % 2, "ceil_mode": seed // 4 % 2,
    }  # fmt: skip
    window["pads"] = tuple(int(rng.integers(k)) for k in window["kernel_shape"] * 2)
    check_op(QLinearAveragePool(**window), planes, *scaled(), *scaled(), steps=1)
