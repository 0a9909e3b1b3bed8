"""Less memory for a training step: where the backward part reads a rectifier's result for its own gradient alone, a byte an
element is kept of it (Cai et al., "TinyTL", 2020, keep a bit). That is so behind layers whose weights are frozen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nbconv.graph import Graph, Node, Spec
from nbconv.graph.infer import BOOL
from nbconv.ops.rectifier import GradMask, MaskedGrad
from nbconv.passes.rematerialise import LEAST, repeatable


def with_masks(graph: Graph, specs: Mapping[str, Spec], forward: int) -> tuple[Graph, dict[str, Spec], int]:
    """(the graph, whose first ``forward`` nodes are the forward part, with masks, its Specs, the new number). What is
    computed has the same bits."""
    front, back = graph.nodes[:forward], graph.nodes[forward:]
    makers = {name: node for node in front for name in node.outputs if name}
    gradients = {id(node) for node in back if node.op.type in ("ReluGrad", "ClipGrad")}
    asides = gradients | {id(node) for node in back if node.op.type == "ExpandLike"}  # whose input 1 says a shape
    read = {name for node in back for i, name in enumerate(node.inputs) if i != 1 or id(node) not in asides}
    found = dict(specs)
    masks: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in back:
        y = node.inputs[1] if id(node) in gradients else ""
        if not y or y in graph.outputs or not _kept_for_it(y, specs, read, makers):
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


def _kept_for_it(y: str, specs: Mapping[str, Spec], read: set[str], makers: Mapping[str, Node]) -> bool:
    """Whether a rectifier's result is large and would be kept for its gradient: neither for others, nor computed again of
    what is kept."""
    if y not in makers or makers[y].op.type not in ("Relu", "Clip") or specs[y].nbytes < LEAST:
        return False
    todo, seen = [y], {y}
    while todo:
        name = todo.pop()
        if name in read or name not in makers:
            continue
        node = makers[name]
        if not node.op.is_cheap or not repeatable(node):
            return True
        todo += [n for n in node.inputs if n and n not in seen]
        seen.update(node.inputs)
    return False
