"""Backprop of a graph that backprop made: its names are new ones, its gradients those of the second order."""

from __future__ import annotations

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.model import Model
from nbconv.ops import lookup
from nbconv.passes.autodiff import backprop

F32 = np.dtype(np.float32)


def test_second_order() -> None:
    """y = x³: the first derivative is 3x², the second 6x, and no value is made twice."""
    mul = lookup("Mul")
    nodes = [Node(mul(), ("x", "x"), ("a",)), Node(mul(), ("a", "x"), ("y",))]
    spec = Spec((4,), F32)
    specs = dict.fromkeys(("x", "dy", "a", "y"), spec)
    graph = Graph(nodes, {"x": spec, "dy": spec}, {"y": None}, {})
    graph, specs, first = backprop(graph, specs, {"y": "dy"}, ["x"])
    graph, specs, second = backprop(graph, specs, {first["x"]: "dy"}, ["x"])
    made = [name for node in graph.nodes for name in node.outputs]
    assert len(set(made)) == len(made)
    x = np.array([-2, 0, 1, 3], np.float32)
    got = Model(graph).run({"x": x, "dy": np.ones_like(x)}, [first["x"], second["x"]])
    np.testing.assert_array_equal(got[first["x"]], 3 * x**2)
    np.testing.assert_array_equal(got[second["x"]], 6 * x)
