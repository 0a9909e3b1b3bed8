"""Less memory for a training step: forward values that the backward part would have kept are computed again there.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. What is computed again has the same bits, updates no
statistics and draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nbconv.graph import Graph, Node, Spec
from nbconv.ops.batch_norm import BatchNormalization

CHEAP = frozenset(("BatchNormalization", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Silu", "Sigmoid", "Concat"))
"""Ops that cost little more than reading and writing their arrays."""
LEAST = 64 << 10
"""Bytes of a value that is worth it."""
FAR = 16
"""Nodes after which a value that was computed again is not kept for its next reader, but computed once more."""


def cheap(node: Node, spec: Spec) -> bool:
    """Whether a value is computed again in a usual plan."""
    return node.op.type in CHEAP and spec.nbytes >= LEAST


def repeatable(node: Node) -> bool:
    """Whether a node can be done a second time: it draws nothing, and what it changes besides is left out then."""
    return not node.op.domain and node.op.pure and (len(node.outputs) == 1 or isinstance(node.op, BatchNormalization))


def recompute(graph: Graph, specs: Mapping[str, Spec], forward: int, again: Callable[[Node, Spec], bool]) -> Graph:
    """The graph, whose first ``forward`` nodes are the forward part, with clones of some of these before the backward nodes
    that read their first outputs: of those that ``again`` (node, its first output's Spec) says need not be kept."""
    makers: dict[str, Node] = {}
    for node in graph.nodes[:forward]:
        if repeatable(node) and again(node, specs[node.outputs[0]]):
            makers[node.outputs[0]] = node
    nodes = list(graph.nodes[:forward])
    clones: dict[str, tuple[str, int]] = {}

    def clone(name: str) -> str:
        node = makers.get(name)
        if node is None or name in graph.outputs:
            return name
        current, used = clones.get(name, ("", 0))
        if not current or len(nodes) - used > FAR:
            inputs, op = tuple(clone(n) for n in node.inputs), node.op
            if isinstance(op, BatchNormalization) and op.training_mode:
                if len(node.outputs) < 5 or not (node.outputs[3] and node.outputs[4]):
                    return name
                inputs, op = (*inputs[:3], *node.outputs[3:5]), BatchNormalization(epsilon=op.epsilon)
            current = f"{current or name}/again"
            nodes.append(Node(op, inputs, (current,), f"{node.name}/again"))
        clones[name] = current, len(nodes)
        return current

    for node in graph.nodes[forward:]:
        inputs = tuple(clone(n) for n in node.inputs)
        nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
    return graph.derive(nodes)
