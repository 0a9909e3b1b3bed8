"""The gradients of Relu and batch normalisation in one: what Relu undoes is undone where it is read."""

from __future__ import annotations

from nbconv.graph import Graph, Node
from nbconv.ops.batch_norm import BatchNormalizationGradInput, BatchNormalizationGradScale


def fuse_relu_bn_grad(graph: Graph, keep: frozenset[str]) -> Graph:
    """ReluGrad(dy, y) that only the gradients of a batch normalisation read goes into these."""
    makers, readers = graph.producers(), graph.readers()
    gone: set[int] = set()
    replaced: dict[int, Node] = {}
    for node in graph.nodes:
        if node.op.type != "ReluGrad" or node.outputs[0] in keep or node.outputs[0] in graph.outputs:
            continue
        dx, (dy, y) = node.outputs[0], node.inputs
        users = readers.get(dx, [])
        kinds = (BatchNormalizationGradScale, BatchNormalizationGradInput)
        if not users or any(
            not isinstance(u.op, kinds) or u.op.rectified or u.inputs[0] != dx or dx in u.inputs[1:] for u in users
        ):
            continue
        if y not in makers:
            continue
        gone.add(id(node))
        for u in users:
            replaced[id(u)] = Node(
                type(u.op)(**{**u.op.attributes(), "rectified": 1}), (dy, *u.inputs[1:], y), u.outputs, u.name
            )
    return graph.derive([replaced.get(id(n), n) for n in graph.nodes if id(n) not in gone])
