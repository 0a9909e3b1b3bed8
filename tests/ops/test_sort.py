"""TopK."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec, spec_of
from nbconv.ops.sort import TopK
from tests.check import case, run_cases, sampler

r = sampler(41)
nan, inf = np.nan, np.inf
TYPES = ("i1", "u1", "i2", "u2", "f2", "i4", "u4", "i8", "u8", "f8")
INTEGERS = ("i1", "u1", "i8", "u8")
MIXED = [[3.0, 1.0, 4.0, 1.0, 5.0], [2.0, 2.0, 2.0, -inf, inf]]
NANS = [1.0, nan, inf, nan, -inf]


def k(count: int) -> np.ndarray:
    return np.array([count])


def extremes(dtype: str) -> np.ndarray:
    return np.array([np.iinfo(dtype).max, 2, np.iinfo(dtype).min, 3], dtype)


CASES = [
    case(TopK(), MIXED, k(2), outputs=2, expect=([[5, 4], [inf, 2]], [[4, 2], [4, 0]])),
    case(TopK(largest=0), MIXED, k(3), outputs=2, expect=([[1, 1, 3], [-inf, 2, 2]], [[1, 3, 0], [3, 0, 1]])),
    case(TopK(axis=0), MIXED, k(1), outputs=2, expect=([[3, 2, 4, 1, inf]], [[0, 1, 0, 0, 1]])),
    case(TopK(), [7.0, 7.0, -0.0, 0.0, 7.0], k(5), outputs=2, expect=([7, 7, 7, -0.0, 0], [0, 1, 4, 2, 3])),
    case(TopK(largest=0), [0.0, -0.0, 7.0, 7.0], k(4), outputs=2, expect=([0, -0.0, 7, 7], [0, 1, 2, 3])),
    case(TopK(), NANS, k(3), outputs=2, expect=([nan, nan, inf], [1, 3, 2]), differs="compares NaN with nothing"),
    case(TopK(largest=0), NANS, k(4), outputs=2, expect=([-inf, 1, inf, nan], [4, 0, 2, 1]), differs="as above"),
    case(TopK(), [1.0, 3.0, 2.0], k(0), outputs=2, expect=(np.zeros(0, np.float32), np.zeros(0, np.int64))),
    case(TopK(axis=1), r(2, 0, 3), k(0), outputs=2),
    case(TopK(axis=1), r(0, 4, 3), k(2), outputs=2),
    case(TopK(sorted=0), r(3, 9), k(4), outputs=2, differs="another order"),
    *(case(TopK(axis=a, largest=i), r(5, 4, 3, 6), k(3), outputs=2) for a in (0, 1, 2, -1) for i in (0, 1)),
    *(case(TopK(axis=1, largest=i), r(2, 50, 3), k(50), outputs=2) for i in (0, 1)),
    *(case(TopK(largest=i), r(3, 40, dtype=t), k(7), outputs=2) for t in TYPES for i in (0, 1)),
    *(case(TopK(), extremes(t), k(2), outputs=2, expect=(extremes(t)[[0, 3]], [0, 3])) for t in INTEGERS),
    *(case(TopK(largest=0), extremes(t), k(1), outputs=2, expect=(extremes(t)[[2]], [2])) for t in INTEGERS),
]

test_cases = run_cases(CASES)


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        (TopK(), (spec_of(r(3, 4)), spec_of(k(5))), r"k is 5, axis 1 of x float32\(3, 4\) has 4"),
        (TopK(axis=0), (spec_of(r(3, 4)), spec_of(k(-1))), "k is -1"),
        (TopK(axis=2), (spec_of(r(3, 4)), spec_of(k(1))), "axis 2 is out of range"),
        (TopK(), (spec_of(r(3, 4)), spec_of(np.array([1, 2]))), "wanted a scalar"),
        (TopK(), (spec_of(r(3, 4)), Spec((1,), np.dtype(np.int64))), "k is computed while running"),
        (TopK(), (spec_of(np.array([True])), spec_of(k(1))), "x is bool"),
    ],
)
def test_messages(op: TopK, given: tuple[Spec, Spec], message: str) -> None:
    with pytest.raises((ModelError, UnsupportedError), match=message):
        op.infer(*given)
