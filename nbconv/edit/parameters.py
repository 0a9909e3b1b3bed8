"""What can be trained in a model: its parameters, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nbconv.graph import Graph, Node
from nbconv.graph.dtypes import kind_of
from nbconv.graph.infer import dtype_of


class Parameter(NamedTuple):
    """A trainable weight: the initializer's ``name``, the ``value`` in which the graph reads it, the ``node`` that does
    first, and how many layers lie between that and the output (``depth`` 0: the last)."""

    name: str
    value: str
    node: Node
    depth: int


def stored(name: str, graph: Graph, made: dict[str, Node]) -> tuple[str, str] | None:
    """(initializer, value in which it is read) behind a slot; None where the slot's value is computed from inputs."""
    if name in graph.constants:
        return name, name
    node = made.get(name)
    if node is not None and node.op.rearranges:
        return stored(node.inputs[0], graph, made)
    value = name
    while node is not None and node.op.converts:
        name = node.inputs[0]
        if name in graph.constants:
            return name, value
        node = made.get(name)
    return None


def parameters(graph: Graph) -> list[Parameter]:
    """All that can be trained, in the order in which nodes read it: floating-point (or dequantised) initializers in slots
    that an op declares as parameters, and what is added to a MatMul's result."""
    made, found = graph.producers(), {}
    layers = [node for node in graph.nodes if _layer(node, graph, made)]
    place = {id(node): i for i, node in enumerate(layers)}
    last = -1
    for node in graph.nodes:
        last = place.get(id(node), last)
        for i in _slots(node, made):
            if i >= len(node.inputs) or not node.inputs[i]:
                continue
            origin = stored(node.inputs[i], graph, made)
            if origin is None or origin[1] in found:
                continue
            direct = origin[0] == origin[1]
            if direct and kind_of(graph.constants[origin[0]].dtype) != "f":
                continue
            found[origin[1]] = Parameter(*origin, node, max(len(layers) - 1 - max(last, 0), 0))
    return list(found.values())


def _layer(node: Node, graph: Graph, made: dict[str, Node]) -> bool:
    return node.op.is_layer and len(node.inputs) > 1 and stored(node.inputs[1], graph, made) is not None


def _slots(node: Node, made: dict[str, Node]) -> Sequence[int]:
    if node.op.type == "Add":  # a bias, as exporters write it behind MatMul
        makers = [made.get(name) for name in node.inputs]
        return [1 - i for i, maker in enumerate(makers) if maker is not None and maker.op.type == "MatMul"]
    return node.op.parameters


def master(parameter: Parameter, graph: Graph) -> np.ndarray:
    """The parameter's value as float32, writeable."""
    made = graph.producers()

    def value(name: str) -> np.ndarray:
        if name in graph.constants:
            return graph.constants[name]
        node = made[name]
        found = node.op.reference(*(value(n) if n else None for n in node.inputs))
        return found[0] if isinstance(found, tuple) else found

    return np.array(value(parameter.value), np.float32)


def type_of(value: str, graph: Graph) -> np.dtype:
    """The element type of a parameter where the graph reads it."""
    made = graph.producers()
    while value not in graph.constants:
        node = made[value]
        kind = getattr(node.op, "to", 0) or getattr(node.op, "output_dtype", 0)
        if kind:
            return dtype_of(kind)
        value = node.inputs[1 if len(node.inputs) > 1 else 0]  # a scale's type, or a CastLike's
    return graph.constants[value].dtype


def norms(graph: Graph, chosen: Sequence[Parameter]) -> list[Node]:
    """The batch normalisations that train: those of whose scale or shift a parameter is chosen."""
    names = {p.value for p in chosen}
    return [n for n in graph.nodes if n.op.type == "BatchNormalization" and not names.isdisjoint(n.inputs[1:3])]
