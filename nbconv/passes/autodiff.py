"""Backprop as a graph pass: from a graph and the value to differentiate, that graph with the nodes that compute gradients.

Each op says by hand how (`Op.gradient`, under its forward): it names nodes of other ops. What comes out is a Graph like any
other, so the same passes, plan and kernels do it. Gradients are summed here and nowhere else: kernels overwrite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nbconv.errors import ModelError, UnsupportedError
from nbconv.graph import Graph, Node, Spec
from nbconv.graph.builder import Builder
from nbconv.graph.op import Op


class MissingGradients(UnsupportedError):
    """Nodes on the way of a gradient that have none: ``nodes`` lists (node, op, why)."""

    def __init__(self, nodes: list[tuple[str, str, str]]) -> None:
        super().__init__("no gradient for " + "; ".join(f"{name} ({type}): {why}" for name, type, why in nodes))
        self.nodes = nodes


class _Backward:
    """`nbconv.graph.backward.Backward` for one node."""

    def __init__(self, node: Node, build: _Build) -> None:
        self.node, self._build = node, build
        self.inputs: tuple[Any, ...] = tuple(build.specs[n] if n else None for n in node.inputs)
        self.outputs: tuple[Any, ...] = tuple(build.specs[n] if n else None for n in node.outputs)

    def has(self, i: int) -> bool:
        return i < len(self.node.inputs) and bool(self.node.inputs[i])

    def wants(self, i: int) -> bool:
        return self.has(i) and self.node.inputs[i] in self._build.active

    def rows(self, i: int) -> tuple[int, ...]:
        return self._build.rows.get(self.node.inputs[i], ()) if self._build.narrow else ()

    def taken(self, x: str, places: tuple[int, ...], axis: int) -> str:
        return self._build.taken(x, places, axis)

    def x(self, i: int = 0) -> str:
        return self.node.inputs[i]

    def y(self, i: int = 0) -> str:
        return self._build.output(self.node, i)

    def dy(self, i: int = 0) -> Any:
        return self._build.total(self.node.outputs[i]) if i < len(self.node.outputs) and self.node.outputs[i] else None

    def spec(self, name: str) -> Spec:
        return self._build.specs[name]

    def add(self, op: Op, *inputs: str) -> str:
        return self._build.add(op, *inputs)

    def add_many(self, op: Op, count: int, *inputs: str) -> tuple[str, ...]:
        return self._build.add_many(op, count, *inputs)

    def constant(self, value: Any) -> str:
        return self._build.constant(value)

    def reduced(self, dy: str, i: int) -> str:
        from nbconv.ops.reduce import ReduceSum
        from nbconv.ops.shape import Reshape

        spec = self.inputs[i]
        assert spec is not None
        shape = self.spec(dy).shape
        missing = len(shape) - spec.rank
        axes = [k for k, d in enumerate(shape) if k < missing or (spec.shape[k - missing] == 1 and d != 1)]
        if axes:
            dy = self.add(ReduceSum(keepdims=1), dy, self.constant(np.array(axes, np.int64)))
        return self.add(Reshape(), dy, self.constant(np.array(spec.shape, np.int64))) if missing else dy


class _Build(Builder):
    """The graph under construction, and what is known of its gradients."""

    def __init__(self, graph: Graph, specs: Mapping[str, Spec], wrt: Iterable[str]) -> None:
        super().__init__(graph, specs, "d/")
        self.place = {id(node): k for k, node in enumerate(self.nodes)}
        self.parts: dict[str, list[str]] = {}
        self.totals: dict[str, str] = {}
        self.active = set(wrt)
        self.rows: Mapping[str, tuple[int, ...]] = {}
        self.narrow = True
        for node in graph.nodes:
            if any(n in self.active for n in node.inputs):
                self.active.update(
                    n for n, s in zip(node.outputs, (self.specs.get(n) for n in node.outputs)) if s and s.dtype.kind == "f"
                )

    def output(self, node: Node, i: int) -> str:
        """The name of a node's output i, given to it now where it had none."""
        place = self.place[id(node)]
        current = self.nodes[place]
        if i < len(current.outputs) and current.outputs[i]:
            return current.outputs[i]
        names = [*current.outputs, *[""] * (i + 1 - len(current.outputs))]
        names[i] = self._name(f"{names[0]}/{i}")
        specs = current.infer(tuple(self.specs[n] if n else None for n in current.inputs))
        self.specs[names[i]] = specs[i]
        self.nodes[place] = Node(current.op, current.inputs, tuple(names), current.name)
        return names[i]

    def shape(self, name: str) -> tuple[int, ...]:
        """That of a value's gradient."""
        shape = self.specs[name].shape
        return (len(self.rows[name]), *shape[1:]) if name in self.rows else shape

    def only(self, name: str, part: str) -> str:
        """Of a part of a value's gradient that has all places those that are wanted."""
        whole = name in self.rows and self.specs[part].shape == self.specs[name].shape
        return self.taken(part, self.rows[name], 0) if whole else part

    def taken(self, x: str, places: tuple[int, ...], axis: int) -> str:
        """These places of x along an axis; x itself where there are none."""
        from nbconv.ops.gather import Gather

        return self.add(Gather(axis=axis), x, self.constant(np.array(places, np.int64))) if places else x

    def total(self, name: str) -> str | None:
        """The gradient of a value: the sum of what its readers gave, the last reader's first, as they are met."""
        from nbconv.ops.pointwise import Add

        if name not in self.totals:
            parts = self.parts.get(name, [])
            if not parts:
                return None
            total = parts[0]
            for part in parts[1:]:
                total = self.add(Add(), total, part)
            self.totals[name] = total
        return self.totals[name]


