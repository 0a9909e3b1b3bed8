"""Layers of a graph that is to be trained, as exporters write them in several nodes, become one node with one gradient: less
is kept for the backward pass, and nothing is copied between them."""

from __future__ import annotations

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.ops.linear import Linear, MatMul
from nbconv.ops.shape import Reshape, Transpose
from nbconv.ops.standardize import GroupNormalization, InstanceNormalization
from nbconv.passes.fold import array
from nbconv.passes.fuse import fuse_hard_swish, fuse_silu, single
from nbconv.passes.gelu import fuse_gelu


def join_layers(graph: Graph, specs: dict[str, Spec]) -> Graph:
    """The graph, whose values all have a Spec, before its gradients are taken."""
    for join in (fuse_silu, fuse_hard_swish, fuse_gelu, join_linear, join_group_norm):
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


def join_group_norm(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Reshape to groups, InstanceNormalization without a scale, Reshape back, Mul and Add of values a channel, become
    GroupNormalization."""
    if not any(isinstance(node.op, InstanceNormalization) for node in graph.nodes):
        return graph
    makers, readers, only = graph.producers(), graph.readers(), single(graph, keep)
    constants = dict(graph.constants)
    replaced: dict[str, list[Node]] = {}
    gone: dict[str, str] = {}

    def after(node: Node, kind: str) -> Node | None:
        reader = readers[node.outputs[0]][0] if node.outputs[0] in only else None
        return reader if reader is not None and reader.op.type == kind and not reader.op.domain else None

    def channels(node: Node, x: str, shape: tuple[int, ...]) -> str:
        """The other operand, where it has one value a channel."""
        other = [n for n in node.inputs if n != x]
        c, *size = shape[1:]
        fits = len(other) == 1 and specs[other[0]].shape in ((c, *[1] * len(size)), (1, c, *[1] * len(size)))
        return other[0] if fits and specs[node.outputs[0]].shape == shape else ""

    for node in graph.nodes:
        before = makers.get(node.inputs[0]) if isinstance(node.op, InstanceNormalization) else None
        if before is None or before.op.type != "Reshape" or not all(n in constants for n in node.inputs[1:]):
            continue
        back = after(node, "Reshape")
        if back is None or before.outputs[0] not in only or specs[node.outputs[0]].dtype != FLOAT32:
            continue
        x, groups = specs[before.inputs[0]].shape, specs[node.inputs[0]].shape[1]
        if len(x) < 3:  # GroupNormalization wants channels to have places
            continue
        plain = all(np.array_equal(array(constants[n]), np.full(groups, v)) for n, v in zip(node.inputs[1:], (1, 0)))
        if not plain or specs[back.outputs[0]].shape != x or specs[node.inputs[0]].shape[0] != x[0] or x[1] % groups:
            continue
        times = after(back, "Mul")
        plus = after(times, "Add") if times is not None else None
        if times is None or plus is None:
            continue
        scale, shift = channels(times, back.outputs[0], x), channels(plus, times.outputs[0], x)
        if not scale or not shift:
            continue
        y, flat = plus.outputs[0], f"{node.outputs[0]}/channels"
        constants[flat] = np.array([x[1]], np.int64)
        specs[flat] = Spec((1,), constants[flat].dtype, constants[flat], True)
        names = tuple(f"{name}/of/{y}" for name in (scale, shift))
        specs.update({name: Spec((x[1],), FLOAT32) for name in names})
        op = GroupNormalization(num_groups=groups, epsilon=node.op.epsilon)  # type: ignore[attr-defined]
        replaced[y] = [
            *(Node(Reshape(), (source, flat), (name,), name) for source, name in zip((scale, shift), names, strict=True)),
            Node(op, (before.inputs[0], *names), (y,), node.name),
        ]
        inside = (before.outputs[0], node.outputs[0], back.outputs[0], times.outputs[0])
        gone |= dict.fromkeys(inside, f"fused into {y}")
    if not replaced:
        return graph
    nodes = [m for n in graph.nodes if n.outputs[0] not in gone for m in replaced.get(n.outputs[0], [n])]
    return graph.derive(nodes, constants, gone)
