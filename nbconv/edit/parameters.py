"""What can be trained in a model: its parameters, where they stand, and which of them a user means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from nbconv.graph import Graph, Node


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
            if direct and graph.constants[origin[0]].dtype.kind != "f":
                continue
            found[origin[1]] = Parameter(*origin, node, max(len(layers) - 1 - max(last, 0), 0))
    return list(found.values())


def _layer(node: Node, graph: Graph, made: dict[str, Node]) -> bool:
    return node.op.is_layer and stored(node.inputs[1], graph, made) is not None


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


def select(
    graph: Graph, trainable: str | Iterable[str], frozen: frozenset[str] = frozenset(), output: str = ""
) -> list[Parameter]:
    """The parameters that ``trainable`` names: "all", "head" (those of the classifier), "last:k" (of the last k layers), or
    globs over names of parameters and of nodes. ``frozen`` names parameters to leave alone. ValueError where nothing is
    left, or a glob fits nothing."""
    known = parameters(graph)
    if trainable == "all":
        chosen = known
    elif trainable == "head":
        from nbconv.edit.head import find_head

        head = find_head(graph, output)
        names = {name for name in (head.weight, head.bias) if name}
        chosen = [p for p in known if p.value in names or p.name in names]
    elif isinstance(trainable, str) and trainable.startswith("last:"):
        count = _count(trainable)
        chosen = [p for p in known if p.depth < count]
    else:
        globs = [trainable] if isinstance(trainable, str) else list(trainable)
        chosen = []
        for glob in globs:
            fits = [p for p in known if fnmatchcase(p.name, glob) or fnmatchcase(p.node.name, glob)]
            if not fits:
                some = ", ".join(p.name for p in known[-3:])
                raise ValueError(f"trainable {glob!r} fits no parameter; the last are {some}")
            chosen += fits
        chosen = [p for p in known if p in chosen]
    chosen = [p for p in chosen if p.value not in frozen and p.name not in frozen]
    if not chosen:
        raise ValueError(f"trainable {trainable!r} leaves nothing to train: {len(known)} parameters, {len(frozen)} frozen")
    return chosen


def _count(text: str) -> int:
    digits = text.removeprefix("last:")
    if not digits.isdigit() or int(digits) < 1:
        raise ValueError(f"trainable is {text!r}, wanted last:1, last:2, …")
    return int(digits)


def until(graph: Graph, name: str) -> frozenset[str]:
    """The parameters that ``name`` (of a node, value or parameter) hangs on, its own included: what `Model.freeze` keeps."""
    made = graph.producers()
    nodes = [n for n in graph.nodes if n.name == name or name in n.outputs or name in n.inputs[1:]]
    if not nodes:
        raise ValueError(f"the model has no node, value or parameter {name!r}")
    todo, seen = [nodes[0]], set()
    while todo:
        node = todo.pop()
        if id(node) not in seen:
            seen.add(id(node))
            todo += [made[n] for n in node.inputs if n in made]
    return frozenset(p.value for p in parameters(graph) if id(p.node) in seen)


def norms(graph: Graph, chosen: Sequence[Parameter]) -> list[Node]:
    """The batch normalisations that train: those of whose scale or shift a parameter is chosen."""
    names = {p.value for p in chosen}
    return [n for n in graph.nodes if n.op.type == "BatchNormalization" and not names.isdisjoint(n.inputs[1:3])]
