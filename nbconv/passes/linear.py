"""Products with constant matrices: what is added to, or multiplied with, their columns goes into matrix and addends."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.graph.symbolic import settled
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.linear import Gemm, Linear, MatMul
from nbconv.ops.shape import Relabel, Transpose
from nbconv.passes.fold import Deferred, array, live
from nbconv.passes.fuse import ARITHMETIC, affine_map, kept, single

PRODUCTS = (Gemm, Linear, MatMul)
"""Operators whose result has a column for each of a constant matrix."""
BETWEEN = (Transpose, Relabel)
"""What may stand between a product and what is done to its columns."""


def fold_columns(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """BatchNormalization, and Mul, Div, Add and Sub with a constant a column, behind a product, or what turns its columns to
    channels or gives its rows another shape: (x·w + b)·s + t is x·(w·s) + (b·s + t)."""
    if not any(type(node.op) in PRODUCTS for node in graph.nodes):
        return graph
    only = single(graph, keep)
    constants: dict[str, Any] = dict(graph.constants)
    nodes: list[Node] = []
    at: dict[str, int] = {}
    gone: dict[str, str] = {}
    for node in graph.nodes:
        normalises = isinstance(node.op, BatchNormalization)
        folds = normalises or node.op.type in ARITHMETIC
        source = _source(node, nodes, at, only, specs, constants) if folds else ""
        if source:
            turn = nodes[at[source]] if isinstance(nodes[at[source]].op, BETWEEN) else None
            place = at[turn.inputs[0]] if turn is not None else at[source]
            axis = _columns(turn, source, specs)
            affine = affine_map(node, specs, constants, axis) if axis == 1 or (axis > 0 and not normalises) else None
            if affine is not None and affine[0] == source:
                maker = nodes[place]
                y = node.outputs[0] if turn is None else f"{maker.outputs[0]}#to#{node.outputs[0]}"
                nodes[place] = _scaled(maker, node, affine[1], affine[2], y, specs, constants)
                gone |= dict.fromkeys((source, maker.outputs[0]), f"fused into {node.outputs[0]}")
                if turn is None:
                    at[y] = place
                else:
                    specs[y] = specs[maker.outputs[0]]
                    nodes[at[source]] = Node(turn.op, (y,), node.outputs, turn.name)
                    at[y], at[node.outputs[0]] = place, at[source]
                    only.add(y)
                continue
        at[node.outputs[0]] = len(nodes)
        nodes.append(node)
    return _undone(graph.derive(nodes, constants, gone), specs, keep) if gone else graph


def _undone(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """The graph without Reshapes that only take back what another one did."""
    makers, wanted = graph.producers(), keep | set(graph.outputs)
    same: dict[str, str] = {}
    for node in graph.nodes:
        maker = makers.get(node.inputs[0]) if isinstance(node.op, Relabel) and node.outputs[0] not in wanted else None
        if (
            maker is not None
            and isinstance(maker.op, Relabel)
            and specs[maker.inputs[0]].shape == specs[node.outputs[0]].shape
        ):
            same[node.outputs[0]] = same.get(maker.inputs[0], maker.inputs[0])
    if not same:
        return graph
    nodes = [
        Node(n.op, tuple(same.get(i, i) for i in n.inputs), n.outputs, n.name)
        for n in graph.nodes
        if n.outputs[0] not in same
    ]
    found = graph.derive(nodes, provenance={name: f"the same as {source}" for name, source in same.items()})
    return found.derive(live(found, keep))


def _columns(turn: Node | None, name: str, specs: dict[str, Spec]) -> int:
    """The axis of this value on which a product's columns are: the result, or what ``turn`` makes of it; 0 for none."""
    last = specs[name].rank - 1
    if turn is None:
        return last
    if isinstance(turn.op, Transpose):
        return turn.op.order(last + 1).index(last)
    return last if last > 0 and specs[turn.inputs[0]].shape[-1] == specs[name].shape[-1] else 0


