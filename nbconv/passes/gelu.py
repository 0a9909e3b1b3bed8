"""The Gaussian error linear unit, as exporters that lack it write it, becomes one op."""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING

from nbconv.graph import FLOAT32, Graph, Node, Spec
from nbconv.ops.activation import Gelu
from nbconv.passes.fuse import scalar, single

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Polynomial = dict[int, float]
"""Coefficients by power."""
INNER: dict[str, tuple[str, Polynomial]] = {
    "Erf": ("none", {1: sqrt(0.5)}),
    "Tanh": ("tanh", {1: sqrt(2 / pi), 3: 0.044715 * sqrt(2 / pi)}),
}
"""By the function of x that it is made of: `Gelu.approximate`, and what that function is taken of."""
CLOSE = 1e-6
"""How far a coefficient may be from its own, as part of it: products of constants are rounded to float32."""
DEPTH = 8
"""Most nodes, one behind the other, that a polynomial is made of."""


def fuse_gelu(graph: Graph, specs: dict[str, Spec], keep: frozenset[str]) -> Graph:
    """x · (0.5 + 0.5 · f(p(x))), with f the error function or tanh and factors in any order, becomes one op."""
    starts = [node for node in graph.nodes if node.op.type in INNER and not node.op.domain]
    if not starts:
        return graph
    within = _Within(graph, specs, keep)
    replaced: dict[str, Node] = {}
    gone: dict[str, str] = {}
    for start in starts:
        found = within.gelu(start)
        if found is None:
            continue
        x, last, inside = found
        y = last.outputs[0]
        replaced[y] = Node(Gelu(approximate=INNER[start.op.type][0]), (x,), last.outputs, last.name)
        gone |= dict.fromkeys(within.unread(inside, last), f"fused into {y}")
    if not replaced:
        return graph
    nodes = [replaced.get(n.outputs[0], n) for n in graph.nodes if n.outputs[0] not in gone]
    return graph.derive(nodes, provenance=gone)


class _Within:
    """A graph in which such expressions are looked for."""

    def __init__(self, graph: Graph, specs: Mapping[str, Spec], keep: frozenset[str]) -> None:
        self.graph, self.specs = graph, specs
        self.makers, self.readers, self.only = graph.producers(), graph.readers(), single(graph, keep)
        self.wanted = keep | set(graph.outputs)

    def gelu(self, start: Node) -> tuple[str, Node, set[str]] | None:
        """(x, the node that gives x · Φ(x), the values between them) of the expression that has this node."""
        node, value, inside = start, start.outputs[0], {start.outputs[0]}
        shift, slope, x = 0.0, 1.0, ""  # what was met so far: (shift + slope · f) · (1 or x)
        if self.specs[value].dtype != FLOAT32:
            return None
        while not (x and _near(shift, 0.5) and _near(slope, 0.5)):
            if value not in self.only:
                return None
            node = self.readers[value][0]
            other = next((n for n in node.inputs if n != value), "")
            c, kind = scalar(self.graph, self.specs, other), node.op.type
            if node.op.domain or len(node.inputs) != 2 or not other:
                return None
            if kind == "Add" and c is not None and not x:
                shift += c
            elif kind == "Mul" and c is not None:
                shift, slope = shift * c, slope * c
            elif kind == "Div" and c and node.inputs[0] == value:
                shift, slope = shift / c, slope / c
            elif kind == "Mul" and not x:
                found = self.argument(start, other)
                if found is None:
                    return None
                x, factor, mine = found
                shift, slope, inside = shift * factor, slope * factor, inside | mine
            else:
                return None
            value = node.outputs[0]
            inside.add(value)
        if self.specs[value].rank != self.specs[x].rank:
            return None
        return x, node, inside - {value}

    def argument(self, start: Node, name: str) -> tuple[str, float, set[str]] | None:
        """(x, c, the values between) where the value is c · x, and the function is taken of the polynomial of x that it
        wants."""
        for x, factor, inside in self.multiples(name):
            found = self.polynomial(start.inputs[0], x, inside)
            if found is not None and _same(found, INNER[start.op.type][1]):
                return x, factor, inside
        return None

    def multiples(self, name: str) -> Iterator[tuple[str, float, set[str]]]:
        """(x, c, the values between) where the value is c · x: itself, and what it is a constant times."""
        yield name, 1.0, set()
        node = self.makers.get(name)
        if node is not None and not node.op.domain and node.op.type in ("Mul", "Div"):
            for x, other in (node.inputs, node.inputs[::-1]):
                c = scalar(self.graph, self.specs, other)
                if c and (node.op.type == "Mul" or x == node.inputs[0]):
                    yield x, c if node.op.type == "Mul" else 1 / c, {name}

    def polynomial(self, name: str, x: str, inside: set[str], depth: int = DEPTH) -> Polynomial | None:
        """The value as a polynomial of x, None where it is none. ``inside`` gets the values that it is made of."""
        if name == x:
            return {1: 1.0}
        c = scalar(self.graph, self.specs, name)
        if c is not None:
            return {0: c}
        node = self.makers.get(name)
        if node is None or node.op.domain or len(node.inputs) != 2 or depth == 0:
            return None
        left, right = (self.polynomial(n, x, inside, depth - 1) for n in node.inputs)
        found = _combined(node.op.type, left, right)
        if found is not None:
            inside.add(name)
        return found

    def unread(self, inside: set[str], last: Node) -> set[str]:
        """Those of the values that nobody reads once the expression is one node."""
        found = inside - self.wanted
        while True:
            still = {name for name in found if all(r is last or r.outputs[0] in found for r in self.readers.get(name, ()))}
            if still == found:
                return found
            found = still


def _combined(kind: str, left: Polynomial | None, right: Polynomial | None) -> Polynomial | None:
    """Two polynomials added or multiplied, or the left one raised to, or divided by, a constant."""
    if left is None or right is None:
        return None
    if kind == "Add":
        return {k: left.get(k, 0.0) + right.get(k, 0.0) for k in {*left, *right}}
    if kind == "Pow" and right in ({0: 2.0}, {0: 3.0}):
        square = _product(left, left)
        return square if right[0] == 2 else _product(square, left)
    if kind == "Mul":
        return _product(left, right)
    if kind == "Div" and [*right] == [0] and right[0]:
        return {k: v / right[0] for k, v in left.items()}
    return None


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    found: Polynomial = {}
    for i, a in left.items():
        for j, b in right.items():
            found[i + j] = found.get(i + j, 0.0) + a * b
    return found


def _same(found: Polynomial, want: Polynomial) -> bool:
    return all(_near(found.get(k, 0.0), want.get(k, 0.0)) for k in {*found, *want})


def _near(value: float, want: float) -> bool:
    return abs(value - want) <= CLOSE * abs(want)
