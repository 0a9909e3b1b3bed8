"""Activation functions."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.ops.activation import Celu, Elu, Gelu, Mish, Selu, Sigmoid, Softplus, Softsign, Tanh
from nbconv.ops.rectifier import Clip, HardSigmoid, HardSwish, LeakyRelu, PRelu, Relu, Shrink, ThresholdedRelu
from tests.check import case, run_cases, sampler

r = sampler(2)
inf, nan = np.inf, np.nan

ALL = [
    Relu(),
    LeakyRelu(),
    LeakyRelu(alpha=0.3),
    ThresholdedRelu(),
    ThresholdedRelu(alpha=-0.2),
    Shrink(),
    Shrink(bias=0.25, lambd=1.0),
    Elu(),
    Elu(alpha=2.5),
    Selu(),
    Selu(alpha=1.2, gamma=0.7),
    Celu(),
    Celu(alpha=0.4),
    Sigmoid(),
    HardSigmoid(),
    HardSigmoid(alpha=0.7, beta=0.1),
    HardSwish(),
    Tanh(),
    Softplus(),
    Softsign(),
    Mish(),
    Gelu(),
    Gelu(approximate="tanh"),
]

CASES = [
    *(case(op, 3 * r(2, 3, 7, 5)) for op in ALL),
    *(case(op, r(3, 0)) for op in ALL),
    *(case(op, r()) for op in ALL),
    case(Relu(), [-1.0, -0.0, 2.0, nan, inf, -inf], expect=[0, 0, 2, nan, inf, 0]),
    case(Relu(), np.array([-1, 0, 2], np.int32), expect=np.array([0, 0, 2], np.int32)),
    case(LeakyRelu(alpha=0.5), [-1.0, 0.0, 2.0, nan], expect=[-0.5, 0, 2, nan]),
    case(ThresholdedRelu(), [1.0, 1.5, -3.0, nan], expect=[0, 1.5, 0, 0]),
    case(Shrink(), [-1.0, -0.5, 0.0, 0.6, nan], expect=[-1, 0, 0, 0.6, 0]),
    case(Shrink(bias=0.25, lambd=1.0), [-2.0, 0.5, 3.0, -inf], expect=[-1.75, 0, 2.75, -inf]),
    case(Elu(alpha=2.0), [-inf, -1.0, 3.0, nan], expect=[-2, -1.2642411, 3, nan]),
    case(Selu(), [-inf, 1.0, 0.0, nan], expect=[-1.7580993, 1.050701, 0, nan]),
    case(Celu(alpha=2.0), [-2.0, 3.0, 500.0], expect=[-1.2642411, 3, 500]),
    case(Sigmoid(), [0.0, 1.0, -1e4, 1e4, -inf, inf, nan], expect=[0.5, 0.7310586, 0, 1, 0, 1, nan]),
    case(HardSigmoid(), [-3.0, 1.0, 4.0, nan], expect=[0, 0.7, 1, nan]),
    case(HardSwish(), [-4.0, 1.0, 4.0], expect=[0, 2 / 3, 4]),
    case(Tanh(), [0.0, -1e4, inf, nan], expect=[0, -1, 1, nan]),
    case(Softplus(), [0.0, 1e4, -1e4, nan], expect=[0.6931472, 1e4, 0, nan], rtol=1e-7),
    case(Softsign(), [0.0, 1.0, -3.0, 1e30, nan], expect=[0, 0.5, -0.75, 1, nan]),
    case(Mish(), [0.0, 1.0, 1e4], expect=[0, 0.8650984, 1e4], rtol=1e-8),
    case(Gelu(), [0.0, 1.0, -1.0], expect=[0, 0.8413447, -0.1586553]),
    case(Gelu(approximate="tanh"), [0.0, 1.0, -1.0], expect=[0, 0.841192, -0.158808]),
    case(PRelu(), r(2, 3, 7, 5), r(3, 1, 1)),
    case(PRelu(), r(2, 3, 7, 5), r(1)),
    case(PRelu(), r(2, 3, 7, 5), r(2, 3, 7, 5)),
    case(PRelu(), [[-1.0, 2.0, nan], [-4.0, 0.0, -inf]], [2.0, 3.0, 0.5], expect=[[-2, 2, nan], [-8, 0, -inf]]),
    case(Clip(), r(2, 3, 5), np.float32(-0.5).reshape(()), np.float32(0.5).reshape(())),
    case(Clip(), [-1.0, nan, 9.0], None, np.array(6, np.float32), expect=[-1, nan, 6]),
    case(Clip(), [-1.0, nan, 9.0], np.array(0, np.float32), expect=[0, nan, 9]),
    case(Clip(), [-1.0, 1.0], np.array(3, np.float32), np.array(2, np.float32), expect=[2, 2]),
    case(Clip(), [-1, 5, 9], np.array(0), np.array(6), expect=[0, 5, 6]),
    case(Clip(), r(4)),
]

test_cases = run_cases(CASES)


def test_messages() -> None:
    x = Spec((2, 3, 4, 4), np.dtype(np.float32))
    with pytest.raises(ModelError, match=r"slope of shape \[3\] does not broadcast to \[2, 3, 4, 4\]"):
        PRelu().infer(x, Spec((3,), x.dtype))
    with pytest.raises(ModelError, match=r"max is float32\(2\), wanted a scalar"):
        Clip().infer(x, None, Spec((2,), x.dtype))
    with pytest.raises(ModelError, match="approximate is 'fast'"):
        Gelu(approximate="fast").infer(x)
