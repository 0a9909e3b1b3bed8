"""A scale and a shift a channel behind convolutions whose batch normalisation was folded away: they train as the norm's did,
start as the identity, and go back into the convolution when the model is used or saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from nbconv.edit.parameters import Parameter
from nbconv.graph import Graph, Node
from nbconv.ops.pointwise import Add, Mul

State = Mapping[str, np.ndarray]


def repaired(graph: Graph, chosen: Sequence[Parameter]) -> tuple[Graph, list[Parameter], Callable[[State], State]]:
    """(the graph with scales and shifts, these as parameters, what makes weights for the graph as it was from a state).

    A convolution gets them where its weight and its bias train and nothing else reads either. ValueError where none does.
    """
    known = {p.value: p for p in chosen}
    readers = graph.readers()
    nodes, extra, pairs, constants = [], [], [], dict(graph.constants)
    for node in graph.nodes:
        w, b = (*node.inputs[1:3], "", "")[:2]
        alone = w in known and b in known and len(readers[w]) == len(readers[b]) == 1
        if node.op.type != "Conv" or not alone or graph.producers().get(w) or graph.producers().get(b):
            nodes.append(node)
            continue
        channels, rank = graph.constants[b].shape[0], graph.constants[w].ndim
        scale, shift, y = f"{w}/scale", f"{w}/shift", node.outputs[0]
        constants[scale] = np.ones((channels, *[1] * (rank - 2)), graph.constants[b].dtype)
        constants[shift] = np.zeros((channels, *[1] * (rank - 2)), graph.constants[b].dtype)
        nodes += [
            Node(node.op, node.inputs, (f"{y}/plain",), node.name),
            Node(Mul(), (f"{y}/plain", scale), (f"{y}/scaled",), f"{node.name}/scale"),
            Node(Add(), (f"{y}/scaled", shift), (y,), f"{node.name}/shift"),
        ]
        extra += [Parameter(n, n, node, known[w].depth) for n in (scale, shift)]
        pairs.append((w, b, scale, shift))
    if not pairs:
        raise ValueError("repair: no convolution with a bias trains")

    def back(state: State) -> State:
        found = dict(state)
        for w, b, scale, shift in pairs:
            s, weight = state[scale].astype(np.float64).ravel(), state[w].astype(np.float64)
            found[w] = (weight * s.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
            found[b] = (state[b] * s + state[shift].ravel()).astype(np.float32)
        return found

    return graph.derive(nodes, constants), extra, back
