"""Less memory for a training step: forward values that the backward part would have kept are computed again there.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. What is computed again has the same bits, updates no
statistics and draws no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.op import Op
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.linear import MatMul

LEAST = 64 << 10
"""Bytes of a value that is worth it."""
FAR = 16
"""Nodes after which a cheap value that was computed again is not kept for its next reader, but computed once more."""


def cheap(node: Node, spec: Spec) -> bool:
    """Whether a value is computed again in a usual plan."""
    return node.op.is_cheap and spec.nbytes >= LEAST


def repeatable(node: Node) -> bool:
    """Whether a node can be done a second time: it draws nothing, and what it changes besides is left out then."""
    if isinstance(node.op, BatchNormalization) and node.op.training_mode:
        return len(node.outputs) == 5 and all(node.outputs[3:])
    return plain(node.op) and node.op.pure and len(node.outputs) == 1


def plain(op: Op) -> bool:
    """Whether it is one that models have, or what stands for several of these."""
    return not op.domain or op.is_cheap or isinstance(op, MatMul)


def rematerialise(graph: Graph, specs: Mapping[str, Spec], forward: int, again: Callable[[Node, Spec], bool]) -> Graph:
    """The graph, whose first ``forward`` nodes are the forward part, with clones of some of these before the backward nodes
    that read their first outputs: of those that ``again`` (node, its first output's Spec) says need not be kept."""
    makers = {
        node.outputs[0]: (i, node)
        for i, node in enumerate(graph.nodes[:forward])
        if repeatable(node) and node.outputs[0] not in graph.outputs and again(node, specs[node.outputs[0]])
    }
    nodes = list(graph.nodes[:forward])
    clones: dict[str, tuple[str, int]] = {}
    count = 0

    def fresh(name: str) -> bool:
        return name in clones and (len(nodes) - clones[name][1] <= FAR or not cheap(makers[name][1], specs[name]))

    def prepare(names: tuple[str, ...]) -> tuple[str, ...]:
        """The names under which a backward node reads these, after the clones it needs."""
        nonlocal count
        todo, needed = list(names), set()
        while todo:
            name = todo.pop()
            if name in makers and name not in needed and not fresh(name):
                needed.add(name)
                todo.extend(makers[name][1].inputs)
        for _, node in sorted((makers[n] for n in needed), key=lambda m: m[0]):
            y, op, inputs = node.outputs[0], node.op, tuple(clones[n][0] if n in makers else n for n in node.inputs)
            if isinstance(op, BatchNormalization) and op.training_mode:
                inputs, op = (*inputs[:3], *node.outputs[3:5]), BatchNormalization(epsilon=op.epsilon)
            count += 1
            clones[y] = f"{y}/again{count}", len(nodes)
            nodes.append(Node(op, inputs, clones[y][:1], f"{node.name}/again"))
        for name in names:
            if name in makers:
                clones[name] = clones[name][0], len(nodes)
        return tuple(clones[n][0] if n in makers else n for n in names)

    for node in graph.nodes[forward:]:
        inputs = prepare(node.inputs)
        nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.outputs, node.name))
    return graph.derive(nodes)


def sums_early(graph: Graph, forward: int) -> Graph:
    """The graph with each sum behind the ``forward`` first nodes moved to where both of its operands are there: one array
    lives on instead of two."""
    made = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
    place: dict[int, float] = {}
    for i, node in enumerate(graph.nodes):
        place[i] = i
        if i >= forward and node.op.type == "Add":
            place[i] = max(forward, *(place[made[n]] for n in node.inputs if n in made)) + 1e-6
    order = sorted(range(len(graph.nodes)), key=lambda i: (place[i], i))
    return graph.derive([graph.nodes[i] for i in order])
