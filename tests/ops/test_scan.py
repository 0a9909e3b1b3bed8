"""CumSum, CumProd, ReverseSequence."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.scan import CumProd, CumProdGrad, CumSum, ReverseSequence
from tests.check import case, run_cases, sampler

r = sampler(14)
NEWER = "it has no CumProd, which is of opset 26"
LENS = np.array([3, 0, 1, 2], np.int64)

CASES = [
    case(CumSum(), [1.0, 2.0, 3.0], np.array(0), expect=[1, 3, 6]),
    case(CumSum(exclusive=1), [1.0, 2.0, 3.0], np.array(0), expect=[0, 1, 3]),
    case(CumSum(reverse=1), [1.0, 2.0, 3.0], np.array(0), expect=[6, 5, 3]),
    case(CumSum(exclusive=1, reverse=1), [1.0, 2.0, 3.0], np.array(0), expect=[5, 3, 0]),
    case(CumSum(), [1.0, np.inf, 2.0, -np.inf, 3.0], np.array(0), expect=[1, np.inf, np.inf, np.nan, np.nan]),
    case(CumSum(exclusive=1), [np.nan, 1.0], np.array(0), expect=[0, np.nan]),
    case(CumSum(), r(2, 37, 3, 5), np.array(1)),
    case(CumSum(reverse=1), r(3, 7, 33), np.array(-2)),
    case(CumSum(exclusive=1, reverse=1), r(3, 7, 33), np.array(0, np.int32)),
    case(CumSum(exclusive=1), r(5, 4, 70), np.array(-1)),
    case(CumSum(exclusive=1), r(3, 1, 2), np.array(1)),
    case(CumSum(), r(3, 0, 2), np.array(1)),
    case(CumSum(exclusive=1), r(3, 0, 2), np.array(1)),
    case(CumSum(exclusive=1), [[1, 2, 3], [4, 5, 6]], np.array(1), expect=[[0, 1, 3], [0, 4, 9]]),
    case(CumSum(), np.array([2**31 - 1, 1], np.int32), np.array(0), expect=np.array([2**31 - 1, -(2**31)], np.int32)),
    case(CumSum(), r(4, 5, dtype=np.float64), np.array([0])),
    case(CumProd(), [1.0, 2.0, 3.0], np.array(0), expect=[1, 2, 6], differs=NEWER),
    case(CumProd(exclusive=1), [1.0, 2.0, 3.0], np.array(0), expect=[1, 1, 2], differs=NEWER),
    case(CumProd(reverse=1), [1.0, 2.0, 3.0], np.array(0), expect=[6, 6, 3], differs=NEWER),
    case(CumProd(exclusive=1, reverse=1), [1.0, 2.0, 3.0], np.array(0), expect=[6, 3, 1], differs=NEWER),
    case(CumProd(), [2.0, 0.0, 3.0], np.array(0), expect=[2, 0, 0], differs=NEWER),
    case(CumProd(reverse=1), r(2, 6, 3), np.array(1), differs=NEWER),
    case(CumProd(exclusive=1), r(2, 3, 6), np.array(-1), differs=NEWER),
    case(CumProd(exclusive=1, reverse=1), r(5, 4), np.array(0), differs=NEWER),
    case(CumProd(), [[1, 2, 3], [4, 5, 6]], np.array(1), expect=[[1, 2, 6], [4, 20, 120]], differs=NEWER),
    case(CumProdGrad(), [1.0, 1.0, 1.0], [2.0, 0.0, 5.0], np.array(0), expect=[1, 12, 0]),
    case(CumProdGrad(exclusive=1, reverse=1), [1.0, 1.0, 1.0], [2.0, 3.0, 5.0], np.array(0), expect=[0, 5, 4]),
    case(ReverseSequence(), [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]], LENS,
         expect=[[8, 1, 2, 7], [4, 5, 6, 3], [0, 9, 10, 11]]),
    case(ReverseSequence(), r(4, 4, 3), np.array([4, 3, 2, 1])),
    case(ReverseSequence(batch_axis=0, time_axis=1), r(4, 5, 2, 3), np.array([1, 5, 2, 4])),
    case(ReverseSequence(batch_axis=0, time_axis=1), r(2, 5, dtype=np.uint8), np.array([1, 5])),
]  # fmt: skip
test_cases = run_cases(CASES)


def test_what_does_not_fit() -> None:
    x, lengths = Spec((3, 4, 2), np.dtype(np.float32)), Spec((4,), np.dtype(np.int64))
    with pytest.raises(ModelError, match=r"axis 3 is out of range for rank 3"):
        CumSum().infer(x, Spec((), np.dtype(np.int64), np.array(3)))
    with pytest.raises(ModelError, match="batch_axis is 0, time_axis 2"):
        ReverseSequence(batch_axis=0, time_axis=2).infer(x, lengths)
    with pytest.raises(ModelError, match=r"sequence_lens are 1 to 4, x has 3 steps"):
        ReverseSequence().infer(x, lengths._replace(value=np.array([1, 2, 3, 4])))
    with pytest.raises(ModelError, match="wants shape"):
        ReverseSequence().infer(x, Spec((3,), np.dtype(np.int64)))
