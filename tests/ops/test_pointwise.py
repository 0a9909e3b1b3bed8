"""Arithmetic, comparisons, logic, casts."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Spec, spec_of
from nbconv.ops import lookup
from nbconv.ops.cast import Cast, CastLike
from nbconv.ops.dropout import Dropout
from nbconv.ops.logic import And, Equal, Greater, GreaterOrEqual, IsInf, IsNaN, Less, LessOrEqual, Not, Or, Where, Xor
from nbconv.ops.nary import Max, Mean, Min, Sum
from nbconv.ops.pointwise import (
    Abs,
    Add,
    Ceil,
    Cos,
    Div,
    Erf,
    Exp,
    Floor,
    Identity,
    Log,
    Mod,
    Mul,
    Neg,
    Reciprocal,
    Round,
    Sign,
    Sin,
    Sqrt,
    Sub,
)
from nbconv.ops.power import Pow
from tests.check import case, run_cases, sampler

r = sampler(1)
inf, nan = np.inf, np.nan
ODD = np.array([nan, inf, -inf, 0.0, -0.0, 1.5, -1.5, 2.5], np.float32)

UNARY = [Abs, Neg, Exp, Log, Sqrt, Reciprocal, Floor, Ceil, Round, Sign, Sin, Cos, Erf, Identity, IsNaN, IsInf]
BINARY = [Add, Sub, Mul, Div, Pow, Equal, Greater, GreaterOrEqual, Less, LessOrEqual]
NARY = [Max, Min, Sum, Mean]

CASES = [
    *(case(op(), r(2, 3, 7, 5)) for op in UNARY),
    *(case(op(), ODD) for op in UNARY),
    *(case(op(), r(0, 3)) for op in UNARY),
    *(case(op(), r()) for op in UNARY),
    case(Abs(), [-3, 0, 2], expect=[3, 0, 2]),
    case(Neg(), [-3, 0, 2], expect=[3, 0, -2]),
    case(Exp(), [0.0, 1.0, -inf, 200.0], expect=[1, 2.7182817, 0, inf]),
    case(Log(), [1.0, 0.0, -1.0], expect=[0, -inf, nan]),
    case(Sqrt(), [4.0, -1.0], expect=[2, nan]),
    case(Reciprocal(), [4.0, -0.0, inf], expect=[0.25, -inf, 0]),
    case(Floor(), [-1.5, 1.5], expect=[-2, 1]),
    case(Ceil(), [-1.5, 1.5], expect=[-1, 2]),
    case(Round(), [0.5, 1.5, 2.5, -0.5, -2.5], expect=[0, 2, 2, 0, -2]),
    case(Sign(), [-3, 0, 2], expect=[-1, 0, 1]),
    case(Sin(), [0.0, np.pi / 2], expect=[0, 1]),
    case(Cos(), [0.0, np.pi], expect=[1, -1]),
    case(Erf(), [0.0, 1.0, -inf], expect=[0, 0.84270079, -1]),
    case(Identity(), [True, False], expect=[True, False]),
    case(IsNaN(), ODD, expect=[True] + [False] * 7),
    case(IsInf(detect_negative=0), ODD, expect=[False, True] + [False] * 6),
    case(IsInf(detect_positive=0), ODD, expect=[False, False, True] + [False] * 5),
    case(Not(), [True, False], expect=[False, True]),
    case(Not(), r(2, 3, 5, dtype=bool)),
    *(case(op(), r(2, 3, 7, 5), r(3, 1, 5)) for op in BINARY),
    *(case(op(), r(3, 1), r(2, 1, 5)) for op in BINARY),
    *(case(op(), r(), r(2, 3)) for op in BINARY),
    *(case(op(), r(), r()) for op in BINARY),
    *(case(op(), r(2, 0, 3), r(3)) for op in BINARY),
    *(case(op(), ODD[:, None], ODD) for op in BINARY),
    *(case(op(), r(3, 4, dtype=np.int64), r(4, dtype=np.int64)) for op in BINARY if op not in (Div, Pow)),
    case(Add(), [100, 1], [27, 2], expect=[127, 3]),
    case(Sub(), [1.0, inf], [3.0, inf], expect=[-2, nan]),
    case(Mul(), [0.0, 2.0], [inf, 3.0], expect=[nan, 6]),
    case(Div(), [1.0, 0.0, -1.0], [0.0, 0.0, 0.0], expect=[inf, nan, -inf]),
    case(Div(), [7, -7, 7, -7, 6, -1], [2, 2, -2, -2, -3, 5], expect=[3, -3, -3, 3, -2, 0]),
    case(Div(), np.array([7, 255], np.uint8), np.array([2, 16], np.uint8), expect=[3, 15]),
    case(Pow(), [2.0, -8.0, 4.0], [3.0, 2.0, 0.5], expect=[8, 64, 2]),
    case(Pow(), [2, 3], [3, 2], expect=[8, 9]),
    case(Pow(), [2.0, 3.0], [3, -1], expect=[8, 1 / 3]),
    case(Pow(), [9, 16], [0.5, 0.25], expect=[3, 2]),
    case(Mod(), [-4, 7, 5, 4, -7, 8], [2, -3, 8, -2, 3, 5], expect=[0, -2, 5, 0, 2, 3]),
    case(Mod(fmod=1), [-4, 7, 5, 4, -7, 8], [2, -3, 8, -2, 3, 5], expect=[0, 1, 5, 0, -1, 3]),
    case(Mod(fmod=1), [-4.3, 7.2, 5.0], [2.1, -3.4, 8.0], expect=[-0.1, 0.4, 5.0], rtol=1e-6),
    case(
        Mod(),
        [-4.0, 7.0, 5.5, -1.0, nan, inf],
        [3.0, -4.0, 0.0, inf, 2.0, 2.0],
        expect=[2, -1, nan, inf, nan, nan],
        differs="at opset 21 floating point wants fmod=1",
    ),
    case(Mod(), [-4.3, 7.2, 5.0], [2.1, -3.4, 8.0], expect=[2.0, -3.0, 5.0], differs="at opset 21 it wants fmod=1"),
    case(Equal(), [nan, 1.0], [nan, 1.0], expect=[False, True]),
    case(Equal(), [True, False], [True, True], expect=[True, False]),
    case(Greater(), [nan, 1.0, 2.0], [1.0, 1.0, 1.0], expect=[False, False, True]),
    case(GreaterOrEqual(), [nan, 1.0, 2.0], [1.0, 1.0, 1.0], expect=[False, True, True]),
    case(Less(), [nan, 1.0, 0.0], [1.0, 1.0, 1.0], expect=[False, False, True]),
    case(LessOrEqual(), [nan, 1.0, 0.0], [1.0, 1.0, 1.0], expect=[False, True, True]),
    case(And(), [[True], [False]], [True, False], expect=[[True, False], [False, False]]),
    case(Or(), [[True], [False]], [True, False], expect=[[True, True], [True, False]]),
    case(Xor(), [[True], [False]], [True, False], expect=[[False, True], [True, False]]),
    *(case(op(), r(2, 3, 7, 5), r(7, 1), r(2, 1, 1, 1)) for op in NARY),
    *(case(op(), r(3, 5)) for op in NARY),
    *(case(op(), r(3, 0), r(1, 1)) for op in NARY),
    case(Max(), [nan, 1.0, inf], [1.0, nan, -inf], expect=[nan, nan, inf]),
    case(Min(), [nan, 1.0, inf], [1.0, nan, -inf], expect=[nan, nan, -inf]),
    case(Max(), [3, 1], [2, 2], [0, 5], expect=[3, 5]),
    case(Min(), [3, 1], [2, 2], [0, 5], expect=[0, 1]),
    case(Sum(), [1.0, 2.0], [3.0, 4.0], [5.0], expect=[9, 11]),
    case(Mean(), [1.0, 2.0], [3.0, 4.0], [5.0], expect=[3, 11 / 3]),
    case(Where(), [[True], [False]], [1.0, nan], [5.0, 6.0], expect=[[1, nan], [5, 6]]),
    *(case(op(), r(2, 1, 3, 1, 2, 1), r(1, 2, 1, 3, 1, 2)) for op in (Greater, LessOrEqual)),
    case(Greater(), r(3, 5000), r(3, 5000)),
    case(And(), r(3, 5000, dtype=bool), r(5000, dtype=bool)),
    case(Where(), r(2, 1, 3, 1, 2, 1, dtype=bool), r(1, 2, 1, 3, 1, 2), r()),
    case(Where(), r(3, 1, 5, dtype=bool), r(2, 1, 7, 1), r(5)),
    case(Where(), r(3, 1, dtype=bool), r(2, 1, 5, dtype=np.int64), r(1, 3, 1, dtype=np.int64)),
    case(Cast(to=6), [-1.9, 1.9, 0.0], expect=np.array([-1, 1, 0], np.int32)),
    case(Cast(to=9), [nan, 0.5, 0.0, -0.0], expect=[True, True, False, False]),
    case(Cast(to=1), [True, False], expect=[1.0, 0.0]),
    case(Cast(to=1), r(2, 3, 5, 7, dtype=np.uint8)),
    case(Cast(to=1), r(2, 3, 5, 7, dtype=np.int64)),
    case(Cast(to=10), [1.0, 1e6], expect=np.array([1, inf], np.float16)),
    case(Cast(to=2), [1, 255, 256], expect=np.array([1, 255, 0], np.uint8)),
    case(Cast(to=11), r(2, 3, 5)),
    case(CastLike(), [-1.9, 1.9], np.zeros((), np.int64), expect=[-1, 1]),
    case(CastLike(), r(2, 3), np.zeros((), np.float64)),
    case(Dropout(), r(2, 3, 5), outputs=2),
    case(Dropout(), [1.0, nan], np.float32(0.5).reshape(()), np.array(False), outputs=2, expect=([1, nan], [True, True])),
]

test_cases = run_cases(CASES)


def f32(*shape: int) -> Spec:
    return Spec(shape, np.dtype(np.float32))


def test_messages() -> None:
    with pytest.raises(ModelError, match=r"shapes \[2, 3\] and \[4\] do not broadcast"):
        Add().infer(f32(2, 3), f32(4))
    with pytest.raises(ModelError, match="a is float32, b is int64: wanted one type"):
        Add().infer(f32(2), spec_of(np.array([1, 2])))
    with pytest.raises(UnsupportedError, match="x is int64, wanted floating point"):
        Exp().infer(spec_of(np.array([1])))
    with pytest.raises(ModelError, match="fmod is 2, wanted 0 or 1"):
        Mod(fmod=2).infer(f32(2), f32(2))
    with pytest.raises(UnsupportedError, match=r"element type 14 \(complex64\)"):
        Cast(to=14).infer(f32(2))
    with pytest.raises(ModelError, match="Cast lacks its attribute 'to'"):
        Cast()
    with pytest.raises(ModelError, match="more than"):
        Add().infer(f32(1 << 21, 1), f32(1 << 21))


def test_bases_are_no_operators() -> None:
    for name in ("Unary", "Binary", "Nary", "Reduce", "Pool", "Op"):
        with pytest.raises(UnsupportedError, match=f"operator {name} is not supported"):
            lookup(name)
