"""Reductions, ArgMax and ArgMin, softmax."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec, spec_of
from nbconv.ops.reduce import (
    ArgMax,
    ArgMin,
    ReduceL1,
    ReduceL2,
    ReduceLogSum,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    ReduceSumSquare,
)
from nbconv.ops.softmax import Hardmax, LogSoftmax, Softmax
from tests.check import case, run_cases, sampler

r = sampler(7)
nan, inf = np.nan, np.inf
ALL = [
    ReduceMean,
    ReduceSum,
    ReduceMax,
    ReduceMin,
    ReduceProd,
    ReduceL1,
    ReduceL2,
    ReduceSumSquare,
    ReduceLogSum,
    ReduceLogSumExp,
]
NOTHING = {
    ReduceSum: 0,
    ReduceMax: -inf,
    ReduceMin: inf,
    ReduceProd: 1,
    ReduceL1: 0,
    ReduceL2: 0,
    ReduceSumSquare: 0,
    ReduceLogSum: -inf,
    ReduceLogSumExp: -inf,
}
X = [[1.0, -2.0], [3.0, 4.0]]

CASES = [
    *(case(op(), np.abs(r(2, 3, 7, 5)), [2, -1]) for op in ALL),
    *(case(op(keepdims=0), np.abs(r(2, 3, 7, 5)), [1]) for op in ALL),
    *(case(op(keepdims=0), np.abs(r(2, 3, 5))) for op in ALL),
    *(case(op(), np.abs(r(2, 3)), np.zeros(0, np.int64)) for op in ALL),
    *(case(op(), r()) for op in ALL if op is not ReduceLogSum),
    *(case(op(), r(2, 0, 3), [1], expect=np.full((2, 1, 3), e, np.float32)) for op, e in NOTHING.items()),
    *(case(op(keepdims=0), [[nan, 1.0]], [1], expect=[nan]) for op in ALL),
    case(ReduceMean(), X, [1], expect=[[-0.5], [3.5]]),
    case(ReduceMean(), [1, 2, -4, -1], expect=[0]),
    case(ReduceMean(), [-3, -4], expect=[-3]),
    case(ReduceSum(keepdims=0), X, [0], expect=[4, 2]),
    case(ReduceSum(noop_with_empty_axes=1), X, expect=X),
    case(ReduceSum(), r(3, 4, dtype=np.int32), [0]),
    case(ReduceMax(keepdims=0), X, [1], expect=[1, 4]),
    case(ReduceMax(keepdims=0), [[True, False], [False, False]], [1], expect=[True, False]),
    case(ReduceMin(keepdims=0), [[True, False], [True, True]], [1], expect=[False, True]),
    case(ReduceMin(keepdims=0), X, [1], expect=[-2, 3]),
    case(ReduceMax(), np.zeros((0, 2), np.int32), [0], expect=np.full((1, 2), -(2**31), np.int32)),
    case(ReduceProd(keepdims=0), X, expect=np.float32(-24)),
    case(ReduceL1(keepdims=0), X, [1], expect=[3, 7]),
    case(ReduceL2(keepdims=0), X, [1], expect=[5**0.5, 5]),
    case(ReduceSumSquare(keepdims=0), X, [1], expect=[5, 25]),
    case(ReduceSumSquare(noop_with_empty_axes=1), X, expect=[[1, 4], [9, 16]]),
    case(ReduceLogSum(keepdims=0), X, [0], expect=[np.log(4), np.log(2)]),
    case(ReduceLogSumExp(keepdims=0), [[1000.0, 1000.0], [-inf, 0.0]], [1], expect=[1000.6931, 0]),
    *(case(op(axis=a, keepdims=k), r(2, 3, 7, 5)) for op in (ArgMax, ArgMin) for a in (1, -1) for k in (0, 1)),
    *(case(op(axis=1, select_last_index=last), r(4, 9, dtype=np.int32)) for op in (ArgMax, ArgMin) for last in (0, 1)),
    case(ArgMax(axis=1, keepdims=0), [[2.0, 5.0, 5.0]], expect=[1]),
    case(ArgMax(axis=1, keepdims=0, select_last_index=1), [[2.0, 5.0, 5.0]], expect=[2]),
    case(ArgMin(axis=1, select_last_index=1), [[2.0, 2.0, 5.0]], expect=[[1]]),
    case(ArgMax(), r(3, 0)),
    *(case(op(axis=a), 5 * r(2, 3, 7, 5)) for op in (Softmax, LogSoftmax, Hardmax) for a in (-1, 1, 0)),
    *(case(op(), r(3, 0)) for op in (Softmax, LogSoftmax, Hardmax)),
    case(Softmax(), [[0.0, 0.0], [1000.0, 0.0], [-inf, 0.0]], expect=[[0.5, 0.5], [1, 0], [0, 1]]),
    case(Softmax(), [[nan, 0.0]], expect=[[nan, nan]]),
    case(LogSoftmax(), [[0.0, 0.0], [1000.0, 0.0]], expect=[[-0.6931472, -0.6931472], [0, -1000]]),
    case(Hardmax(), [[1.0, 3.0, 3.0]], expect=[[0, 1, 0]]),
]

test_cases = run_cases(CASES)


def test_messages() -> None:
    x = Spec((2, 3), np.dtype(np.float32))
    with pytest.raises(ModelError, match="axes entry 2 is out of range for rank 2"):
        ReduceSum().infer(x, spec_of(np.array([2])))
    with pytest.raises(ModelError, match="name an axis twice"):
        ReduceSum().infer(x, spec_of(np.array([1, -1])))
    with pytest.raises(ModelError, match="axes is computed while running; nbconv needs it when planning"):
        ReduceSum().infer(x, Spec((1,), np.dtype(np.int64)))
    with pytest.raises(ModelError, match="axis 0 is empty"):
        ArgMax().infer(Spec((0, 3), x.dtype))
    with pytest.raises(ModelError, match="axis 5 is out of range"):
        Softmax(axis=5).infer(x)
