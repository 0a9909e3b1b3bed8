"""Puts dropout to work in a graph that is trained."""

from __future__ import annotations

import numpy as np

from nbconv.errors import UnsupportedError
from nbconv.graph import Graph, Node
from nbconv.ops.dropout import TrainingDropout


def with_dropout(graph: Graph, step: str, seed: int) -> Graph:
    """The graph with its Dropout nodes dropping: each becomes a `TrainingDropout` that reads the step number from the value
    ``step``, a scalar. Streams are numbered in the order of the nodes; a node's own ``seed`` goes before ``seed``. Raises
    UnsupportedError where somebody reads the mask, or a ratio is not a constant."""
    readers, nodes, count = graph.readers(), [], 0
    for node in graph.nodes:
        if node.op.type != "Dropout":
            nodes.append(node)
            continue
        if any(name and (name in readers or name in graph.outputs) for name in node.outputs[1:]):
            raise UnsupportedError(f"{node.name} (Dropout): its mask is read, training has none")
        x, ratio = node.inputs[0], np.asarray(0.5)
        if len(node.inputs) > 1 and node.inputs[1]:
            if node.inputs[1] not in graph.constants:
                raise UnsupportedError(f"{node.name} (Dropout): its ratio is computed, training wants a constant")
            ratio = graph.constants[node.inputs[1]]
        own = getattr(node.op, "seed", None)
        op = TrainingDropout(ratio=float(ratio.reshape(())), seed=seed if own is None else own, stream=count)
        nodes.append(Node(op, (x, step), node.outputs[:1], node.name))
        count += 1
    return graph.derive(nodes)
