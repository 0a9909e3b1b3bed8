"""Quantisation in a graph that is to be trained: QuantizeLinear and the DequantizeLinear behind it become one node whose
gradient goes straight through."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import kind_of
from nbconv.ops.fake_quantize import FakeQuantize, divisor
from nbconv.ops.quantize import DequantizeLinear, Quantization, QuantizeLinear
from nbconv.ops.quantize import requantised as quantised


def pairs(graph: Graph) -> list[Node]:
    """The DequantizeLinear nodes that undo a QuantizeLinear to integers, by the same constants."""
    makers = {n.outputs[0]: n for n in graph.nodes if isinstance(n.op, QuantizeLinear)}
    return [n for n in graph.nodes if n.inputs and n.inputs[0] in makers and _undoes(n, makers[n.inputs[0]], graph)]


def quantises(node: Node, graph: Graph) -> bool:
    """Whether a DequantizeLinear's constant is of integers, and its scales are constants, so that it can be made again."""
    if not isinstance(node.op, DequantizeLinear) or any(n and n not in graph.constants for n in node.inputs):
        return False
    return _whole(graph.constants[node.inputs[0]].dtype)


def requantised(value: np.ndarray, node: Node, graph: Graph) -> np.ndarray:
    """The integers of which the DequantizeLinear ``node`` makes what is nearest to ``value``."""
    assert isinstance(node.op, Quantization)
    integers, scale = (graph.constants[n] for n in node.inputs[:2])
    zero = _constant(node, 2, graph)
    kind = np.float64 if integers.dtype.itemsize > 2 else np.float32
    by = node.op.along(scale.astype(kind), value.shape)
    found = quantised(
        value.astype(kind) / divisor(by), 0 if zero is None else node.op.along(zero, value.shape), integers.dtype
    )
    found = np.where(divisor(by) == by, found, integers)
    found.flags.writeable = False
    return found


def straight_through(graph: Graph, trained: Iterable[str]) -> Graph:
    """The graph with `FakeQuantize` where values that depend on ``trained`` are quantised and dequantised. What
    DequantizeLinear made of a constant, and is trained, is quantised where it is read."""
    trained = set(trained)
    paired = {id(n) for n in pairs(graph)}
    made, active = graph.producers(), set(trained)
    constants, nodes, renamed = dict(graph.constants), [], {}

    def fake(node: Node, quantiser: Node, x: str, y: str, integers: np.dtype) -> Node:
        scale, zero = (*quantiser.inputs[1:3], "")[:2]
        if not zero:  # it says the integers' type
            zero = f"{y}/zero"
            constants[zero] = np.zeros(graph.constants[scale].shape, integers)
        op = node.op
        assert isinstance(op, Quantization)
        return Node(FakeQuantize(axis=op.axis, block_size=op.block_size), (x, scale, zero), (y,), node.name)

    for node in graph.nodes:
        if not trained.isdisjoint(node.outputs):
            name = node.outputs[0]
            if quantises(node, graph):
                renamed[name] = f"{name}/quantised"
                active.add(renamed[name])
                nodes.append(fake(node, node, name, renamed[name], graph.constants[node.inputs[0]].dtype))
            nodes.append(node)
            continue
        inputs = tuple(renamed.get(n, n) for n in node.inputs)
        node = node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name)
        if not active.isdisjoint(node.inputs):
            active.update(n for n in node.outputs if n)
            if id(node) in paired:
                quantiser = made[node.inputs[0]]
                assert isinstance(quantiser.op, QuantizeLinear)
                x, y = renamed.get(quantiser.inputs[0], quantiser.inputs[0]), node.outputs[0]
                node = fake(node, quantiser, x, y, quantiser.op.target(_constant(quantiser, 2, graph)))
        nodes.append(node)
    return graph.derive(nodes, constants) if len(active) > len(trained) else graph


def _whole(dtype: np.dtype) -> bool:
    """Whether quantisation is to integers, not to floats of few bits."""
    return kind_of(dtype) in "iu" or dtype.name.startswith(("int", "uint"))


def _undoes(dq: Node, q: Node, graph: Graph) -> bool:
    """Whether what one node makes integers is made of them again by the other."""
    a, b = q.op, dq.op
    if not isinstance(a, QuantizeLinear) or not isinstance(b, DequantizeLinear) or a.precision or b.output_dtype:
        return False
    if any(n and n not in graph.constants for n in (*q.inputs[1:], *dq.inputs[1:])):
        return False
    zeros = [_constant(n, 2, graph) for n in (q, dq)]
    if not _whole(a.target(zeros[0])):
        return False
    scales = [graph.constants[n.inputs[1]] for n in (q, dq)]
    zeros = [np.zeros(s.shape, np.int8) if z is None else z for z, s in zip(zeros, scales, strict=True)]
    same = all(x.shape == y.shape and np.array_equal(x, y) for x, y in (scales, zeros))
    return same and (scales[0].size == 1 or (a.axis, a.block_size) == (b.axis, b.block_size))


def _constant(node: Node, i: int, graph: Graph) -> np.ndarray | None:
    return graph.constants.get(node.inputs[i]) if len(node.inputs) > i else None