def _source(node: Node, nodes: list[Node], at: dict[str, int], only: set[str], specs: dict[str, Spec], constants) -> str:
    """The operand that is a product with a constant matrix, or what is `BETWEEN`, which nobody else reads."""
    for name in node.inputs:
        maker = nodes[at[name]] if name in only and name in at else None
        if maker is not None and isinstance(maker.op, BETWEEN):
            inner = maker.inputs[0]
            maker = nodes[at[inner]] if inner in only and inner in at else None
        if maker is not None and _is_product(maker, specs, constants):
            return name
    return ""


def _is_product(node: Node, specs: dict[str, Spec], constants: dict[str, Any]) -> bool:
    if type(node.op) not in PRODUCTS or specs[node.outputs[0]].dtype != FLOAT32 or specs[node.outputs[0]].rank < 2:
        return False
    w, *addends = (n for n in node.inputs[1:] if n)
    if w not in constants or specs[w].rank != 2 or specs[node.inputs[0]].rank < 2:
        return False
    columns = specs[w].shape[0 if _rows(node.op) else 1]
    return all(n in constants and specs[n].size == columns and specs[n].shape[-1:] == (columns,) for n in addends)


def _rows(op: Op) -> bool:
    """Whether a product's second factor lies with a row a column of the result."""
    return isinstance(op, (Gemm, Linear)) and bool(op.transB)


def _scaled(
    maker: Node, node: Node, scale: np.ndarray, shift: np.ndarray, y: str, specs: dict[str, Spec], constants: dict[str, Any]
) -> Node:
    """The product with the factors and terms of ``node``, as y."""
    x, w, *addends = maker.inputs
    op, rows = maker.op, _rows(maker.op)
    b = array(constants[addends[0]]).astype(np.float64).reshape(-1) if addends and addends[0] else 0.0
    if isinstance(op, Gemm):
        b, op = b * op.beta, Gemm(**{**op.attributes(), "beta": 1.0})
    else:
        op = Linear(transB=int(rows))
    if not np.array_equal(scale, np.ones_like(scale)):
        matrix, factor = settled(constants[w]), scale.astype(np.float32)
        w = f"{w}#{node.op!r}({','.join(n for n in node.inputs if n in constants)})"
        factor = factor[:, None] if rows else factor
        constants[w] = Deferred(tuple(matrix.shape), matrix.dtype, lambda: array(matrix) * factor)
        specs[w] = Spec(tuple(matrix.shape), matrix.dtype, None, True)
    c = kept(f"{x}#to#{node.outputs[0]}#b", (b * scale + shift).astype(np.float32), specs, constants)
    return Node(op, (x, w, c), (y,), maker.name)


def turn_sums(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """Add of a product whose columns were turned to channels, and x: x is turned to lie as the product, whose kernel then
    adds it, and the sum is turned. Where x lies channels last, nothing moves."""
    if not any(type(node.op) in PRODUCTS for node in graph.nodes):
        return graph
    makers, only = graph.producers(), single(graph, keep)
    nodes: list[Node] = []
    gone: dict[str, str] = {}
    for node in graph.nodes:
        for name, x in (node.inputs, node.inputs[::-1]) if node.op.type == "Add" else ():
            turn = makers.get(name)
            if name not in only or turn is None or not isinstance(turn.op, Transpose) or name == x:
                continue
            u, order = turn.inputs[0], turn.op.order(specs[name].rank)
            last = len(order) - 1
            if u not in only or u not in makers or type(makers[u].op) not in PRODUCTS or specs[x].constant:
                continue
            if order != (0, last, *range(1, last)) or specs[x].shape != specs[name].shape or specs[x].dtype != FLOAT32:
                continue
            back, other = makers.get(x), f"{x}#turned"
            if back is not None and isinstance(back.op, Transpose) and back.op.order(len(order)) == order:
                other = back.inputs[0]
            elif other not in specs:
                nodes.append(Node(Transpose(perm=(0, *range(2, len(order)), 1)), (x,), (other,), other))
                specs[other] = specs[u]._replace(value=None)
            total = f"{node.outputs[0]}#columns"
            specs[total] = specs[u]
            nodes.append(Node(node.op, (u, other), (total,), node.name))
            makers[node.outputs[0]] = node = Node(turn.op, (total,), node.outputs, turn.name)
            gone[name] = f"turned behind {node.outputs[0]}"
            break
        nodes.append(node)
    return graph.derive([n for n in nodes if n.outputs[0] not in gone], provenance=gone) if gone else graph
