"""Linear quantisation."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec
from nbconv.ops.fake_quantize import FakeQuantize, StraightClip, StraightRound
from nbconv.ops.inner import OfType
from nbconv.ops.quantize import DequantizeLinear, QuantizeLinear
from tests.check import case, run_cases, sampler

r = sampler(10)
nan, inf = np.nan, np.inf
SCALE = np.array(0.5, np.float32)


def u8(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


CASES = [
    case(FakeQuantize(), 9 * r(2, 3, 5), np.array(0.1, np.float32), np.array(100, np.uint8)),
    case(FakeQuantize(axis=0), 9 * r(2, 3, 5), np.abs(r(2)), np.array([3, -9], np.int8)),
    case(FakeQuantize(), r(2, 3, dtype=np.float64).astype(np.float16), np.array(0.1, np.float16), np.array(1, np.uint8)),
    case(FakeQuantize(axis=-1, block_size=2), 9 * r(2, 3), np.abs(r(2, 2)), r(2, 2, dtype=np.int8)),
    case(FakeQuantize(), 1e5 * r(7), np.array(1e-3, np.float32), np.array(0, np.int32)),
    case(FakeQuantize(), r(0, 3), SCALE),
    case(FakeQuantize(axis=0), [0.0, 3.0, 0.7], [0.0, 1e-40, 0.5], np.zeros(3, np.int8), expect=[0, 0, 0.5]),
    case(FakeQuantize(), [nan, inf, -inf, 0.75, -0.3], SCALE, u8(1)[0], expect=[nan, 127, -0.5, 1.0, -0.5]),
    case(StraightRound(), [0.5, 1.5, -2.5, nan, inf], expect=[0, 2, -2, nan, inf]),
    case(StraightClip(), [-9.0, 3.0, 9.0, nan], np.array(-8, np.float32), np.array(7, np.float32), expect=[-8, 3, 7, nan]),
    case(QuantizeLinear(), 9 * r(2, 3, 5), np.array(0.1, np.float32), np.array(100, np.uint8)),
    case(QuantizeLinear(), 9 * r(2, 3, 5), np.array([0.1, 0.3, 2.0], np.float32), np.array([0, -3, 50], np.int8)),
    case(QuantizeLinear(axis=-1), r(2, 3, 5), np.abs(r(5)), np.zeros(5, np.uint16)),
    case(QuantizeLinear(output_dtype=3), r(2, 3, 5), SCALE),
    case(QuantizeLinear(), [0.25, 0.75, -1.0, 1e9, 63.5], SCALE, expect=u8(0, 2, 0, 255, 127)),
    case(QuantizeLinear(), [0.25, 0.75, -1.0], SCALE, np.array(1, np.uint8), expect=u8(1, 3, 0)),
    case(DequantizeLinear(), r(2, 3, 5, dtype=np.uint8), np.array(0.1, np.float32), np.array(3, np.uint8)),
    case(
        DequantizeLinear(), r(2, 3, 5, dtype=np.int8), np.array([0.1, 0.3, 2.0], np.float32), np.array([0, -3, 50], np.int8)
    ),
    case(DequantizeLinear(axis=0), r(2, 3, dtype=np.int32), np.abs(r(2))),
    case(DequantizeLinear(), u8(0, 3, 255), SCALE, np.array(3, np.uint8), expect=[-1.5, 0, 126]),
    case(DequantizeLinear(), r(2, 0, dtype=np.int8), SCALE),
    case(QuantizeLinear(axis=0), 9 * r(3, 2), np.array([0.5, 0.1, 1], np.float32), np.array([9, -3, 0], np.int16)),
    case(QuantizeLinear(block_size=2), 9 * r(2, 4, 3), np.abs(r(2, 2, 3)), r(2, 2, 3, dtype=np.uint8)),
    case(QuantizeLinear(block_size=3, axis=-1), 9 * r(2, 4), np.abs(r(2, 2)), r(2, 2, dtype=np.int8)),
    case(
        QuantizeLinear(block_size=2, axis=0),
        [3.0, -1.0, 9.0],
        [1.0, 0.5],
        np.array([1, 2], np.int8),
        expect=np.array([4, 0, 20], np.int8),
    ),
    case(
        QuantizeLinear(),
        [nan, inf, -inf, 1e38],
        SCALE,
        np.array(-3, np.int8),
        expect=np.array([-128, 127, -128, 127], np.int8),
    ),
    case(QuantizeLinear(precision=11), [1.0, 3.0], SCALE, expect=u8(2, 6), differs="newer than onnxruntime"),
    case(
        DequantizeLinear(block_size=2, axis=0),
        np.array([3, -1, 9], np.int16),
        [1.0, 0.5],
        np.array([1, 2], np.int16),
        expect=[2.0, -2.0, 3.5],
    ),
    case(DequantizeLinear(block_size=3, axis=2), r(2, 3, 7, dtype=np.uint8), np.abs(r(2, 3, 3)), r(2, 3, 3, dtype=np.uint8)),
    case(DequantizeLinear(block_size=5), r(2, 4, dtype=np.int32), np.abs(r(2, 1))),
]

CASES.append(case(OfType(of="uint8"), u8(0, 3, 255), expect=u8(0, 3, 255)))

test_cases = run_cases(CASES)


def test_messages() -> None:
    with pytest.raises(ModelError, match=r"x is int8\(2\), its zero point is uint8"):
        OfType(of="uint8").infer(Spec((2,), np.dtype(np.int8)))
    x, scale = Spec((2, 3), np.dtype(np.float32)), Spec((4,), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"scale is float32\(4\), axis 1 of x \[2, 3\] wants shape \[3\]"):
        QuantizeLinear().infer(x, scale)
    scale = Spec((2, 3), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"blocks of 2 along axis 1 of x \[2, 3\] want shape \[2, 2\]"):
        QuantizeLinear(block_size=2).infer(x, scale)
    with pytest.raises(ModelError, match="block_size is -1, must not be negative"):
        QuantizeLinear(block_size=-1).infer(x, scale)
    with pytest.raises(UnsupportedError, match="quantising to float64"):
        QuantizeLinear(output_dtype=11).infer(x, Spec((), np.dtype(np.float32)))
    with pytest.raises(UnsupportedError, match="x is float32, wanted signed integer"):
        DequantizeLinear().infer(x, Spec((), np.dtype(np.float32)))
