"""BitShift and the bitwise operators."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.bits import BitShift, BitwiseAnd, BitwiseNot, BitwiseOr, BitwiseXor
from tests.check import case, run_cases, sampler

r = sampler(15)
U8 = np.uint8


def u8(*values: int) -> np.ndarray:
    return np.array(values, U8)


CASES = [
    case(BitShift(direction="LEFT"), u8(1, 3, 128, 255), u8(1, 2, 1, 4), expect=[2, 12, 0, 240]),
    case(BitShift(direction="RIGHT"), u8(16, 4, 1, 255), u8(1, 2, 3, 4), expect=[8, 1, 0, 15]),
    case(BitShift(direction="LEFT"), u8(1, 3), u8(8, 200), expect=[0, 0], differs="C++ leaves such shifts open"),
    case(BitShift(direction="RIGHT"), [-8, -1, 8, -8, 5], [1, 3, 2, 64, -1], expect=[-4, -1, 2, -1, 0],
         differs="it has no signed integers"),
    case(BitShift(direction="LEFT"), [-8, 1, 3], [1, 63, -2], expect=[-16, -(2**63), 0], differs="it has no int64"),
    case(BitShift(direction="RIGHT"), r(3, 4, dtype=np.uint64), r(4, dtype=np.uint64)),
    case(BitwiseAnd(), u8(12, 255), u8(10, 15), expect=[8, 15]),
    case(BitwiseAnd(), r(3, 4, dtype=np.int32), r(4, dtype=np.int32)),
    case(BitwiseOr(), u8(12, 240), u8(10, 15), expect=[14, 255]),
    case(BitwiseOr(), r(3, 4, dtype=np.int64), r(4, dtype=np.int64)),
    case(BitwiseXor(), u8(12, 255), u8(10, 15), expect=[6, 240]),
    case(BitwiseXor(), r(3, 1, dtype=np.int16), r(4, dtype=np.int16)),
    case(BitwiseNot(), u8(0, 1, 255), expect=[255, 254, 0]),
    case(BitwiseNot(), [0, -1, 7], expect=[-1, 0, -8]),
]  # fmt: skip
test_cases = run_cases(CASES)


def test_what_does_not_fit() -> None:
    with pytest.raises(ModelError, match="direction is 'UP'"):
        BitShift(direction="UP").infer(Spec((1,), np.dtype(U8)), Spec((1,), np.dtype(U8)))
    with pytest.raises(ModelError, match="a is float32, wanted signed integer or unsigned integer"):
        BitwiseAnd().infer(Spec((1,), np.dtype(np.float32)), Spec((1,), np.dtype(np.float32)))
