"""Convolutions whose sums must not turn negative.

Where no weight is negative, sums of what is not negative are not either, and something behind them may count on it: of a
small negative number, which Winograd's filtering may make of them, a root is NaN. Such convolutions are summed by the
definition. What the input holds is not known when planning, and does not matter.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nbconv.graph import Graph, Node
from nbconv.graph.op import Op
from nbconv.graph.symbolic import settled
from nbconv.ops.convolution import Convolution
from nbconv.ops.inner import Fused
from nbconv.passes.fold import array

SENSITIVE = frozenset(
    ("Sqrt", "Log", "Pow", "Div", "Reciprocal", "ReduceLogSum", "Sign", "Floor", "Mod",
     "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
)  # fmt: skip
"""Operators whose results for a small negative number are far from those for 0, or for a small positive one."""
MONOTONE = frozenset(
    ("Abs", "Add", "Mul", "Sum", "Mean", "Max", "Min", "Relu", "LeakyRelu", "PRelu", "Clip", "Cast", "Where", "Pad",
     "Resize", "AveragePool", "GlobalAveragePool", "LpPool", "GlobalLpPool", "GlobalMaxPool", "ReduceSum", "ReduceMean",
     "ReduceMax", "ReduceMin", "BatchNormalization", "Conv", "ConvTranspose", "MatMul", "Gemm")
)  # fmt: skip
"""Operators whose results may be negative, or too small, because what they read is."""


def keep_signs(graph: Graph) -> Graph:
    """The graph in which convolutions with weights of 0 and above `keeps_sign`, where an operator behind them depends on
    it."""
    behind: set[str] = set()
    """values whose sign matters"""
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if _depends(node, behind):
            behind.update(n for n in node.inputs if n)
        nodes.append(_marked(node, graph) if _after(node, behind) else node)
    return graph if all(a is b for a, b in zip(reversed(nodes), graph.nodes, strict=True)) else graph.derive(nodes[::-1])


def _parts(op: Op) -> tuple[Op, ...]:
    """The operators of a node, in order."""
    return (op.inner, *op.tail) if isinstance(op, Fused) else (op,)


def _passes(op: Op) -> bool:
    """Whether signs go through it."""
    return op.type in MONOTONE or op.keeps_quantisation or op.moves or op.rearranges


def _reaches(ops: tuple[Op, ...], node: Node, behind: set[str]) -> bool:
    """Whether what goes through these operators of the node has its sign looked at, there or behind it."""
    for op in ops:
        if op.type in SENSITIVE or op.control:
            return True
        if not _passes(op):
            return False
    return not behind.isdisjoint(node.outputs)


def _depends(node: Node, behind: set[str]) -> bool:
    return _reaches(_parts(node.op), node, behind)


def _after(node: Node, behind: set[str]) -> bool:
    """Whether the node is a convolution of constant weights whose results have their signs looked at."""
    parts = _parts(node.op)
    return isinstance(parts[0], Convolution) and _reaches(parts[1:], node, behind)


def _marked(node: Node, graph: Graph) -> Node:
    """The node, whose convolution keeps signs if all of its weights do."""
    w = settled(graph.constants.get(node.inputs[1]))
    if w is None or not _positive(w):
        return node
    conv = copy.copy(_parts(node.op)[0])
    conv.keeps_sign = True  # type: ignore[attr-defined]
    op = node.op
    if isinstance(op, Fused):
        conv = Fused(conv, op.tail, op.fused, op.residual, op.affine)
    return Node(conv, node.inputs, node.outputs, node.name)


def _positive(w: Any) -> bool:
    """Whether no element is negative: the first ones mostly tell."""
    if isinstance(w, np.ndarray) and w.size and (w.reshape(-1)[:64] < 0).any():
        return False
    return bool((array(w) >= 0).all())
