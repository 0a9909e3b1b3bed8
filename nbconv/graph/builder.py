"""Adds nodes to a graph, one at a time, knowing the Spec of each value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nbconv.graph.graph import Graph
from nbconv.graph.node import Node
from nbconv.graph.op import Op
from nbconv.graph.spec import Spec, spec_of


class Builder:
    """A graph under construction: ``add`` puts a node behind those there are, and infers what it makes.

    ``specs`` are the Specs of all values of ``graph`` (all dimensions known). New values are called
    ``<prefix><op>~<number>``. The graph given is not changed; `graph` is the one with the new nodes.
    """

    def __init__(self, graph: Graph, specs: Mapping[str, Spec], prefix: str = "loss/") -> None:
        self._graph, self._prefix, self._count = graph, prefix, 0
        self.specs: dict[str, Spec] = dict(specs)
        self.nodes = list(graph.nodes)
        self.constants: dict[str, np.ndarray] = dict(graph.constants)
        self.inputs: dict[str, Spec] = dict(graph.inputs)

    def _name(self, stem: str) -> str:
        while True:
            self._count += 1
            name = f"{self._prefix}{stem}~{self._count}"
            if name not in self.specs:
                return name

    def spec(self, name: str) -> Spec:
        """The Spec of a value."""
        return self.specs[name]

    def input(self, name: str, spec: Spec) -> str:
        """A new input of the graph."""
        self.inputs[name] = self.specs[name] = spec
        return name

    def constant(self, value: Any) -> str:
        """The name of a constant with this value (given its dtype)."""
        name, value = self._name("constant"), np.asarray(value)
        self.constants[name], self.specs[name] = value, spec_of(value)
        return name

    def add(self, op: Op, *inputs: str) -> str:
        """A new node; the name of its first output. An input "" is left out."""
        return self.add_many(op, 1, *inputs)[0]

    def add_many(self, op: Op, count: int, *inputs: str) -> tuple[str, ...]:
        """A new node; the names of its first ``count`` outputs."""
        node = Node(op, inputs, tuple(self._name(op.type) for _ in range(count)))
        found = node.infer(tuple(self.specs[n] if n else None for n in inputs))
        self.specs.update(zip(node.outputs, found, strict=False))
        self.nodes.append(node)
        return node.outputs

    def graph(self, outputs: tuple[str, ...] = ()) -> Graph:
        """The graph with the new nodes; ``outputs`` are added to those it had."""
        old = self._graph
        return Graph(
            self.nodes,
            self.inputs,
            {**old.outputs, **dict.fromkeys(outputs)},
            self.constants,
            old.name,
            old.metadata,
            old.provenance,
            old.header,
        )
