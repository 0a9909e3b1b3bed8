"""Matrix products."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.linear import FusedMatMul, Gemm, Linear, MatMul
from tests.check import case, run_cases, sampler

r = sampler(6)
nan, inf = np.nan, np.inf
A, B = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]
AB = [[1, 2, 0], [3, 4, 2], [5, 6, 4]]

CASES = [
    case(Gemm(), r(7, 5), r(5, 11)),
    case(Gemm(transB=1), r(7, 5), r(11, 5), r(11)),
    case(Gemm(transA=1, alpha=0.5, beta=2.0), r(5, 7), r(5, 11), r(7, 1)),
    case(Gemm(transA=1, transB=1, beta=-1.5), r(5, 7), r(11, 5), r(7, 11)),
    case(Gemm(), r(3, 4), r(4, 5), r()),
    case(Gemm(transB=1), r(1, 37), r(19, 37), r(1, 19)),
    case(Gemm(), r(3, 0), r(0, 5), r(5)),
    case(Gemm(), A, B, expect=AB),
    case(Gemm(alpha=2.0, beta=0.5), A, B, [2.0, 4.0, nan], expect=[[3, 6, nan], [7, 10, nan], [11, 14, nan]]),
    case(MatMul(), A, B, expect=AB),
    case(MatMul(), r(2, 3, 7, 5), r(3, 5, 11)),
    case(MatMul(), r(3, 1, 7, 5), r(2, 5, 4)),
    case(MatMul(), r(5), r(5, 11)),
    case(MatMul(), r(2, 7, 5), r(5)),
    case(MatMul(), r(5), r(5)),
    case(MatMul(), r(2, 0, 5), r(5, 3)),
    case(MatMul(), r(2, 3, 4, dtype=np.int32), r(4, 5, dtype=np.int32)),
    case(MatMul(), [[inf, 1.0]], [[0.0], [1.0]], expect=[[nan]]),
    case(Linear(), A, B, [1.0, nan, inf], expect=[[2, nan, inf], [4, nan, inf], [6, nan, inf]]),
    case(Linear(), r(2, 3, 7, 5), r(5, 11), r(11)),
    case(Linear(), r(2, 0, 5), r(5, 3), r(3)),
    case(
        Linear(transB=1), A, np.transpose(B).tolist(), [1.0, nan, inf], expect=[[2, nan, inf], [4, nan, inf], [6, nan, inf]]
    ),
    case(Linear(transB=1), r(2, 3, 7, 5), r(11, 5), r(11)),
    case(Linear(transB=1), r(5), r(11, 5), r(11)),
    case(Linear(transB=1), r(2, 0, 5), r(3, 5)),
    case(FusedMatMul(alpha=0.5), r(2, 7, 5), r(2, 5, 3)),
    case(FusedMatMul(alpha=2.0), A, B, expect=[[2, 4, 0], [6, 8, 4], [10, 12, 8]]),
    case(FusedMatMul(transB=1, alpha=0.125), r(2, 3, 7, 5), r(2, 3, 11, 5)),
    case(FusedMatMul(transA=1), r(2, 5, 7), r(2, 5, 11)),
    case(FusedMatMul(transA=1, transB=1), r(5, 7), r(11, 5)),
    case(FusedMatMul(transA=1), r(3, 5, 7), r(5, 4)),
    case(FusedMatMul(transB=1), r(3, 5, 7), r(4, 7)),
    case(FusedMatMul(transA=1, transBatchA=1, alpha=2.0), r(5, 2, 7), r(2, 5, 4)),
    case(FusedMatMul(transBatchB=1), r(2, 4, 5), r(5, 2, 3)),
]

test_cases = run_cases(CASES)


def f32(*shape: int) -> Spec:
    return Spec(shape, np.dtype(np.float32))


def test_messages() -> None:
    with pytest.raises(ModelError, match="A has 4 columns, B wants 5"):
        Gemm().infer(f32(3, 4), f32(5, 6))
    with pytest.raises(ModelError, match=r"C of shape \[5\] does not broadcast to \[3, 6\]"):
        Gemm().infer(f32(3, 4), f32(4, 6), f32(5))
    with pytest.raises(ModelError, match=r"A is float32.* of rank 3, wanted rank 2"):
        Gemm().infer(f32(1, 3, 4), f32(4, 6))
    with pytest.raises(ModelError, match=r"has 4 columns, B .* has 3 rows"):
        MatMul().infer(f32(2, 4), f32(3, 2))
    with pytest.raises(ModelError, match="do not broadcast"):
        MatMul().infer(f32(2, 4, 4), f32(3, 4, 4))
    with pytest.raises(ModelError, match="rank 0, wanted rank 1 or more"):
        MatMul().infer(f32(), f32(3, 4))
