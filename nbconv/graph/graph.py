"""The graph that everything works on: nodes in order, named values, constants.

Its vocabulary is ONNX's at one inner opset (`OPSET`): converters rewrite older models as they read them, so nothing inside
asks for a version. What ONNX lacks has domain ``nbconv``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph.node import Node
from nbconv.graph.spec import Spec

OPSET = 21
"""The ONNX opset whose operators the inner vocabulary is."""


class Graph:
    """Nodes in topological order over named values.

    ``inputs`` and ``outputs`` map names to Specs as the model declares them (an output's Spec may be None when the model
    does not say); ``constants`` maps names to arrays (possibly read-only views of a mapped file, possibly unaligned:
    never write to them). The authored graph is never changed: a pass takes a Graph and returns a new one.

    ``optional`` maps to Specs those constants that are inputs too: a caller may give them another value.
    ``metadata`` is the model's own (ONNX's metadata_props); ``header`` what else the file says of itself, under ONNX's
    names and only where it says something: producer_name, producer_version, domain, model_version (an int), doc_string,
    and "graph.doc_string". ``provenance`` says where an authored value went that is no longer there:
    ``{"conv1_out": "fused into relu1_out"}``.
    """

    __slots__ = ("constants", "header", "inputs", "metadata", "name", "nodes", "optional", "outputs", "provenance")

    def __init__(
        self,
        nodes: list[Node],
        inputs: dict[str, Spec],
        outputs: dict[str, Spec | None],
        constants: dict[str, np.ndarray],
        name: str = "graph",
        metadata: dict[str, str] | None = None,
        provenance: dict[str, str] | None = None,
        header: dict[str, str | int] | None = None,
        optional: dict[str, Spec] | None = None,
    ) -> None:
        self.nodes = nodes
        self.inputs = inputs
        self.outputs = outputs
        self.constants = constants
        self.name = name
        self.metadata = metadata or {}
        self.provenance = provenance or {}
        self.header = header or {}
        self.optional = {n: s for n, s in (optional or {}).items() if n in constants}

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.nodes)} nodes>"

    def __str__(self) -> str:
        from nbconv.graph.listing import listing

        return listing(self)

    def derive(
        self,
        nodes: list[Node],
        constants: dict[str, np.ndarray] | None = None,
        provenance: dict[str, str] | None = None,
    ) -> Graph:
        """A graph with the same inputs and outputs but other nodes: what a pass returns. ``provenance`` is added."""
        return Graph(
            nodes,
            self.inputs,
            self.outputs,
            self.constants if constants is None else constants,
            self.name,
            self.metadata,
            {**self.provenance, **(provenance or {})},
            self.header,
            self.optional,
        )

    def fed(self, names: Iterable[str]) -> Graph:
        """The graph with these of its `optional` constants as inputs."""
        given = {name: self.optional[name] for name in names}
        constants = {name: value for name, value in self.constants.items() if name not in given}
        return Graph(self.nodes, {**self.inputs, **given}, self.outputs, constants, self.name, optional=self.optional)

    def producers(self) -> dict[str, Node]:
        """Which node makes each value (graph inputs and constants have none)."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def readers(self) -> dict[str, list[Node]]:
        """The nodes that read each value, once per reading; being a graph output does not count."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                if name:
                    found.setdefault(name, []).append(node)
        return found

    def values(self) -> Iterator[str]:
        """Names of the values that nodes make, in order."""
        for node in self.nodes:
            yield from (name for name in node.outputs if name)


def sort(nodes: list[Node], known: set[str]) -> list[Node]:
    """Nodes in topological order (stable). ``known``: inputs and constants. Raises ModelError for a cycle, a value made
    twice and a value nobody makes; iterative, so deep graphs are safe."""
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.outputs:
            if not name:
                continue
            if name in maker or name in known:
                raise ModelError(f"{node.name} ({node.op.type}): the value {name!r} is made twice")
            maker[name] = index
    waiting = [0] * len(nodes)
    feeds: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for name in node.inputs:
            if not name or name in known:
                continue
            if name not in maker:
                raise ModelError(
                    f"{node.name} ({node.op.type}): reads {name!r}, which is no input, no initializer and no node's output"
                )
            feeds[maker[name]].append(index)
            waiting[index] += 1
    if all(index < reader for index, readers in enumerate(feeds) for reader in readers):
        return nodes
    import heapq

    ready = [index for index, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for reader in feeds[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, waiting, strict=True) if count)
        raise ModelError(f"{stuck.name} ({stuck.op.type}): the graph has a cycle through this node")
    return order
