"""Products of two variables, as attention has them: numbers that scale a factor or the result, and a factor's turn, become
the product's own."""

from __future__ import annotations

from math import isfinite

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.ops.linear import FusedMatMul, MatMul
from nbconv.ops.shape import Transpose
from nbconv.passes.fuse import scalar, single


def fuse_scaled_products(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """MatMul with Mul or Div by a number before or behind it, and with a second factor whose last two axes are exchanged:
    alpha · A · Bᵀ, which packs B so."""
    if not any(type(node.op) is MatMul for node in graph.nodes):
        return graph
    makers, readers, only = graph.producers(), graph.readers(), single(graph, keep)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}

    def times(node: Node | None) -> tuple[str, float] | None:
        """(x, c) where the node computes c · x."""
        if node is None or node.op.domain or node.op.type not in ("Mul", "Div"):
            return None
        y = specs[node.outputs[0]]
        for x, other in (node.inputs, node.inputs[::-1]):
            c = scalar(graph, specs, other)
            if c and isfinite(c) and isfinite(1 / c) and specs[x].rank == y.rank and y.dtype == FLOAT32:
                if node.op.type == "Mul":
                    return x, c
                if x == node.inputs[0]:
                    return x, 1 / c
        return None

    for node in graph.nodes:
        if type(node.op) is not MatMul or specs[node.outputs[0]].dtype != FLOAT32:
            continue
        if any(specs[n].constant or specs[n].rank < 2 for n in node.inputs):
            continue
        alpha, turned, inside, last, factors = 1.0, False, [], node, list(node.inputs)
        for i in (0, 1):
            while factors[i] in only and factors[i] not in replaced:  # a number behind one product is before the next
                maker = makers.get(factors[i])
                found = times(maker)
                if found is not None:
                    inside.append(factors[i])
                    factors[i], alpha = found[0], alpha * found[1]
                elif i == 1 and maker is not None and _exchanges(maker, specs):
                    inside.append(factors[i])
                    factors[i], turned = maker.inputs[0], not turned
                else:
                    break
        while last.outputs[0] in only:
            reader = readers[last.outputs[0]][0]
            found = times(reader)
            if found is None or found[0] != last.outputs[0]:
                break
            inside.append(last.outputs[0])
            last, alpha = reader, alpha * found[1]
        if inside and isfinite(alpha) and alpha:
            y = last.outputs[0]
            op = FusedMatMul(alpha=alpha, transB=int(turned)) if turned or alpha != 1 else MatMul()
            replaced[y] = Node(op, tuple(factors), last.outputs, node.name)
            gone |= dict.fromkeys(inside, f"fused into {y}")
    if not replaced:
        return graph
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, provenance=gone)


def _exchanges(node: Node, specs: dict[str, Spec]) -> bool:
    """Whether it exchanges the last two axes, and no others."""
    if not isinstance(node.op, Transpose):
        return False
    *before, one, two = range(specs[node.inputs[0]].rank)
    return node.op.order(len(before) + 2) == (*before, two, one)
