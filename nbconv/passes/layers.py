"""Layers of a graph that is to be trained, as exporters write them in several nodes, become one node with one gradient: less
is kept for the backward pass, and nothing is copied between them."""

from __future__ import annotations

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.ops.linear import Linear, MatMul
from nbconv.ops.shape import Transpose
from nbconv.passes.fuse import fuse_hard_swish, fuse_silu, single
from nbconv.passes.gelu import fuse_gelu


def join_layers(graph: Graph, specs: dict[str, Spec]) -> Graph:
    """The graph, whose values all have a Spec, before its gradients are taken."""
    for join in (fuse_silu, fuse_hard_swish, fuse_gelu, join_linear):
        graph = join(graph, specs, frozenset(graph.outputs))
    return graph


def join_linear(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """MatMul by a matrix that varies, which a Transpose turns, and Add of a term a column, become `Linear`."""
    makers, readers, only = graph.producers(), graph.readers(), single(graph, keep)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        a, w, *_ = (*node.inputs, "", "")
        if type(node.op) is not MatMul or specs[w].rank != 2 or specs[w].constant or specs[a].rank < 2:
            continue
        if specs[node.outputs[0]].dtype != FLOAT32:
            continue
        last, columns, inside, turned = node, specs[w].shape[1], [], False
        maker = makers.get(w)
        if w in only and maker is not None and isinstance(maker.op, Transpose) and maker.op.order(2) == (1, 0):
            inside, w, turned = [w], maker.inputs[0], True
        names = [a, w]
        if node.outputs[0] in only:
            reader = readers[node.outputs[0]][0]
            other = [n for n in reader.inputs if n != node.outputs[0]]
            if reader.op.type == "Add" and len(other) == 1 and specs[other[0]].shape == (columns,):
                inside.append(node.outputs[0])
                last, names = reader, [a, w, other[0]]
        if inside:
            y = last.outputs[0]
            replaced[y] = Node(Linear(transB=int(turned)), tuple(names), last.outputs, node.name)
            gone |= dict.fromkeys(inside, f"fused into {y}")
    if not replaced:
        return graph
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, provenance=gone)
