"""Trilu, Det."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import inf, nan

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops.matrix import Det, DetGrad, Trilu
from tests.check import case, run_cases, sampler

r = sampler(16)
F32 = np.dtype(np.float32)
SINGULAR = np.array([[[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]]], np.float32)

CASES = [
    case(Trilu(), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], expect=[[1, 2, 3], [0, 5, 6]]),
    case(Trilu(upper=0), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], expect=[[1, 0, 0], [4, 5, 0]]),
    case(Trilu(), [[nan, 2.0], [inf, nan]], 1, expect=[[0, 2], [0, 0]]),
    case(Trilu(upper=0), r(2, 3, 4, 5), 2),
    case(Trilu(), r(3, 4, 3), -1),
    case(Trilu(), r(3, 4), 100),
    case(Trilu(upper=0), r(3, 4), -(2**62)),
    case(Trilu(), r(2, 0, 3)),
    case(Trilu(upper=0), r(5, 4, dtype=np.int64), [1]),
    case(Det(), [[1.0, 2.0], [3.0, 4.0]], expect=-2),
    case(Det(), r(2, 3, 4, 4)),
    case(Det(), r(5, 1, 1)),
    case(Det(), r(2, 0, 0), expect=[1, 1]),
    case(Det(), SINGULAR, expect=[0]),
    case(DetGrad(), [2.0], [[[1.0, 2.0], [3.0, 4.0]]], expect=[[[8, -6], [-4, 2]]]),
    case(DetGrad(), [1.0], SINGULAR, expect=[[[4, 4, -4], [-2, -2, 2], [0, 0, 0]]]),
]
test_cases = run_cases(CASES)


def test_kernels_do_a_triangle() -> None:
    graph = Graph([Node(Trilu(upper=0), ("x",), ("y",))], {"x": Spec((2, 5, 5), F32)}, {"y": None}, {})
    plan = Model(graph).plan({"x": (2, 5, 5)})
    assert [step.kernel for step in plan.steps] == ["logic.where"]


def test_what_does_not_fit() -> None:
    with pytest.raises(ModelError, match="wanted square matrices"):
        Det().infer(Spec((2, 3, 4), F32))
    with pytest.raises(ModelError, match="wanted rank 2 or more"):
        Trilu().infer(Spec((2,), F32))
