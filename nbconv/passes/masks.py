"""Less memory for a training step: where the backward part reads a rectifier's result for its own gradient alone, a byte an
element is kept of it (Cai et al., "TinyTL", 2020, keep a bit). That is so behind layers whose weights are frozen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.infer import BOOL
from nbconv.ops.batch_norm import BatchNormalization
from nbconv.ops.rectifier import GradMask, MaskedGrad
from nbconv.passes.rematerialise import LEAST


def with_masks(graph: Graph, specs: Mapping[str, Spec], forward: int) -> tuple[Graph, dict[str, Spec], int]:
    """(the graph, whose first ``forward`` nodes are the forward part, with masks, its Specs, the new number). What is
    computed has the same bits."""
    front, back = graph.nodes[:forward], graph.nodes[forward:]
    makers = {name: node for node in front for name in node.outputs if name}
    gradients = {id(node) for node in back if node.op.type in ("ReluGrad", "ClipGrad")}
    read = {name for node in back for i, name in enumerate(node.inputs) if not (id(node) in gradients and i == 1)}
    found = dict(specs)
    masks: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in back:
        y = node.inputs[1] if id(node) in gradients else ""
        if not y or y in read or y in graph.outputs or not _alone(makers.get(y), specs, read, makers):
            nodes.append(node)
            continue
        if y not in masks:
            low, high = getattr(node.op, "low", 0.0), getattr(node.op, "high", np.inf)
            masks[y] = Node(GradMask(low=low, high=high), (y,), (f"{y}/mask",), f"{makers[y].name}/mask")
            found[f"{y}/mask"] = Spec(specs[y].shape, BOOL)
        nodes.append(Node(MaskedGrad(), (node.inputs[0], f"{y}/mask"), node.outputs, node.name))
    made = []
    for node in front:
        made.append(node)
        made += [masks[name] for name in node.outputs if name in masks]
    return graph.derive([*made, *nodes]), found, len(made)


def _alone(node: Node | None, specs: Mapping[str, Spec], read: set[str], makers: Mapping[str, Node]) -> bool:
    """Whether a rectifier's result would be kept for its gradient: it is large, and not made again of what is kept."""
    if node is None or node.op.type not in ("Relu", "Clip") or specs[node.outputs[0]].nbytes < LEAST:
        return False
    x = node.inputs[0]
    maker = makers.get(x)
    trains = maker is not None and isinstance(maker.op, BatchNormalization) and maker.op.training_mode
    return x not in read and not trains
