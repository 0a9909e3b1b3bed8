"""Results whose length values decide, in memory that any of them fits in (`Op.bound`).

Then kernels find them in one plan with what is before them, and only what reads them waits until their length is known.
"""

from __future__ import annotations

from nbconv.graph import Graph, Node
from nbconv.ops.select import Cut


def bounded(graph: Graph) -> Graph:
    """The graph with two nodes for each whose op has a bound: one that finds everything, and the `Cut` of it."""
    nodes: list[Node] = []
    taken = {*graph.values(), *graph.inputs, *graph.constants}
    for node in graph.nodes:
        found = node.op.bound()
        if found is None:
            nodes.append(node)
            continue
        (op, axis), output = found, node.outputs[0]
        while not taken.isdisjoint(room := (f"{output}#room", f"{output}#count")):
            output += "#"
        taken.update(room)
        nodes.append(Node(op, node.inputs, room, node.name))
        nodes.append(Node(Cut(axis=axis, of=node.op.type), room, node.outputs, node.name))
    if len(nodes) == len(graph.nodes):
        return graph
    return Graph(nodes, graph.inputs, graph.outputs, graph.constants, graph.name, graph.metadata, graph.provenance)
