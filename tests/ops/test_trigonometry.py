"""Functions of the circle and the hyperbola."""

from __future__ import annotations

from math import pi

from numpy import inf, nan

from nbconv.ops.trigonometry import Acos, Acosh, Asin, Asinh, Atan, Atanh, Cosh, Sinh, Tan
from tests.check import case, run_cases, sampler

r = sampler(14)
CASES = [
    case(Tan(), [0.0, pi / 4, nan], expect=[0, 1, nan]),
    case(Tan(), r(3, 5)),
    case(Sinh(), [0.0, 1.0, inf, -inf, 100.0], expect=[0, 1.1752012, inf, -inf, inf]),
    case(Sinh(), r(3, 5)),
    case(Cosh(), [0.0, 1.0, -1.0, inf, nan], expect=[1, 1.5430806, 1.5430806, inf, nan]),
    case(Cosh(), r(2, 3, 4)),
    case(Asin(), [0.0, 1.0, -1.0, 2.0, nan], expect=[0, pi / 2, -pi / 2, nan, nan]),
    case(Asin(), [-0.9, -0.5, 0.1, 0.25, 0.8]),
    case(Acos(), [0.0, 1.0, -1.0, 2.0, nan], expect=[pi / 2, 0, pi, nan, nan]),
    case(Acos(), [-0.9, -0.5, 0.1, 0.25, 0.8]),
    case(Atan(), [0.0, 1.0, inf, -inf, nan], expect=[0, pi / 4, pi / 2, -pi / 2, nan]),
    case(Atan(), r(3, 5)),
    case(Asinh(), [0.0, 1.0, -1.0, inf], expect=[0, 0.8813736, -0.8813736, inf]),
    case(Asinh(), r(3, 5)),
    case(Acosh(), [1.0, 2.0, inf, 0.0], expect=[0, 1.3169579, inf, nan]),
    case(Acosh(), [1.5, 2.0, 7.0, 100.0]),
    case(Atanh(), [0.0, 0.5, 1.0, -1.0, 2.0, nan], expect=[0, 0.5493061, inf, -inf, nan, nan]),
    case(Atanh(), [-0.9, -0.5, 0.1, 0.25, 0.8]),
]
test_cases = run_cases(CASES)