def backprop(
    graph: Graph,
    specs: Mapping[str, Spec],
    of: Mapping[str, str],
    wrt: Iterable[str],
    rows: Mapping[str, tuple[int, ...]] | None = None,
    narrow: bool = True,
) -> tuple[Graph, dict[str, Spec], dict[str, str]]:
    """(the graph with gradient nodes behind its own, the Specs of all its values, the gradient's name for each of ``wrt``).

    ``of`` maps values to their gradients' names, which must be known values (a constant 1 for a scalar loss): what
    is computed is Σ ``of`` · d value / d ``wrt``. ``specs`` holds all values of the graph, all dimensions known; ``wrt``
    names inputs, constants or values between. Those on which nothing depends are missing from the result. ``rows`` names,
    of some of ``wrt``, the places along their first axis that are wanted, fewer than all, in rising order: their gradients
    have these alone. ``narrow``: ops that can compute no others (on a GPU they lack kernels). Raises MissingGradients, an
    UnsupportedError that names every node on the way that has no gradient.
    """
    wrt = list(wrt)
    build = _Build(graph, specs, wrt)
    build.rows, build.narrow = rows or {}, narrow
    for name, gradient in of.items():
        build.parts.setdefault(name, []).append(gradient)
    missing: list[tuple[str, str, str]] = []
    for node in reversed(graph.nodes):
        if not any(n and (n in build.parts) for n in node.outputs) or not any(n in build.active for n in node.inputs if n):
            continue
        try:
            found = node.op.gradient(_Backward(node, build))
        except UnsupportedError as error:
            missing.append((node.name, node.op.type, str(error)))
            for name in filter(build.active.__contains__, node.inputs):  # go on, to find the others
                nothing = np.broadcast_to(np.zeros((), build.specs[name].dtype), build.specs[name].shape)
                build.parts.setdefault(name, []).append(build.constant(nothing))
            continue
        if len(found) != len(node.inputs):
            raise TypeError(f"{node.op.type}.gradient gave {len(found)} for {len(node.inputs)} inputs")
        for name, part in zip(node.inputs, found, strict=True):
            if name and part is not None and name in build.active:
                part, shape = build.only(name, part), build.shape(name)
                if build.specs[part].shape != shape:
                    raise TypeError(f"{node.op.type}.gradient of {build.specs[name]} is {build.specs[part]}")
                build.parts.setdefault(name, []).append(part)
    if missing:
        raise MissingGradients(missing)
    found = {name: total for name in wrt if (total := build.total(name)) is not None}
    derived = build.graph(tuple(found.values()))
    return derived, build.specs, found


def differentiable(op: Op, inputs: tuple[Spec | None, ...]) -> bool:
    """Whether an op on these inputs needs a gradient: some input of floating point that varies (its ``value`` is unknown)
    reaches an output of floating point.

    This is the one rule for what is excepted: ops on integers and booleans, ops whose result is of integers or booleans,
    those that read shapes only (`Op.known`), and those whose result's shape hangs on data (`infer` wants the value).
    """
    varying = [s for s in inputs if s is not None and s.value is None and s.dtype.kind == "f"]
    if not varying or op.known(*inputs) is not None:
        return False
    try:
        found = op.infer(*inputs)
    except ModelError:
        return False
    return any(s.dtype.kind == "f" for s in ((found,) if isinstance(found, Spec) else found))


def missing_gradients(graph: Graph, specs: Mapping[str, Spec], wrt: Iterable[str]) -> list[tuple[str, str, str]]:
    """(node, op, why) of the nodes between the values ``wrt`` and the outputs that have no gradient. ``specs`` as for
    `backprop`."""
    ends = [name for name in graph.outputs if specs[name].dtype.kind == "f"]
    slopes = {f"d/{name}": specs[name]._replace(value=None, constant=False) for name in ends}
    whole = Graph(graph.nodes, {**graph.inputs, **slopes}, dict.fromkeys(ends), graph.constants)
    try:
        backprop(whole, {**specs, **slopes}, {name: f"d/{name}" for name in ends}, wrt)
    except MissingGradients as error:
        return error.nodes
    return []
