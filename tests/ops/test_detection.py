"""What losses of detectors choose."""

from __future__ import annotations

import numpy as np
import pytest

from nbconv.errors import ModelError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.builder import Builder
from nbconv.model import Model
from nbconv.ops.detection import HardNegatives, Held
from nbconv.ops.pointwise import Mul
from nbconv.passes.autodiff import backprop
from tests.check import case, run_cases, sampler

r = sampler(41)
rng = np.random.default_rng(42)
nan, inf = np.nan, np.inf

CASES = [
    case(HardNegatives(), r(3, 40), rng.integers(-1, 3, (3, 40)) * (rng.random((3, 40)) < 0.2)),
    case(HardNegatives(ratio=1), r(2, 7).round(), rng.integers(-1, 2, (2, 7))),
    case(HardNegatives(least=5), r(2, 9), np.zeros((2, 9), np.int64)),
    case(HardNegatives(ratio=1), [[1.0, 2.0, 3.0, 4.0, 5.0]], np.array([[0, 2, 0, 0, -1]]), expect=[[0, 1, 0, 1, 0]]),
    case(HardNegatives(ratio=2), [[2.0, 2.0, 9.0, 2.0, -0.0]], np.array([[0, 0, 1, 0, 0]]), expect=[[1, 1, 1, 0, 0]]),
    case(HardNegatives(), [[1.0, 2.0]], np.array([[0, 0]]), expect=[[0, 0]]),
    case(HardNegatives(least=2), [[nan, inf, -inf, nan]], np.array([[0, 0, 0, 0]]), expect=[[0, 1, 1, 0]]),
    case(HardNegatives(least=3), [[nan, inf, nan, -inf]], np.array([[0, 0, 0, 0]]), expect=[[1, 1, 0, 1]]),
    case(HardNegatives(least=9), [[nan, 1.0]], np.array([[0, 0]]), expect=[[1, 1]]),
    case(HardNegatives(), np.zeros((2, 0), np.float32), np.zeros((2, 0), np.int64)),
    case(Held(), r(2, 3)),
]  # fmt: skip

test_cases = run_cases(CASES)


def test_held_has_no_gradient() -> None:
    """d/dx of x · held(x) is held(x)."""
    ports = {"x": Spec((3,), np.dtype(np.float32))}
    to = Builder(Graph([], ports, {}, {}), ports)
    y = to.add(Mul(), "x", to.add(Held(), "x"))
    graph, _, found = backprop(to.graph((y,)), to.specs, {y: to.constant(np.ones(3, np.float32))}, ["x"])
    graph.outputs = dict.fromkeys(found.values())
    x = np.array([1.0, -2.0, 3.0], np.float32)
    np.testing.assert_array_equal(Model(graph).run({"x": x})[found["x"]], x)


def test_messages() -> None:
    f32, i64 = np.dtype(np.float32), np.dtype(np.int64)
    with pytest.raises(ModelError, match=r"labels are int64\(2, 4\), the loss is float32\(2, 3\): wanted one shape"):
        HardNegatives().infer(Spec((2, 3), f32), Spec((2, 4), i64))
    with pytest.raises(ModelError, match="ratio is -1"):
        HardNegatives(ratio=-1).infer(Spec((2, 3), f32), Spec((2, 3), i64))


def test_held_keeps_the_node_before() -> None:
    """It is a name for its input where nothing is differentiated."""
    node = Node(Held(), ("x",), ("y",))
    assert node.op.bypass((Spec((3,), np.dtype(np.float32)),))
